"""What can be said of Flower strategies where Flower is not installed, and the environment that holds it."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.errors import UsageError
from benchmark.interop.arrays import Broadcast
from benchmark.interop.flower import deploy, to_flower
from defenses.base import Defense, defenses

ROOT = Path(__file__).resolve().parent.parent.parent


def test_flower_is_not_here() -> None:
    assert "flwr" not in sys.modules
    with pytest.raises(
        UsageError, match=r"Flower is not installed.*pip install 'flwr\[simulation\]>=1.41,<2' in an env"
    ):
        to_flower("krum", declared_malicious=1, rounds=3)


# Which defenses can be deployed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("attackers_removed", "attackers_removed must be told who is malicious, which no real server is"),
        ("attackers_removed+posthoc_public", "attackers_removed must be told who is malicious"),
        ("keep_initial", "keep_initial is a reference row and defends no federation"),
        ("krum+refuse_all", "is a reference row and defends no federation"),
        ("krumm", "unknown defense 'krumm'; did you mean 'krum'?"),
        ("krum+posthoc_public", "acts after the last round, with tools that a server must own"),
    ],
)
def test_what_cannot_be_deployed_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        to_flower(name, declared_malicious=1, rounds=3)


def test_an_instance_is_known_by_its_class() -> None:
    with pytest.raises(UsageError, match="attackers_removed must be told"):
        deploy(defenses.get("attackers_removed").create())
    assert deploy(defenses.get("krum").create()).name == "krum"

    class Mine(Defense):
        pass

    assert deploy(Mine()).name == "Mine"


def test_members_act_at_their_moments() -> None:
    deployed = deploy("krum+posthoc_public")
    assert type(deployed.aggregator) is defenses.get("krum").target
    assert [type(member) for member in deployed.finalizers] == [defenses.get("posthoc_public").target]
    assert deployed.servers == ()
    alone = deploy("posthoc_public")
    assert type(alone.aggregator).aggregate is Defense.aggregate
    assert alone.needs_server == "after the last round"

    class Asking(Defense):
        pass

    assert replace(deploy(Asking()), asks_server=True).needs_server == "in each round"
    assert deploy("byzfl:TrMean(f=1)").name == "byzfl:TrMean(f=1)"


@pytest.mark.parametrize("numbers", [{"declared_malicious": -1, "rounds": 1}, {"declared_malicious": 0, "rounds": 0}])
def test_numbers_out_of_range_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="the bound is 0 or more, and there is at least one round"):
        to_flower("krum", **numbers)


# Models as named arrays

SENT = Broadcast(
    {
        "b": np.array([[1.0, 2.0]], dtype=np.float32),
        "count": np.array(7),
        "a": np.array(0.5, dtype=np.float64),
    }
)


def test_the_flat_vector_has_the_order_of_the_model_and_leaves_other_numbers_out() -> None:
    assert SENT.layout.names == ("b", "a")
    assert SENT.layout.shapes == ((1, 2), (1,))
    assert SENT.flat.tolist() == [1.0, 2.0, 0.5]
    assert SENT.flat.dtype == torch.float32


def test_an_update_is_what_a_client_changed() -> None:
    client = {"b": np.array([[1.5, 2.0]], np.float32), "count": np.array(9), "a": np.array(0.25)}
    assert SENT.update_of(client).tolist() == [0.5, 0.0, -0.25]
    moved = SENT.plus(torch.tensor([1.0, -1.0, 0.5]))
    assert {name: array.tolist() for name, array in moved.items()} == {"b": [[2.0, 1.0]], "count": 7, "a": 1.0}
    assert [array.dtype for array in moved.values()] == [array.dtype for array in SENT.arrays.values()]
    assert {name: array.tolist() for name, array in SENT.replaced(torch.zeros(3)).items()} == {
        "b": [[0.0, 0.0]],
        "count": 7,
        "a": 0.0,
    }


def test_small_differences_of_large_float64_numbers_survive() -> None:
    model = Broadcast({"x": np.array([1e9])})
    assert model.update_of({"x": np.array([1e9 + 0.5])}).tolist() == [0.5]


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.array(["w"]), "<U1"),
        (np.array([b"w"]), "|S1"),
        (np.array([None]), "object"),
        (np.array([1j]), "complex128"),
        (np.array([b"ab"], dtype="V2"), "|V2"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "datetime64[D]"),
        (np.zeros(4, np.int8), "int8"),
        (np.zeros(4, np.uint8), "uint8"),
    ],
)
def test_arrays_that_cannot_be_averaged_are_refused(array: np.ndarray[Any, Any], kind: str) -> None:
    with pytest.raises(UsageError, match=r"array 'odd' holds .*" + re.escape(kind)):
        Broadcast({"x": np.array([1.0]), "odd": array})


def test_positions_counters_and_masks_stay_as_they_were_sent() -> None:
    kept = {"positions": np.arange(4), "mask": np.array([True, False]), "bits": np.array(8, np.uint8)}
    model = Broadcast({"x": np.array([1.0]), **kept})
    moved = model.plus(torch.ones(1))
    assert all(moved[name] is array for name, array in kept.items())


def test_the_first_changed_array_by_name_is_named() -> None:
    tables = {name: np.arange(4) for name in ("zeta", "beta", "alpha", "gamma", "delta", "omega")}
    model = Broadcast({"x": np.array([1.0]), **tables})
    with pytest.raises(ValueError, match="array 'alpha' of type int64 was changed"):
        model.update_of({"x": np.array([1.0]), **{name: table + 1 for name, table in tables.items()}})


@pytest.mark.parametrize("changed", [np.arange(1, 5), np.arange(4, dtype=np.int32), np.arange(3)])
def test_a_change_of_whole_numbers_is_refused_and_not_lost(changed: np.ndarray[Any, Any]) -> None:
    model = Broadcast({"x": np.array([1.0]), "packed": np.arange(4)})
    assert model.update_of({"x": np.array([2.0]), "packed": np.arange(4)}).tolist() == [1.0]
    with pytest.raises(ValueError, match="array 'packed' of type int64 was changed"):
        model.update_of({"x": np.array([2.0]), "packed": changed})


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e300])
def test_a_model_that_is_not_finite_blames_no_client(number: float) -> None:
    with pytest.raises(UsageError, match="array 'b' of the model holds a number that is not finite in float32"):
        Broadcast({"a": np.array([1.0]), "b": np.array([number])})


def test_a_sum_too_large_for_its_type_is_refused() -> None:
    with pytest.raises(UsageError, match="array 'x' with the round's update is not finite in float16"):
        Broadcast({"x": np.array([6e4], np.float16)}).plus(torch.tensor([6e4]))


def test_an_entry_that_is_no_array_is_named() -> None:
    with pytest.raises(UsageError, match="entry 'a' is a list and no array"):
        Broadcast({"a": [1.0]})  # type: ignore[dict-item]


# The environment


def test_its_lock_is_exact_and_holds_no_build_of_torch() -> None:
    lines = [line for line in (ROOT / "requirements-flower.lock").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; .+)?", line)] == []
    names = {line.partition("==")[0] for line in lines}
    assert len(names) == len(lines)
    assert {"flwr", "ray", "numpy", "pydantic", "pytest", "setuptools"} <= names
    assert not [
        name for name in names if name.startswith(("torch", "nvidia", "cuda", "triton", "vllm", "transformers"))
    ]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A checkout with the inputs of ``.ci/flower``, and a Python that makes no environments."""
    (tmp_path / ".ci").mkdir()
    shutil.copy2(ROOT / ".ci" / "flower", tmp_path / ".ci" / "flower")
    for name in ("pyproject.toml", "requirements-torch.txt", "requirements-flower.lock"):
        shutil.copy2(ROOT / name, tmp_path / name)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'no venv here' >&2\nexit 1\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return tmp_path


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_where_it_cannot_be_made_that_is_said_and_fails_under_ci(broken: Path, ci: str, status: int) -> None:
    environment = os.environ | {"PYTHON": str(broken / "python"), "CI": ci}
    done = subprocess.run(
        [broken / ".ci" / "flower"], capture_output=True, text=True, env=environment, cwd=broken, check=False
    )
    assert done.returncode == status
    assert "NOT RUN: the Flower strategy's tests, because .venv-flower could not be made" in done.stdout
    assert "no venv here" in done.stderr


def test_make_test_all_ends_with_it_and_keeps_the_status_of_the_other_tests() -> None:
    done = subprocess.run(["make", "-n", "-o", "env", "test-all"], capture_output=True, text=True, cwd=ROOT, check=True)
    recipe = done.stdout.replace("\\\n", "")
    chosen = r'pytest .*"\(slow or real_data\) and not exhaustive" '
    assert re.search(chosen + r"; status=\$\?; PYTHON=\S+ \.ci/flower && exit \$status", recipe)
