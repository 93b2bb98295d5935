from __future__ import annotations

import doctest
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from benchmark.errors import FedSafetyError
from benchmark.records.schemas import TABLES
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import Rows, load_rows
from leaderboard.scores import tallies
from leaderboard.scores.cells import CellScore
from leaderboard.scores.tallies import auc
from leaderboard.views.detection import MEASURED, NO_ROUNDS, NO_WEIGHTS, SAMPLE_COUNTS, DetectionView, detection

from ..synthetic import cell_row, table_of, write_tables

RESULTS = Path(__file__).parents[3] / "results"


def _round(key: str, index: int, malicious: str, weights: Sequence[float] | None, **changes: Any) -> dict[str, Any]:
    """One round; ``malicious`` holds an ``x`` for each malicious client."""
    flags = [letter == "x" for letter in malicious]
    return {
        "training_key": key,
        "round": index,
        "clients": [f"c{number}" for number in range(len(flags))],
        "malicious": flags,
        "weights": None if weights is None else list(weights),
        "norms": [1.0] * len(flags),
        "losses": [0.1] * len(flags),
        "rejected": [],
        "learning_rate": 1e-3,
        "aggregate_seconds": 0.001,
        **changes,
    }


def _detect(
    root: Path,
    cells: Sequence[dict[str, Any]],
    rounds: Sequence[dict[str, Any]],
    *,
    local: Sequence[dict[str, Any]] = (),
) -> DetectionView:
    for folder, made in (("committed", rounds), ("local", local)):
        tables = {name: schema.empty_table() for name, schema in TABLES.items()}
        tables["cells"] = table_of("cells", [cell for cell in cells if cell["origin"] == folder])
        tables["rounds"] = table_of("rounds", made)
        write_tables(root / folder, tables)
    rows = load_rows([root / "committed"], local=[root / "local"])
    return detection(rows, _cells(rows), "fedavg")


def _cells(rows: Rows) -> list[CellScore]:
    found = [cell for part in (rows.published, rows.local) for cell in part.cells.to_pylist()]
    return [CellScore(cell, cell["status"], cell["reason"], {}) for cell in found]


def _krum(seed: int = 0, **changes: Any) -> dict[str, Any]:
    return cell_row(**{"defense": "krum", "seed": seed, "training_key": f"krum{seed}", **changes})


def _by_seed(
    view: DetectionView, name: str, defense: str = "krum", scenario: str = "aligned_start"
) -> dict[int, float]:
    overall = view.detections[defense, scenario].overall
    assert overall is not None
    return dict(overall.values[name])


def test_a_selection_rule_by_hand(tmp_path: Path) -> None:
    # Round 0 keeps 2 of 4 and misses one attacker; round 1 drops both attackers and one benign client.
    rounds = [_round("krum0", 0, "..xx", [0.5, 0, 0, 0.5]), _round("krum0", 1, "x..x", [0, 1, 0, 0])]
    view = _detect(tmp_path, [_krum()], rounds)
    found = view.detections["krum", "aligned_start"]
    assert (found.state, found.reason, found.rule, found.seeds) == (MEASURED, "", "krum", (0,))
    assert _by_seed(view, "precision") == {0: 3 / 5}
    assert _by_seed(view, "recall") == {0: 3 / 4}
    assert _by_seed(view, "false_exclusion") == {0: 2 / 4}
    assert _by_seed(view, "prevalence") == {0: 1 / 2}
    # Round 0: pairs (benign .5 > x 0), (.5 = x .5), (0 = 0), (0 < .5); round 1: two wins and two ties.
    assert _by_seed(view, "auc") == {0: pytest.approx(((1 + 0.5 + 0.5 + 0) / 4 + (2 + 1) / 4) / 2)}


def test_a_reweighting_rule_flags_below_half_of_the_uniform_weight(tmp_path: Path) -> None:
    view = _detect(tmp_path, [_krum()], [_round("krum0", 0, "xx..", [0.124, 0.126, 0.45, 0.3])])
    assert _by_seed(view, "recall") == {0: 0.5}
    assert _by_seed(view, "precision") == {0: 1.0}
    assert _by_seed(view, "auc") == {0: 1.0}


