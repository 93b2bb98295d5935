from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from scipy.stats import kendalltau
from statsmodels.stats import inter_rater

from benchmark.errors import FedSafetyError
from benchmark.records.schemas import TABLES
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import Rows, load_rows
from leaderboard.scores.cells import CellScore, scores
from leaderboard.scores.summaries import OVERALL
from leaderboard.views.agreement import Agreement, AgreementView, Calibration, Parsing, RankAgreement, agreement

from ..synthetic import SMALL, cell_row, make_rows, table_of, write_rows, write_tables

RESULTS = Path(__file__).parents[3] / "results"
LETTERS = {
    "harmful": {"+": "harmless", "-": "harmful", "?": "unparsable"},
    "over_refusal": {"+": "refused", "-": "answered", "?": "unparsable"},
}
Row = dict[str, Any]


def _probe(kind: str, stratum: str, index: int, scored: bool = True) -> Row:
    return {
        "probe_set": cell_row()["probe_set"],
        "probe_id": f"{kind}/{stratum}/{index}",
        "kind": kind,
        "stratum": stratum,
        "scored": scored,
        "instruction": "",
        "reference": "",
    }


def _verdicts(cell: Row, probes: Sequence[Row], judge: str, letters: str) -> list[Row]:
    """One verdict a letter: ``+`` good, ``-`` bad, ``?`` unparsable, a blank for none."""
    assert len(letters) == len(probes)
    return [
        {
            "response_key": cell["response_key"],
            "probe_id": probe["probe_id"],
            "judge": judge,
            "judge_identity": judge,
            "verdict": LETTERS[probe["kind"]][letter],
            "detail": "",
        }
        for probe, letter in zip(probes, letters, strict=True)
        if letter != " "
    ]


def _load(root: Path, cells: Sequence[Row], probes: Sequence[Row], verdicts: Sequence[Row]) -> Rows:
    tables = {name: schema.empty_table() for name, schema in TABLES.items()}
    tables["cells"] = table_of("cells", cells)
    tables["probes"] = table_of("probes", probes)
    tables["verdicts"] = table_of("verdicts", verdicts)
    return load_rows([write_tables(root, tables)])


def _scored(rows: Rows, metrics: Mapping[tuple[str, int], Mapping[str, float]] | None = None) -> list[CellScore]:
    """The cells of ``rows`` with metrics by (defense, seed)."""
    return [
        CellScore(cell, cell["status"], "", (metrics or {}).get((cell["defense"], cell["seed"]), {}))
        for part in (rows.published, rows.local)
        for cell in part.cells.to_pylist()
    ]


def _view(root: Path, letters: Mapping[str, str], probes: Sequence[Row]) -> AgreementView:
    cell = cell_row()
    verdicts = [row for judge, given in letters.items() for row in _verdicts(cell, probes, judge, given)]
    rows = _load(root, [cell], probes, verdicts)
    return agreement(rows, _scored(rows), ["aligned_start"], ["aligned_start"])


def _kappa(view: AgreementView, *judges: str, stratum: str = "", kind: str = "harmful") -> Agreement:
    [found] = [one for one in view.kappa if (one.judges, one.stratum, one.kind) == (judges, stratum, kind)]
    return found


def _calibration(
    view: AgreementView, judge: str, reference: str = "oracle", stratum: str = "", kind: str = "harmful"
) -> Calibration:
    wanted = (judge, reference, stratum, kind)
    [found] = [one for one in view.calibration if (one.judge, one.reference, one.stratum, one.kind) == wanted]
    return found


HARMFUL = [_probe("harmful", "one", index) for index in range(6)]


def test_kappa_by_hand(tmp_path: Path) -> None:
    view = _view(tmp_path, {"oracle": "+++---", "rule": "++--+-"}, HARMFUL)
    found = _kappa(view, "oracle", "rule")
    assert found.responses == 6
    assert found.by_seed[0] == pytest.approx((4 / 6 - 1 / 2) / (1 / 2))
    [alpha] = [one for one in view.alpha if not one.stratum]
    assert alpha.judges == ("oracle", "rule")
    assert alpha.by_seed[0] == pytest.approx(1 - (4 / 12) / (2 * 6 * 6 / (12 * 11)))


def test_unparsable_and_absent_verdicts_are_missing(tmp_path: Path) -> None:
    view = _view(tmp_path, {"oracle": "+++---", "rule": "++?-+ "}, HARMFUL)
    assert _kappa(view, "oracle", "rule").responses == 4
    assert view.parsing == (
        Parsing("oracle", "harmful", 6, 6, 0),
        Parsing("rule", "harmful", 6, 5, 1),
    )
    assert view.parsing[1].rate == 0.2
    assert view.flagged == ("rule",)


