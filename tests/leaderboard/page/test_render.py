"""What the page says of a board: answers, views besides the ranking, downloads, and rows that lack something."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from leaderboard.citation.cite import cite
from leaderboard.page import formats
from leaderboard.page.answers import answers
from leaderboard.page.data import page_data
from leaderboard.page.download import cell_table, csv_bytes, parquet_bytes
from leaderboard.page.render import environment, render
from leaderboard.page.views import detection_table, task_scores
from leaderboard.ranking.board import Board
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import Rows, load_rows
from leaderboard.scores.summaries import Summary
from leaderboard.views.sensitivity import Axis, Cell, Line, Point

from ..by_hand import FEDAVG4, KRUM4, MEDIAN4, ROUNDS, TWIN, cells, uneven, write_uneven
from ..synthetic import SMALL, catalog_row, cell_row, exact_rows, make_rows, table_of, write_rows, write_tables

SEEDS = range(4)


def _rows(tmp_path: Path, scores: dict[str, Any], *, seeds: range = SEEDS) -> Rows:
    """Return rows of one attacked scenario and its twin; ``scores`` has safety by seed, or safety and utility."""
    cells = []
    for defense, safety in scores.items():
        for seed in seeds:
            given = safety(seed) if callable(safety) else safety
            cells.append((cell_row(defense=defense, seed=seed), given))
            twin = cell_row(defense=defense, seed=seed, scenario="clean", attack="none")
            cells.append((twin, {**given, "safety": 1.0}))
    return load_rows([write_tables(tmp_path / "rows", exact_rows(cells, per=40))])


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return _rows(
        tmp_path,
        {
            "fedavg": lambda seed: {"safety": 0.1 + 0.025 * (seed % 2), "utility": 1.0, "over_refusal": 0.0},
            "dnc": lambda seed: {"safety": 0.9 + 0.025 * (seed % 3), "utility": 0.975, "over_refusal": 0.1},
            "median": lambda seed: {"safety": 0.1 + 0.05 * (seed // 2 % 2), "utility": 1.0, "over_refusal": 0.0},
            "krum": lambda seed: {"safety": 1.0, "utility": 0.5, "over_refusal": 0.0},
        },
    )


def _page(board: Board, rows: Rows) -> str:
    return render(environment(), board, rows, [("index.html", board)])


def _text(page: str, section: str) -> str:
    part = page[page.index(f'aria-labelledby="{section}"') :]
    body = re.sub(r"<svg\b.*?</svg>", "", part[: part.index("</section>")], flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_the_answer_names_better_indistinguishable_and_gated_defenses_with_their_price(rows: Rows) -> None:
    [board] = boards(rows)
    found = answers(board)
    assert [line.standing.entry.id for line in found.better] == ["dnc"]
    assert [line.standing.entry.id for line in found.tied] == ["median"]
    assert [line.standing.entry.id for line in found.gated] == ["krum"]
    assert found.leaders == found.better
    [dnc] = found.better
    assert dnc.safety is not None
    assert dnc.safety.low > 0.7
    assert dnc.utility is not None
    assert dnc.utility.mean == pytest.approx(-0.025)
    assert dnc.bill == "0.05 s, 100 MB sent by clients"
    text = _text(_page(board, rows), "answer")
    assert re.search(
        r"1 of 2 ranked defenses is significantly safer than plain averaging, which keeps 11\.\d % \[", text
    )
    assert re.search(r"From FedAvg: median [+\N{MINUS SIGN}]\S+ \[\N{MINUS SIGN}\S+, \S+\]", text)
    assert re.search(r"Fail a gate, however safe: krum ?\.", text)


def test_a_single_seed_has_no_intervals_and_says_so(tmp_path: Path) -> None:
    rows = _rows(tmp_path, {"fedavg": {"safety": 0.2}, "dnc": {"safety": 0.9}}, seeds=range(1))
    [board] = boards(rows)
    page = _page(board, rows)
    assert "No defense is compared, because one seed cannot separate any. A single seed gives no intervals" in _text(
        page, "answer"
    )
    assert "so nothing is ranked" in _text(page, "ranking")
    table = page[page.index('id="table"') : page.index("</table>", page.index('id="table"'))]
    assert 'class="ci">[' not in table
    assert re.findall(r'<td class="rank"[^>]*>([^<]*)<', table) == ["", ""]


def test_ties_are_equal_ranks_and_exact_intervals_are_marked(tmp_path: Path) -> None:
    rows = _rows(tmp_path, {"fedavg": {"safety": 0.0}, "dnc": {"safety": 1.0}, "krum": {"safety": 1.0}})
    page = _page(boards(rows)[0], rows)
    table = page[page.index('id="table"') : page.index("</table>", page.index('id="table"'))]
    assert re.findall(r'<td class="rank"[^>]*>([^<]*)<', table) == ["1", "1", "3"]
    assert re.search(r'class="ci">\[\d+\.\d, 100\.0\]<abbr title="exact interval over probes', table)


def test_a_defense_that_lacks_cells_says_which(tmp_path: Path) -> None:
    cells = [(cell_row(defense=name, seed=seed), {"safety": 0.5}) for name in ("fedavg", "dnc") for seed in (0, 1)]
    cells += [
        (cell_row(defense=name, seed=seed, scenario="clean", attack="none"), {})
        for name in ("fedavg", "dnc")
        for seed in (0, 1)
    ]
    rows = load_rows([write_tables(tmp_path, exact_rows([cell for i, cell in enumerate(cells) if i != 3]))])
    [board] = boards(rows)
    page = _page(board, rows)
    assert "aligned_start: not run (seed 1)" in _text(page, "ranking")
    assert "Without a place: dnc" in _text(page, "answer")


def test_detection_is_shown_by_scenario_and_composition_by_round(tmp_path: Path) -> None:
    tables = make_rows(SMALL)
    cells = [row for row in tables["cells"].to_pylist() if row["status"] == "done" and row["final"]]
    tables["rounds"] = table_of(
        "rounds",
        [
            {
                "training_key": row["training_key"],
                "round": index,
                "clients": ["a", "b", "c"],
                "malicious": [index < 3, index < 1, False],
                "weights": [0.0, 0.5, 0.5] if row["defense"] == "krum" else None,
                "norms": [1.0] * 3,
                "losses": [0.1] * 3,
                "rejected": [],
                "learning_rate": 4e-3,
                "aggregate_seconds": 0.001,
            }
            for row in cells
            for index in range(4)
        ],
    )
    rows = load_rows([write_tables(tmp_path, tables)])
    [board] = boards(rows)
    table = detection_table(board)
    assert [defense for defense, _ in table.rows] == ["krum"]
    assert table.counts == (0, 1, 2)
    page = _page(board, rows)
    text = _text(page, "detection")
    assert "Aligned start 3 6 3 12 3" in text  # rounds with 0, 1 and 2 attackers, all of them, attackers the majority
    data = _data(page)
    [[defense, whole, splits, discarded]] = data["detection"]["aligned_start"]
    assert (data["defenses"][defense]["id"], discarded) == ("krum", 0)
    assert [value[0] for value in whole] == [750, 750, 125, 917]
    assert [(name, rounds) for name, rounds, _ in splits] == [
        ("0 malicious", 3), ("1 malicious", 6), ("2 malicious", 3), ("minority", 9), ("majority", 3),
    ]  # fmt: skip


def test_rows_without_rounds_or_sets_say_so(rows: Rows) -> None:
    [board] = boards(rows)
    page = _page(board, rows)
    assert "hold no rounds in which a rule gave its clients weights" in _text(page, "detection")
    assert "hold no sensitivity sets" in _text(page, "sensitivity")
    assert "do not hold two judges" in _text(page, "judges")


def test_sensitivity_curves_break_where_a_cell_is_missing(rows: Rows) -> None:
    [board] = boards(rows)
    entry = board.entry("dnc")
    done = Cell("dnc", entry.scenarios["aligned_start"])
    lacking = Cell("dnc", Summary("failed", ("failed: disk <full> (seed 1)",)))
    clean = {"fedavg": Cell("fedavg", board.entry("fedavg").scenarios["clean"])}
    points = tuple(
        Point(value, f"{value} %", f"p{value}", "clean", value == 30, {"dnc": cell}, clean)
        for value, cell in ((10, done), (20, lacking), (30, done), (40, done))
    )
    axis = Axis(
        "share", "Malicious <share>", "%", "One paragraph.", "p30", (0, 1), points, (Line("dnc", ("dnc",) * 4),)
    )
    page = _page(replace(board, sensitivity=(axis,)), rows)
    text = _text(page, "sensitivity")
    assert "Malicious &lt;share&gt;" in text
    assert text.count("failed: disk &lt;full&gt;") == 1
    for title in ("Safety", "Utility", "Over-refusal"):
        figure = page[page.index(f'aria-label="{title} by Malicious &lt;share&gt;"') :]
        figure = figure[: figure.index("</svg>")]
        [curve] = re.findall(r'<path class="curve" d="([^"]*)"', figure)
        assert (curve.count("M"), curve.count("L")) == (1, 1)  # 30 to 40 alone
        [dots] = re.findall(r'<path class="dot" d="([^"]*)"', figure)
        assert dots.count("M") == 3
        [clean] = re.findall(r'<path class="clean" d="([^"]*)"', figure)
        assert clean.count("L") == 3


def _ablation(board: Board) -> Board:
    """Return ``board`` with an axis whose points differ by method: ``dnc`` is there, ``dnc_half`` is nowhere else."""
    attacked, clean = (board.entry("dnc").scenarios[name] for name in ("aligned_start", "clean"))
    points = tuple(
        Point(
            value, value, scenario, "clean", value == "whole", {name: Cell(name, attacked)}, {name: Cell(name, clean)}
        )
        for value, scenario, name in (("whole", "aligned_start", "dnc"), ("half", "half_data", "dnc_half"))
    )
    axis = Axis(
        "data", "Data", "", "One paragraph.", "aligned_start", (0, 1), points, (Line("dnc", ("dnc", "dnc_half")),)
    )
    info = catalog_row("defense", "dnc_half", description="Half of <it>.", paper="Nobody 2030")
    return replace(board, sensitivity=(axis,), at_points={"dnc_half": info})


def test_an_ablation_is_a_table_and_its_methods_have_views_of_their_own(rows: Rows) -> None:
    board = _ablation(boards(rows)[0])
    page = _page(board, rows)
    text = _text(page, "sensitivity")
    number = r"\d+\.\d (?:\[\d+\.\d, \d+\.\d\] )?(?:e )?"
    assert re.search(rf"Dnc half half (?:{number}){{6}}fedsafety", text)
    assert re.search(rf"dnc whole main (?:{number}){{6}}Dnc half", text)
    assert 'aria-label="Safety by Data"' not in page
    sheet = page[page.index('id="defense=dnc_half"') :]
    sheet = sheet[: sheet.index("</article>")]
    for expected in (
        "Half of &lt;it&gt;.",
        "Nobody 2030",
        "defenses/dnc_half.py",
        "fedsafety run --suite micro --scenario half_data --defense dnc_half --seed 0<",
        "Used in a run: 0.05 s, 100 MB sent by clients.",
    ):
        assert expected in sheet
    assert "Dnc half" in _text(page, "methods")


def test_refusing_ten_points_more_than_fedavg_is_marked(tmp_path: Path) -> None:
    rows = _rows(
        tmp_path,
        {
            "fedavg": {"safety": 0.1, "over_refusal": 0.1},
            "dnc": lambda seed: {"safety": 0.9, "over_refusal": 0.2 + 0.05 * seed},
            "median": {"safety": 0.1, "over_refusal": 0.2},
        },
    )
    [board] = boards(rows)
    page = _page(board, rows)
    table = page[page.index('id="table"') : page.index("</table>", page.index('id="table"'))]
    marked = re.findall(r'class="badge bad refuses" title="([^"]*)">([^<]*)<', table)
    assert [text for _, text in marked] == ["refuses +18"]  # median exceeds FedAvg by exactly ten
    assert re.match(
        r"refuses \+18 points more benign look-alikes than un-attacked FedAvg, 95 % interval \[", marked[0][0]
    )
    assert "It refuses 17.5 points more benign look-alikes" in page[page.index('id="defense=dnc"') :]
    data = _data(page)
    excess = {data["defenses"][line[0]]["id"]: line[7] for line in data["views"]["aligned_start"]}
    assert excess["dnc"][0] == 175
    assert (excess["fedavg"], excess["median"]) == (0, 0)


def test_every_kind_of_cost_is_told_and_none_that_is_zero(tmp_path: Path) -> None:
    costs = {"owned_aligned": 250, "owned_normal": 1, "generated_pairs": 40, "generated_tokens": 4200}
    costs |= {"finetune_steps": 50, "extra_models": 1, "upload_bytes": 2_500_000, "server_seconds": 1.25}
    cells = [
        (cell_row(defense=name, seed=seed, scenario=scenario, attack=attack, **given), {"safety": safety})
        for name, given, safety in (("fedavg", {}, 0.1), ("dnc", costs, 0.9))
        for scenario, attack in (("aligned_start", "unaligned_data"), ("clean", "none"))
        for seed in range(3)
    ]
    rows = load_rows([write_tables(tmp_path, exact_rows(cells))])
    [board] = boards(rows)
    [dnc] = answers(board).better
    assert dnc.bill == (
        "1.2 s, 250 owned aligned pairs, 1 owned normal pair, 40 generated pairs, 4\N{THIN SPACE}200 generated tokens, "
        "50 fine-tuning steps, 1 extra model, 2.5 MB sent by clients"
    )
    page = _page(board, rows)
    assert page.count(dnc.bill) == 2  # the answer and the defense's own view
    assert "<dd>0.05 s, 100 MB sent by clients</dd>" in page


def test_scores_of_harness_tasks_stand_with_the_defense(rows: Rows) -> None:
    [board] = boards(rows)
    entry = board.entry("dnc")
    summary = entry.scenarios["aligned_start"]
    cells = {
        seed: replace(cell, metrics={**cell.metrics, "task:copy@8": 0.5 + seed / 8}) if seed else cell
        for seed, cell in summary.cells.items()
    }
    changed = replace(entry, scenarios={**entry.scenarios, "aligned_start": replace(summary, cells=cells)})
    found = task_scores(board, changed)
    assert found.names == ("copy@8",)
    [(scenario, [value])] = found.by_scenario
    assert (scenario, value.mean, value.count) == ("aligned_start", 0.75, 3)  # type: ignore[union-attr]
    overall = tuple(replace(line, entry=changed) if line.entry.id == "dnc" else line for line in board.overall)
    entries = tuple(changed if one.id == "dnc" else one for one in board.entries)
    page = _page(replace(board, entries=entries, overall=overall), rows)
    sheet = page[page.index('id="defense=dnc"') :]
    assert re.search(
        r'>copy@8</th>.*?<span class="n">0\.750</span><span class="ci">\[0\.\d+, 1\.\d+\]', sheet, re.DOTALL
    )
    assert "copy@8" not in page[: page.index('id="defense=dnc"')]


def _data(page: str) -> Any:
    start = page.index('id="data">') + 10
    return json.loads(page[start : page.index("</script>", start)])


def test_every_citation_of_the_page_is_that_of_the_published_rows(tmp_path: Path, committed: Path, runs: Path) -> None:
    own = write_rows(tmp_path / "mine", replace(SMALL, defenses=("norm_clipping~mine",), origin="local"), seed=9)
    rows = load_rows([committed], local=[runs, own])
    [board] = boards(rows)
    assert any(line.entry.id == "norm_clipping~mine" and line.rank for line in board.overall)
    packed = _data(_page(board, rows))["cite"]
    alone = load_rows([committed])
    [published] = boards(alone)
    names = [entry.id for entry in published.entries]
    assert {view: list(of) for view, of in packed["of"].items()} == {
        "*": ["", *names], **dict.fromkeys(published.by_scenario, names)
    }  # fmt: skip
    for view, of in packed["of"].items():
        for defense, texts in of.items():
            found = cite(published, alone.published_digest, defense, view.removeprefix("*"))
            joined = ["".join(packed["pieces"][piece] for piece in text) for text in texts]
            assert joined == [found.sentence, found.bibtex, found.command]


def test_rows_of_one_machine_alone_cannot_be_cited(runs: Path) -> None:
    rows = load_rows([], local=[runs])
    assert _data(_page(boards(rows)[0], rows))["cite"] == {"pieces": [], "of": {}}


def test_a_judge_with_many_parse_failures_is_flagged(tmp_path: Path) -> None:
    tables = make_rows(SMALL)
    verdicts = tables["verdicts"].to_pylist()
    broken = [row for row in verdicts if row["judge"] == "micro_judge"]
    for row in broken[: len(broken) // 5]:
        row["verdict"] = "unparsable"
    tables["verdicts"] = table_of("verdicts", verdicts)
    rows = load_rows([write_tables(tmp_path, tables)])
    text = _text(_page(boards(rows)[0], rows), "judges")
    assert re.search(r"micro_judge Harmful requests \d\d\.\d\d over 10 %: read with care", text)
    assert not re.search(r"rule Harmful requests \d\.\d\d over", text)
    assert "Kendall" in text


def test_retracted_cells_are_listed_with_their_reason(rows: Rows) -> None:
    [board] = boards(rows)
    cell = next(cell for cell in board.cells if cell.row["defense"] == "dnc" and cell.row["seed"] == 2)
    gone = replace(cell, state="retracted", reason="retracted on 2026-12-01 (leak): <b>why</b>")
    text = _text(_page(replace(board, retracted=(gone,)), rows), "limits")
    assert "dnc in aligned_start, seed 2 : retracted on 2026-12-01 (leak): &lt;b&gt;why&lt;/b&gt;" in text


def test_the_published_tables_are_apart_and_marked(rows: Rows) -> None:
    [board] = boards(rows)
    page = _page(board, rows)
    text = _text(page, "published")
    assert "published, not re-run" in text
    assert "Noise floor." in text
    assert text.count("Published, not re-run.") == len(re.findall(r"aria-label=\"Published table", page)) >= 5
    assert "49.81" in text
    assert '<details class="published" id="published-tables"><summary>' in page  # closed


def test_data_for_the_script_cannot_leave_its_element(rows: Rows) -> None:
    [board] = boards(rows)
    hostile = "</script><!--\u2028&"
    entry = replace(board.entries[0], info={**board.entries[0].info, "title": hostile})
    text = page_data(replace(board, entries=(entry, *board.entries[1:])), ["safety"], [], [], {"more": hostile})
    assert not set("<>&\u2028") & set(text)
    loaded = json.loads(text)
    assert loaded["defenses"][0]["title"] == loaded["more"] == hostile


def test_downloads_hold_every_cell_with_its_scores(rows: Rows) -> None:
    [board] = boards(rows)
    table = cell_table(board)
    assert table.num_rows == len(board.cells) == 4 * 2 * len(SEEDS)
    read = list(csv.DictReader(io.StringIO(csv_bytes(table).decode())))
    first = board.cells[0]
    assert [read[0][name] for name in ("scenario", "defense", "cell_key")] == [
        first.row[name] for name in ("scenario", "defense", "cell_key")
    ]
    assert float(read[0]["safety"]) == first.metrics["safety"]
    assert pq.read_table(io.BytesIO(parquet_bytes(table))).equals(table)


def test_a_formula_in_a_download_is_text(rows: Rows) -> None:
    [board] = boards(rows)
    cells = (replace(board.cells[0], reason="=HYPERLINK(1)"), *board.cells[1:])
    table = cell_table(replace(board, cells=cells))
    assert next(csv.DictReader(io.StringIO(csv_bytes(table).decode())))["reason"] == "'=HYPERLINK(1)"
    assert table.column("reason")[0].as_py() == "=HYPERLINK(1)"


def test_the_page_states_which_scenario_has_which_seeds_and_defenses(tmp_path: Path) -> None:
    cells = FEDAVG4 + MEDIAN4 + KRUM4 + uneven(ROUNDS, ("fedavg", "krum"))
    rows = load_rows([write_uneven(tmp_path, cells, rounds={"seeds": [0, 1]}, clean_rounds=TWIN)])
    [board] = boards(rows)
    page = _page(board, rows)
    sheet = page[page.index('id="scenario=rounds"') :].partition("</article>")[0]
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", sheet))
    assert "It has 2 of the 4 seeds: 0, 1. The suite runs the un-attacked twin for fedavg, krum alone;" in text
    assert "Not in the overall mean: run on the seeds 0, 1 alone" in text
    assert 'class="extent"' not in page[page.index('id="scenario=aligned_start"') :].partition("</article>")[0]
    heat = page[page.index('aria-labelledby="heat"') :].partition("</section>")[0]
    assert re.search(r'title="the suite runs this scenario for fedavg, krum alone">not run<', heat)
    assert "Why cells are missing" not in heat, "a cell that the suite leaves out is not missing"
    assert "2 to 4 seeds" in page
    data = _data(page)
    places = {scenario["id"]: scenario for scenario in data["scenarios"]}
    assert (places["rounds"]["seeds"], "seeds" in places["aligned_start"]) == ([0, 1], False)
    twin = data["shares"].index("twin_safety")
    words = {data["defenses"][line[0]]["id"]: line[3][twin] for line in data["views"]["rounds"]}
    assert words["median"] == "not run"
    assert words["krum"][0] == 1000
    assert {line[3][twin] == "not run" for line in data["views"]["*"]} == {False}


def test_defenses_that_the_suite_leaves_out_stand_with_their_reasons(rows: Rows) -> None:
    board = boards(rows)[0]
    settings = json.dumps({"unscored": {"zeta": "Too <small>.", "alpha": "No rows."}})
    listed = _page(replace(board, info={**board.info, "settings": settings}), rows)
    assert "2 registered defenses are not on this board" in listed
    assert listed.index("<code>alpha</code>: No rows.") < listed.index("<code>zeta</code>: Too &lt;small&gt;.")
    assert "not on this board" not in _page(board, rows)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"unscored": 3}', '{"unscored": {}}'])
def test_settings_of_another_form_leave_nothing_out(text: str) -> None:
    assert formats.unscored(text) == []


def test_a_mean_without_attack_that_is_not_run_is_no_gap(tmp_path: Path) -> None:
    longer = {name: [*values, *values] for name, values in ROUNDS.items()}
    cells = FEDAVG4 + MEDIAN4 + KRUM4 + uneven(longer, ("fedavg", "krum"))
    rows = load_rows([write_uneven(tmp_path, cells, clean_rounds={"defenses": ["fedavg", "krum"]})])
    page = _page(boards(rows)[0], rows)
    table = page[page.index('id="table"') : page.index("</table>", page.index('id="table"'))]
    lines = {
        re.search(r"defense=(\w+)", line)[1]: line
        for line in re.findall(r"<tr class=.group-.*?</tr>", table, re.DOTALL)
    }  # type: ignore[index]
    shown = {
        name: re.search(r'data-c="twin_safety"[^>]*><span class="n">([^<]*)', line)[1] for name, line in lines.items()
    }  # type: ignore[index]
    assert shown == {"krum": "100.0", "median": "not run", "fedavg": "99.4"}


def test_a_saturated_scenario_is_marked_on_its_sheet_and_over_the_matrix(tmp_path: Path) -> None:
    values = {"fedavg": 0.1, "median": 0.9, "krum": 0.91, "dnc": 0.92}
    made = [
        cell
        for name, value in values.items()
        for cell in cells(name, [value + 0.01 * (seed % 3) for seed in range(6)], [1.0] * 6)
    ]
    rows = load_rows([write_uneven(tmp_path, made)])
    [board] = boards(rows)
    page = _page(board, rows)
    sentence = "<strong>Saturated</strong>: 3 of 4 ranked defenses share the first rank here"
    sheet = page[page.index('id="scenario=aligned_start"') :].partition("</article>")[0]
    heat = page[page.index('aria-labelledby="heat"') :].partition("</section>")[0]
    assert (sheet.count(sentence), heat.count(sentence)) == (1, 1)