def test_a_discarded_round_flags_everyone(tmp_path: Path) -> None:
    view = _detect(tmp_path, [_krum()], [_round("krum0", 0, "x..", [0, 0, 0])])
    assert view.detections["krum", "aligned_start"].discarded == 1
    assert _by_seed(view, "recall") == _by_seed(view, "false_exclusion") == {0: 1.0}
    assert _by_seed(view, "auc") == {0: 0.5}


def test_the_seed_is_the_unit(tmp_path: Path) -> None:
    rounds = [_round(f"krum{seed}", 0, "x..", [0.2 * seed, 0.5, 0.5 - 0.2 * seed]) for seed in range(3)]
    view = _detect(tmp_path, [_krum(seed) for seed in range(3)], rounds)
    overall = view.detections["krum", "aligned_start"].overall
    assert overall is not None
    estimate = overall.metrics["auc"]
    assert overall.values["auc"] == {0: 1.0, 1: 1.0, 2: 0.5}
    assert (estimate.count, estimate.method) == (3, "t")
    assert estimate.mean == pytest.approx(2.5 / 3)
    assert 0 <= estimate.low < estimate.mean < estimate.high == 1.0


def test_an_unvaried_share_counts_clients_and_not_rounds(tmp_path: Path) -> None:
    rounds = [
        _round(f"krum{seed}", index, "xxx.......", [0] * 3 + [1 / 7] * 7) for seed in (0, 1) for index in range(9)
    ]
    view = _detect(tmp_path, [_krum(seed) for seed in (0, 1)], rounds)
    overall = view.detections["krum", "aligned_start"].overall
    assert overall is not None
    recall = overall.metrics["recall"]
    assert (recall.mean, recall.method) == (1.0, "exact")
    assert recall.low == pytest.approx(0.025 ** (1 / 6))  # 6 of 6 malicious clients, Clopper and Pearson
    assert overall.metrics["prevalence"].method == ""  # fixed by the schedule: nothing is estimated


def test_what_is_undefined_is_absent(tmp_path: Path) -> None:
    cells = [_krum(0), _krum(1)]
    nobody_flagged = _round("krum0", 0, "x.", [0.5, 0.5])
    view = _detect(tmp_path, cells, [nobody_flagged, _round("krum1", 0, "..", [1, 0])])
    assert _by_seed(view, "precision") == {}
    assert _by_seed(view, "recall") == {0: 0.0}
    assert _by_seed(view, "auc") == {0: 0.5}
    assert _by_seed(view, "false_exclusion") == {0: 0.0, 1: 0.5}
    overall = view.detections["krum", "aligned_start"].overall
    assert overall is not None
    assert "precision" not in overall.metrics
    assert overall.metrics["recall"].count == 1
    assert math.isnan(overall.metrics["recall"].low)


def test_rounds_are_split_by_who_took_part(tmp_path: Path) -> None:
    rounds = [
        _round("krum0", 0, "...", [1, 0, 0]),
        _round("krum0", 1, "x..", [0, 0.5, 0.5]),
        _round("krum0", 2, "xx.", [0.5, 0.5, 0]),
        _round("krum0", 3, "xxx", [1, 0, 0]),
        _round("krum0", 4, "xx..", [0, 0, 0.5, 0.5]),
    ]
    view = _detect(tmp_path, [_krum()], rounds)
    found = view.detections["krum", "aligned_start"]
    assert found.by_malicious is not None
    assert found.by_majority is not None
    assert {count: split.rounds for count, split in found.by_malicious.items()} == {0: 1, 1: 1, 2: 2, 3: 1}
    assert {flag: split.rounds for flag, split in found.by_majority.items()} == {False: 3, True: 2}
    assert found.by_malicious[1].values["auc"] == {0: 1.0}
    assert found.by_malicious[2].values["auc"] == {0: 0.5}  # once wholly wrong, once wholly right
    assert found.by_majority[True].values["auc"] == {0: 0.0}  # with three of three there is nobody to tell apart
    assert found.by_majority[True].values["recall"] == {0: 2 / 5}
    assert found.by_majority[False].values["recall"] == {0: 1.0}
    composition = view.compositions["aligned_start"]
    assert composition.by_malicious == {0: 1, 1: 1, 2: 2, 3: 1}
    assert (composition.rounds, composition.majority, composition.seeds) == (5, 2, (0,))