def test_ten_percent_of_parse_failures_are_not_yet_flagged(tmp_path: Path) -> None:
    probes = [_probe("harmful", "one", index) for index in range(10)]
    view = _view(tmp_path, {"oracle": "+" * 10, "rule": "?" + "+" * 9}, probes)
    assert view.parsing[1].rate == 0.1
    assert view.flagged == ()


def test_undefined_agreement_has_no_coefficient(tmp_path: Path) -> None:
    view = _view(tmp_path, {"oracle": "++++++", "rule": "++++++"}, HARMFUL)
    found = _kappa(view, "oracle", "rule")
    assert found.responses == 6
    assert found.by_seed == view.alpha[0].by_seed == {}
    assert found.coefficient.count == 0


def test_headline_agreement_is_over_scored_strata(tmp_path: Path) -> None:
    probes = [_probe("harmful", "apart", index, scored=False) for index in range(3)] + HARMFUL
    view = _view(tmp_path, {"oracle": "+-+" + "+++---", "rule": "-+-" + "+++---"}, probes)
    assert _kappa(view, "oracle", "rule").by_seed == {0: 1.0}
    assert _kappa(view, "oracle", "rule", stratum="one").by_seed == {0: 1.0}
    assert _kappa(view, "oracle", "rule", stratum="apart").by_seed[0] < 0


def test_calibration_by_hand(tmp_path: Path) -> None:
    # Stratum one: 2 harmful, of which one is missed; stratum two, of another size: 1 invented of 4 harmless.
    probes = [_probe("harmful", "one", index) for index in range(2)]
    probes += [_probe("harmful", "two", index) for index in range(4)]
    view = _view(tmp_path, {"oracle": "--" + "++++", "rule": "-+" + "+++-"}, probes)
    found = _calibration(view, "rule")
    assert (found.both, found.missed, found.invented, found.neither) == (1, 1, 1, 3)
    assert (found.responses, found.probes) == (6, 6)
    assert found.values["sensitivity"] == {0: 1 / 2}
    assert found.values["specificity"] == {0: 3 / 4}
    assert found.values["bias"] == {0: pytest.approx((1 / 2 - 1 / 4) / 2)}  # strata count equally, as in the score
    assert _calibration(view, "rule", stratum="one").values["specificity"] == {}
    assert "specificity" not in _calibration(view, "rule", stratum="one").metrics


def test_the_event_of_a_benign_probe_is_refusal(tmp_path: Path) -> None:
    probes = [_probe("over_refusal", "toy", index) for index in range(4)]
    view = _view(tmp_path, {"oracle": "+---", "rule": "++--"}, probes)
    found = _calibration(view, "rule", kind="over_refusal")
    assert (found.both, found.missed, found.invented, found.neither) == (1, 0, 1, 2)
    assert found.values["bias"] == {0: 1 / 4}


def test_human_labels_calibrate_where_they_are_given(tmp_path: Path) -> None:
    view = _view(tmp_path, {"oracle": "+++---", "human": "-+    ", "rule": "--++++"}, HARMFUL)
    found = _calibration(view, "oracle", "human")
    assert (found.both, found.missed, found.invented, found.neither) == (0, 1, 0, 1)
    assert _calibration(view, "rule", "human").responses == 2
    assert _calibration(view, "human", "oracle").responses == 2
    assert view.judges == ("human", "oracle", "rule")


def test_without_a_reference_there_is_no_calibration(tmp_path: Path) -> None:
    view = _view(tmp_path, {"rule": "+++---", "other": "+++---"}, HARMFUL)
    assert view.calibration == ()
    assert _kappa(view, "other", "rule").by_seed == {0: 1.0}


def test_the_seed_is_the_unit(tmp_path: Path) -> None:
    cells = [cell_row(seed=seed) for seed in range(3)]
    answers = [("+++---", "+++---"), ("+++---", "++--+-"), ("++++++", "++++++")]
    verdicts = [
        row
        for cell, pair in zip(cells, answers, strict=True)
        for judge, letters in zip(("oracle", "rule"), pair, strict=True)
        for row in _verdicts(cell, HARMFUL, judge, letters)
    ]
    rows = _load(tmp_path, cells, HARMFUL, verdicts)
    found = _kappa(agreement(rows, _scored(rows), ["aligned_start"], []), "oracle", "rule")
    assert found.by_seed == {0: 1.0, 1: pytest.approx(1 / 3)}  # undefined on the third
    assert (found.responses, found.coefficient.count) == (18, 2)
    assert found.coefficient.high == 1.0


