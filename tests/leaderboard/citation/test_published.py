"""The copied tables agree with each other wherever the paper prints a number twice."""

from __future__ import annotations

import statistics

import pytest
from scipy import stats

from benchmark.errors import UsageError
from leaderboard.citation.published import published

PAPER = published()


def value(table: str, method: str, metric: str, group: str = "") -> float:
    return PAPER.table(table).value(method, metric, group)


@pytest.mark.parametrize(
    ("table", "method", "metric", "group", "expected"),
    [
        ("1", "fedavg", "rule", "LMSYS", 49.81),
        ("1", "level2", "md_judge", "WildChat", 82.12),
        ("2", "dnc", "rule", "WildChat", 45.58),
        ("2", "level1", "rm", "LMSYS", -2.68),
        ("3", "foolsgold", "md_judge", "With level 2", 88.08),
        ("4", "level2", "mt1", "100 clients", 4.24),
        ("5", "level3", "rule", "", 88.08),
        ("6", "dnc", "humaneval", "", 18.29),
        ("7", "krum", "rule", "20 %", 53.08),
        ("8", "fedavg_clean", "rule", "Mistral-7B", 89.81),
    ],
)
def test_single_entries(table: str, method: str, metric: str, group: str, expected: float) -> None:
    assert value(table, method, metric, group) == expected


def test_numbers_that_are_printed_twice_are_equal() -> None:
    one, two, three = (PAPER.table(id_) for id_ in "123")
    for metric in ("rule", "md_judge", "rm", "mt1"):
        for group in ("LMSYS", "WildChat"):
            assert one.value("fedavg_clean", metric, group) == two.value("fedavg_clean", metric, group)
        assert value("5", "fedavg_clean", metric) == one.value("fedavg_clean", metric, "WildChat")
        for row in three.rows:
            assert three.value(row.method.id, metric, "Rule alone") == one.value(row.method.id, metric, "LMSYS")
    for method in ("fedavg", "krum", "dnc", "level2"):
        assert value("7", method, "rule", "30 %") == one.value(method, "rule", "WildChat")
        for metric in ("rule", "rm", "mt1"):
            assert value("8", method, metric, "Llama-2-7B") == one.value(method, metric, "LMSYS")


def test_the_remarks_on_contradictions_are_true_of_the_tables() -> None:
    three = PAPER.table("3")
    gains = [three.value(r.method.id, "md_judge", "With level 2") - r.values[1] for r in three.rows]
    assert statistics.fmean(gains) == pytest.approx(59.75, abs=0.01)
    drops = [value("2", "fedavg_clean", metric) - value("2", "fedavg", metric) for metric in ("rule", "md_judge")]
    assert drops == pytest.approx([39.61, 54.80])
    assert value("1", "level2", "rm") == -0.99
    assert value("3", "fedavg", "rm", "With level 2") == -1.00
    text = " ".join(PAPER.remarks)
    for number in ("59.75", "39.61", "54.80", "-0.99", "-1.00"):
        assert number in text


def test_the_noise_floor_is_that_of_rows_that_are_one_function() -> None:
    assert PAPER.noise["rule"].differences == (2.69, 0.0, 6.35, 8.08, 0.77)
    assert PAPER.noise["md_judge"].differences == (2.50, 3.46, 4.03, 4.23, 0.19)
    sds = {id_: floor.sd for id_, floor in PAPER.noise.items()}
    assert sds == pytest.approx({"rule": 3.37, "md_judge": 2.29, "rm": 0.066, "mt1": 0.193}, abs=0.01)
    assert PAPER.noise["rule"].least == pytest.approx(stats.t.ppf(0.975, 5) * 2**0.5 * sds["rule"])


def test_classical_rules_are_inside_the_noise_and_the_generating_levels_outside() -> None:
    for id_ in ("1", "2"):
        table = PAPER.table(id_)
        columns = [index for index, column in enumerate(table.columns) if column.metric.id == "md_judge"]
        for row in table.rows:
            for column in columns:
                inside = {"median": False, "trimmed_mean": False, "krum": False, "dnc": False, "foolsgold": False}
                expected = {**inside, "residual": False, "level2": True, "level3": True, "fedavg": None}
                if row.method.id in expected:
                    assert PAPER.separated(table, row, column) is expected[row.method.id], (id_, row.method.id)
    assert PAPER.separated(PAPER.table("6"), PAPER.table("6").rows[0], 4) is None  # no noise floor for HumanEval


def test_every_table_is_complete_and_every_method_is_explained() -> None:
    assert [table.id for table in PAPER.tables] == list("12345678")
    assert sum(len(row.values) for table in PAPER.tables for row in table.rows) == 388
    for table in PAPER.tables:
        assert table.baseline in {row.method.id for row in table.rows}
        for row in table.rows:
            for column, number in zip(table.columns, row.values, strict=True):
                low, high = {"%": (0, 100)}.get(column.metric.unit, (-5, 10))
                assert low <= number <= high


def test_names_that_do_not_exist_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown row of table 1 'krun'; did you mean 'krum'"):
        value("1", "krun", "rule")
    with pytest.raises(UsageError, match="unknown column of table 1 'LMSYS, rul'"):
        value("1", "krum", "rul")
    with pytest.raises(UsageError, match="unknown published table '9'"):
        PAPER.table("9")
    with pytest.raises(UsageError, match="unknown published paper 'ye2024'; did you mean 'ye2025'"):
        published("ye2024")