def test_half_is_no_majority(tmp_path: Path) -> None:
    view = _detect(tmp_path, [_krum()], [_round("krum0", 0, "x.", [0, 1])])
    assert view.compositions["aligned_start"].majority == 0


def test_updates_refused_at_the_door_are_not_the_rules_detection(tmp_path: Path) -> None:
    rounds = [
        _round("krum0", 0, "xx.", [0, 0.5, 0.5], rejected=["c0"]),  # the rule saw one of each and told nothing
        _round("krum0", 1, "xxx", [0, 0, 0], rejected=["c0", "c1", "c2"]),  # and here nobody
    ]
    view = _detect(tmp_path, [_krum()], rounds)
    found = view.detections["krum", "aligned_start"]
    assert (found.rejected, found.discarded) == (4, 0)
    assert found.overall is not None
    assert found.overall.rounds == 1
    assert _by_seed(view, "recall") == {0: 0.0}
    assert _by_seed(view, "auc") == {0: 0.5}
    assert view.compositions["aligned_start"].by_malicious == {2: 1, 3: 1}
    assert view.compositions["aligned_start"].majority == 2


def test_what_gives_no_client_weights_is_said(tmp_path: Path) -> None:
    cells = [
        cell_row(defense="fedavg", training_key="mean"),
        cell_row(defense="posthoc_self", training_key="mean"),
        cell_row(defense="median", training_key="median"),
        cell_row(defense="keep_initial", training_key="none"),
        cell_row(defense="krum", training_key="krum0"),
        cell_row(defense="krum+posthoc_self", training_key="krum0"),
        cell_row(defense="krum+posthoc_self", stage="krum", final=False, training_key="krum0"),
        cell_row(defense="dnc", status="failed", reason="broke", training_key="dnc"),
    ]
    rounds = [
        _round("mean", 0, "x.", [0.4, 0.6]),
        _round("median", 0, "x.", None),
        _round("krum0", 0, "x.", [0, 1]),
        _round("dnc", 0, "x.", [0, 1]),
    ]
    found = {defense: one for (defense, _), one in _detect(tmp_path, cells, rounds).detections.items()}
    assert {name: (one.state, one.rule) for name, one in found.items()} == {
        "fedavg": (SAMPLE_COUNTS, "fedavg"),
        "posthoc_self": (SAMPLE_COUNTS, "fedavg"),
        "median": (NO_WEIGHTS, "median"),
        "keep_initial": (NO_ROUNDS, "keep_initial"),
        "krum": (MEASURED, "krum"),
        "krum+posthoc_self": (MEASURED, "krum"),
    }
    assert all(bool(one.reason) == (one.state != MEASURED) for one in found.values())
    assert all((one.overall is None) == (one.state != MEASURED) for one in found.values())


def test_a_training_that_was_run_twice_counts_once(tmp_path: Path) -> None:
    once = _round("krum0", 0, "x..", [0, 0.5, 0.5])
    view = _detect(tmp_path, [_krum()], [once, {**once, "aggregate_seconds": 0.5}])
    assert view.compositions["aligned_start"].rounds == 1
    found = view.detections["krum", "aligned_start"].overall
    assert found is not None
    assert found.rounds == 1


def test_a_local_cell_reads_its_own_rounds_first(tmp_path: Path) -> None:
    theirs, mine = _round("krum0", 0, "x.", [0, 1]), _round("krum0", 0, "x.", [1, 0])
    local = _krum(origin="local", cell_key="mine")
    for name, kept, expected in (("own", [mine], 0.0), ("other", [], 1.0)):
        view = _detect(tmp_path / name, [local], [theirs], local=kept)
        assert _by_seed(view, "auc") == {0: expected}


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": [1.0]},
        {"weights": [math.nan, 1.0]},
        {"weights": [-0.5, 1.5]},
        {"malicious": [True]},
        {"malicious": [True, None]},
    ],
    ids=["short", "nan", "negative", "flags", "unknown"],
)
def test_a_contradictory_round_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(FedSafetyError, match=r"round 4 of training 'krum0'"):
        _detect(
            tmp_path, [_krum()], [_round("krum0", 3, "x.", [0, 1]), {**_round("krum0", 4, "x.", [0, 1]), **changes}]
        )


def test_no_rows_give_no_detection(tmp_path: Path) -> None:
    assert _detect(tmp_path, [], []).detections == {}