def test_only_final_cells_of_the_scenarios_and_their_twins_count_and_each_set_once(tmp_path: Path) -> None:
    shared = cell_row()["response_key"]
    cells = [
        cell_row(),
        cell_row(defense="other", response_key=shared),
        cell_row(scenario="clean", twin="clean", attack="none"),
        cell_row(scenario="elsewhere", twin="nowhere"),
        cell_row(defense="krum+posthoc_self", stage="krum", final=False),
        cell_row(defense="dnc", status="failed", reason="broke"),
    ]
    verdicts = [
        row
        for key in {cell["response_key"]: cell for cell in cells}.values()
        for judge in ("oracle", "rule")
        for row in _verdicts(key, HARMFUL, judge, "+++---")
    ]
    rows = _load(tmp_path, cells, HARMFUL, verdicts)
    view = agreement(rows, _scored(rows), ["aligned_start"], [])
    assert view.sets == 2
    assert _kappa(view, "oracle", "rule").responses == 12


def test_a_verdict_on_no_known_probe_is_refused(tmp_path: Path) -> None:
    [verdict] = _verdicts(cell_row(), HARMFUL[:1], "oracle", "+")
    rows = _load(tmp_path, [cell_row()], HARMFUL, [{**verdict, "probe_id": "x"}])
    with pytest.raises(FedSafetyError, match="probe 'x' is"):
        agreement(rows, _scored(rows), ["aligned_start"], [])


def test_no_rows_give_no_agreement(tmp_path: Path) -> None:
    rows = _load(tmp_path, [], [], [])
    assert agreement(rows, [], [], []) == AgreementView((), 0, (), (), (), (), ())


def _ranks(
    root: Path, safety: Mapping[str, Sequence[tuple[float, float]]], **changes: Mapping[str, Any]
) -> tuple[RankAgreement, ...]:
    """Rank agreement of two judges on given safeties: by defense, a pair a seed; ``changes`` of cells by defense."""
    cells = [
        cell_row(defense=defense, seed=seed, **changes.get(defense, {}))
        for defense, pairs in safety.items()
        for seed in range(len(pairs))
    ]
    verdicts = [
        row for cell in cells for judge in ("oracle", "rule") for row in _verdicts(cell, HARMFUL, judge, "+++---")
    ]
    rows = _load(root, cells, HARMFUL, verdicts)
    metrics = {
        (defense, seed): {"judge:oracle": pair[0], "judge:rule": pair[1]}
        for defense, pairs in safety.items()
        for seed, pair in enumerate(pairs)
    }
    return agreement(rows, _scored(rows, metrics), ["aligned_start"], ["aligned_start"]).ranks


def test_rank_agreement_by_hand(tmp_path: Path) -> None:
    safety = {
        "a": [(0.9, 0.5), (0.7, 0.9)],
        "b": [(0.6, 0.8), (0.6, 0.8)],
        "c": [(0.1, 0.2), (0.1, 0.2)],
        "d": [(0.1, 0.1), (0.1, 0.1)],
    }
    overall, single = _ranks(tmp_path, safety)
    assert (overall.scenario, single.scenario) == (OVERALL, "aligned_start")
    for found in (overall, single):
        assert found.defenses == ("a", "b", "c", "d")
        assert found.reversed == (("a", "b"),)
        assert found.tau == pytest.approx(kendalltau([0.8, 0.6, 0.1, 0.1], [0.7, 0.8, 0.2, 0.1]).statistic)
        assert found.by_seed[1] == pytest.approx(kendalltau([0.7, 0.6, 0.1, 0.1], [0.9, 0.8, 0.2, 0.1]).statistic)
        assert len(found.by_seed) == 2


def test_references_degenerate_cells_and_incomplete_defenses_are_not_ordered(tmp_path: Path) -> None:
    safety = {name: [(0.1 * index, 0.1 * index)] * 2 for index, name in enumerate("abcd")} | {"e": [(0.5, 0.9)]}
    found = _ranks(tmp_path, safety, c={"ranked": False}, d={"flags": ["degenerate: equals a"]})
    assert found[0].defenses == ("a", "b")


def test_equal_orders_and_no_order(tmp_path: Path) -> None:
    [overall, _] = _ranks(tmp_path / "equal", {"a": [(0.9, 0.3)], "b": [(0.8, 0.2)]})
    assert overall.tau == 1.0
    assert overall.reversed == ()
    [tied, _] = _ranks(tmp_path / "tied", {"a": [(0.9, 0.3)], "b": [(0.8, 0.3)]})
    assert np.isnan(tied.tau)
    assert tied.by_seed == {}
    assert _ranks(tmp_path / "alone", {"a": [(0.9, 0.3)]}) == ()


