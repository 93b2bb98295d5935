"""The server's door: finite updates pass, attackers' broken ones are refused, an honest broken one stops the run."""

from __future__ import annotations

import pytest
import torch

from benchmark.errors import FedSafetyError
from benchmark.training.door import admitted, check_final, checked_start
from benchmark.updates import AdapterLayout, Updates


def sent(*values: float) -> Updates:
    matrix = torch.tensor([[value, 1.0] for value in values])
    ids = tuple(f"c{i}" for i in range(len(values)))
    return Updates(matrix, ids, torch.ones(len(values), dtype=torch.float64), AdapterLayout(("a",), ((2,),)))


def test_finite_updates_pass_as_they_are() -> None:
    updates = sent(1.0, 2.0)
    assert admitted(updates, frozenset()) == (updates, ())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])  # the square of 1e30 overflows in float32
def test_what_has_no_finite_norm_is_refused(value: float) -> None:
    received, refused = admitted(sent(1.0, value, 3.0), frozenset({"c1"}))
    assert refused == ("c1",)
    assert received.client_ids == ("c0", "c2")
    assert received.matrix.tolist() == [[1.0, 1.0], [3.0, 1.0]]
    with pytest.raises(FedSafetyError, match=r"honest client c1 is not finite: training diverged; lower"):
        admitted(sent(1.0, value, 3.0), frozenset({"c0"}))


START = torch.tensor([1.0, 2.0])


def test_a_returned_start_is_a_copy_and_none_keeps_the_suites() -> None:
    assert checked_start(None, START, "mine") is START
    returned = torch.tensor([3.0, 4.0], requires_grad=True)
    start = checked_start(returned, START, "mine")
    assert start.tolist() == [3.0, 4.0]
    assert not start.requires_grad
    with torch.no_grad():
        returned.zero_()
    assert start.tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        (torch.zeros(3), r"a start of torch.float32 of shape \(3,\)"),
        (torch.zeros(2, 1), r"a start of torch.float32 of shape \(2, 1\)"),
        (torch.zeros(2, dtype=torch.float64), r"a start of torch.float64 of shape \(2,\)"),
        (torch.zeros(2, dtype=torch.bfloat16), r"a start of torch.bfloat16 of shape \(2,\)"),
        (torch.tensor([1.0, float("nan")]), r"a start of shape \(2,\) with values that are not finite"),
        ([1.0, 2.0], "list as the start"),
    ],
)
def test_another_start_is_refused_by_name_with_shape_and_rule(returned: torch.Tensor, problem: str) -> None:
    rule = r"return a finite torch.float32 tensor of shape \(2,\), or None to keep the suite's start"
    with pytest.raises(FedSafetyError, match=rf"^prepare\(\) of 'mine' returned {problem}; {rule}$"):
        checked_start(returned, START, "mine")


LAYOUT = AdapterLayout(("x.lora_A", "x.lora_B"), ((2, 3), (4, 2)))


@pytest.mark.parametrize("rank", [2, 3, 512])
def test_a_final_adapter_may_have_a_higher_rank(rank: int) -> None:
    check_final(torch.zeros(7 * rank), LAYOUT, "mine")


@pytest.mark.parametrize(
    ("adapter", "problem"),
    [
        (torch.zeros(7), r"of shape \(7,\)"),
        (torch.zeros(15), r"of shape \(15,\)"),
        (torch.zeros(7 * 513), r"of shape \(3591,\)"),
        (torch.zeros(7, 2), r"of shape \(7, 2\)"),
        (torch.full((14,), float("nan")), "values that are not finite"),
        (None, "NoneType as the adapter"),
    ],
)
def test_a_final_adapter_that_no_engine_serves_is_refused(adapter: torch.Tensor, problem: str) -> None:
    with pytest.raises(FedSafetyError, match=rf"finalize\(\) of 'mine' returned .*{problem}.*; return a finite .* 14"):
        check_final(adapter, LAYOUT, "mine")