_WEIGHTS = st.integers(2, 9).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 4), min_size=n, max_size=n), st.lists(st.booleans(), min_size=n, max_size=n)
    )
)


def _auc(weights: Sequence[float], malicious: Sequence[bool]) -> float:
    return float(auc(np.array([weights], np.float64), np.array([malicious], np.bool_))[0])


@given(_WEIGHTS)
def test_auc_is_the_mann_whitney_statistic(drawn: tuple[list[int], list[bool]]) -> None:
    weights, flags = np.array(drawn[0], np.float64), np.array(drawn[1], np.bool_)
    found = _auc(drawn[0], drawn[1])
    if flags.all() or not flags.any():
        assert math.isnan(found)
    else:
        peer = mannwhitneyu(weights[~flags], weights[flags]).statistic / (flags.sum() * (~flags).sum())
        assert found == pytest.approx(peer)
        assert _auc(drawn[0], (~flags).tolist()) == pytest.approx(1 - found)


@given(_WEIGHTS, st.randoms(use_true_random=False))
def test_auc_depends_on_the_order_of_weights_alone(drawn: tuple[list[int], list[bool]], random: Any) -> None:
    order = list(range(len(drawn[0])))
    random.shuffle(order)
    expected = _auc(*drawn)
    moved = _auc([math.exp(3.0 * drawn[0][i]) for i in order], [drawn[1][i] for i in order])
    assert moved == pytest.approx(expected, nan_ok=True)


def test_the_examples_in_the_documentation() -> None:
    assert doctest.testmod(tallies).attempted == 1
    assert doctest.testmod(tallies).failed == 0


def test_auc_of_many_rounds_at_once() -> None:
    rng = np.random.default_rng(3)
    weights: npt.NDArray[np.float64] = rng.integers(0, 5, (50, 8)).astype(np.float64)
    malicious = rng.random((50, 8)) < 0.3
    alone = [_auc(row.tolist(), flags.tolist()) for row, flags in zip(weights, malicious, strict=True)]
    np.testing.assert_allclose(auc(weights, malicious), alone)


@pytest.fixture(scope="module")
def committed() -> tuple[Rows, list[CellScore]]:
    rows = load_rows([RESULTS])
    board = next(board for board in boards(rows) if board.suite == "micro")
    return rows, list(board.cells)


def test_committed_rows(committed: tuple[Rows, list[CellScore]]) -> None:
    view = detection(*committed, "fedavg")
    attacked = {cell.row["scenario"] for cell in committed[1] if cell.row["scenario"] != cell.row["twin"]}
    assert attacked
    for (defense, scenario), found in view.detections.items():
        composition = view.compositions[scenario]
        assert (max(composition.by_malicious) > 0) == (scenario in attacked)
        assert composition.rounds == sum(composition.by_malicious.values()) >= composition.majority
        if defense in ("fedavg", "refuse_all", "posthoc_public"):
            assert found.state == SAMPLE_COUNTS
        if defense in ("median", "trimmed_mean", "norm_clipping"):
            assert found.state == NO_WEIGHTS
        if defense == "attackers_removed":
            assert found.overall is not None
            assert set(found.overall.values["false_exclusion"].values()) == {0.0}
            for name in ("precision", "recall", "auc"):
                assert set(found.overall.values[name].values()) == ({1.0} if scenario in attacked else set())
        for one in (found.overall, *(found.by_malicious or {}).values(), *(found.by_majority or {}).values()):
            if one is not None:
                assert all(0 <= value <= 1 for by_seed in one.values.values() for value in by_seed.values())
        if found.overall is not None and found.by_malicious is not None and not found.rejected:
            assert sum(split.rounds for split in found.by_malicious.values()) == found.overall.rounds


def test_the_order_of_rows_and_cells_changes_nothing(committed: tuple[Rows, list[CellScore]], tmp_path: Path) -> None:
    rows, cells = committed
    order = np.random.default_rng(5).permutation(rows.published.rounds.num_rows)
    write_tables(
        tmp_path,
        {"rounds": rows.published.rounds.take(pa.array(order)).cast(TABLES["rounds"])},
    )
    shuffled = load_rows([tmp_path])
    expected, found = detection(rows, cells, "fedavg"), detection(shuffled, cells[::-1], "fedavg")
    assert repr(found) == repr(expected)