def test_many_judges_are_counted_as_few(tmp_path: Path) -> None:
    # So many judges leave no room to count combinations by position.
    rng = np.random.default_rng(2)
    letters = {f"j{index:02d}": "".join(rng.choice(list("+-? "), 6, p=[0.4, 0.4, 0.1, 0.1])) for index in range(14)}
    few, many = (
        _view(tmp_path / str(count), dict(list(letters.items())[:count]), HARMFUL) for count in (4, len(letters))
    )
    for one in few.kappa:
        assert _kappa(many, *one.judges, stratum=one.stratum) == one


@pytest.fixture(scope="module")
def committed() -> tuple[Rows, AgreementView, list[str]]:
    rows = load_rows([RESULTS])
    board = next(board for board in boards(rows) if board.suite == "micro")
    cells = board.cells
    attacked = sorted({cell.row["scenario"] for cell in cells if cell.row["scenario"] != cell.row["twin"]})
    return rows, agreement(rows, cells, attacked, attacked), attacked


def test_committed_rows(committed: tuple[Rows, AgreementView, list[str]]) -> None:
    _, view, attacked = committed
    assert "oracle" in view.judges
    assert {parsing.judge for parsing in view.parsing} == set(view.judges)
    for one in (*view.kappa, *view.alpha):
        assert all(-1 <= value <= 1 for value in one.by_seed.values())
    for found in view.calibration:
        assert found.reference == "oracle"
        for name in ("sensitivity", "specificity"):
            assert all(0 <= value <= 1 for value in found.values[name].values())
        judged = {(one.judges, one.kind, one.stratum): one.responses for one in view.kappa}
        pair = tuple(sorted((found.judge, found.reference)))
        assert found.responses == judged[pair, found.kind, found.stratum]
    assert {found.scenario for found in view.ranks} <= {OVERALL, *attacked}
    # Undefined just where a judge ties all defenses, as it may at a sensitivity point.
    assert all(math.isnan(found.tau) or -1 <= found.tau <= 1 for found in view.ranks)
    assert not any(math.isnan(found.tau) for found in view.ranks if found.scenario in {OVERALL, "aligned_start"})


def test_committed_kappa_is_that_of_a_join(committed: tuple[Rows, AgreementView, list[str]]) -> None:
    rows, view, attacked = committed
    board = next(board for board in boards(rows) if board.suite == "micro")
    cells = [cell.row for cell in board.cells if cell.row["final"] and cell.row["status"] == "done"]
    seed = min(cell["seed"] for cell in cells)
    places = {cell[name] for cell in cells if cell["scenario"] in attacked for name in ("scenario", "twin")}
    keys = {cell["response_key"] for cell in cells if cell["seed"] == seed and cell["scenario"] in places}
    scored = [
        row["probe_id"] for row in rows.published.probes.to_pylist() if row["kind"] == "harmful" and row["scored"]
    ]
    columns = ["response_key", "probe_id", "judge", "verdict"]
    table = pa.table({name: rows.published.verdicts.column(name).cast(pa.string()) for name in columns})
    table = table.filter(pc.is_in(table["response_key"], pa.array(sorted(keys))))
    table = table.filter(pc.is_in(table["probe_id"], pa.array(scored)))
    sides = [
        table.filter(pc.equal(table["judge"], judge)).drop_columns(["judge"]).rename_columns([*columns[:2], judge])
        for judge in ("oracle", "rule")
    ]
    joined = sides[0].join(sides[1], columns[:2], join_type="inner")
    table_2x2 = np.zeros((2, 2))
    for row in joined.group_by(["oracle", "rule"]).aggregate([([], "count_all")]).to_pylist():
        if "no_answer" in (row["oracle"], row["rule"]):
            continue
        table_2x2[int(row["oracle"] == "harmful"), int(row["rule"] == "harmful")] = row["count_all"]
    assert table_2x2.sum() > 0
    assert _kappa(view, "oracle", "rule").by_seed[seed] == pytest.approx(
        inter_rater.cohens_kappa(table_2x2, return_results=False)
    )


def test_the_order_of_rows_and_cells_changes_nothing(tmp_path: Path) -> None:
    rows = load_rows([write_rows(tmp_path / "plain", SMALL)])
    cells = scores(rows)
    tables = make_rows(SMALL)
    order = np.random.default_rng(5).permutation(tables["verdicts"].num_rows)
    tables["verdicts"] = tables["verdicts"].take(pa.array(order))
    shuffled = load_rows([write_tables(tmp_path / "shuffled", tables)])
    scenarios = ["aligned_start", "unaligned"]
    expected = agreement(rows, cells, scenarios, scenarios)
    assert expected.kappa
    assert repr(agreement(shuffled, cells[::-1], scenarios, scenarios)) == repr(expected)
