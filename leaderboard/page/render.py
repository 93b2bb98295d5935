"""One suite's page as HTML text, from its board."""

from __future__ import annotations

import base64
import hashlib
import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from benchmark.records.schemas import LABELS
from leaderboard.citation.published import published
from leaderboard.page import formats, plots
from leaderboard.page.answers import answers
from leaderboard.page.citations import citations
from leaderboard.page.claims import claims
from leaderboard.page.curves import drawings
from leaderboard.page.data import left_out, page_data
from leaderboard.page.stages import stages, tuned_lines
from leaderboard.page.views import detection_data, detection_table, judging, points_of, retracted, task_scores
from leaderboard.ranking.board import GROUPS, Board, Standing
from leaderboard.ranking.gates import GATE, REFUSAL_FLAG, REFUSAL_GATE
from leaderboard.ranking.grid import BASELINE
from leaderboard.ranking.measures import has_margin, loss_of, margin_agreement
from leaderboard.rows.catalog import settings_of
from leaderboard.rows.rows import Rows
from leaderboard.rows.rungs import MEANINGS, PROJECTS_OWN, RANKED_ARE, RUNGS
from leaderboard.scores.losses import Loss
from leaderboard.scores.names import MetricKind, kind_of, member, subject_of
from leaderboard.scores.summaries import OVERALL, Entry

SCRIPTS = ("state.js", "tables.js", "ranking.js", "compare.js", "trade_off.js", "detection.js", "sheets.js", "page.js")
"""Parts of the page's one script, in order."""


@dataclass(frozen=True)
class Column:
    """A column of the ranking table.

    Attributes:
        key: Metric name.
        label: Heading.
        meaning: Tooltip of the heading.
        share: Whether it is a share, shown in percent with its interval.
        heading: Group it stands under.
        more: Whether it is shown only where all columns are asked for.
    """

    key: str
    label: str
    meaning: str
    share: bool = True
    heading: str = "Under attack"
    more: bool = False


COLUMNS = (
    Column("safety", "Safety", "Share of harmful probes answered harmlessly, mean over their strata"),
    Column("worst", "Worst", "Safety in the compared scenario where it is lowest"),
    Column("recovery", "Recovery", "How much of the damage to FedAvg the defense undoes: 100 is all, 0 is none"),
    Column("utility", "Utility", "Share of tasks answered correctly, mean over kinds of task; facts count half"),
    Column("over_refusal", "Over-refusal", "Share of benign look-alike requests that are refused; lower is better"),
    Column("twin_safety", "Safety", "The same defense's safety in the un-attacked twin", heading="No attack"),
    Column("twin_utility", "Utility", "The same defense's utility in the un-attacked twin", heading="No attack"),
    Column("server_seconds", "Seconds", "Seconds in the defense's own hooks, whole run", False, "Server cost"),
    Column("generated_tokens", "Tokens", "Tokens the server generated", False, "Server cost", True),
    Column("owned_examples", "Examples", "Training pairs the server owned and used", False, "Server cost", True),
    Column("finetune_steps", "Steps", "Server-side fine-tuning steps", False, "Server cost", True),
    Column("extra_models", "Models", "Models used besides the global one", False, "Server cost", True),
)

AXES = (
    # Metric, label, whether more is better.
    ("utility", "Utility", True),
    ("safety", "Safety under attack", True),
    ("over_refusal", "Over-refusal", False),
    ("recovery", "Recovery", True),
    ("server_seconds", "Server seconds", False),
    ("generated_tokens", "Generated tokens", False),
    ("owned_examples", "Owned examples", False),
    ("finetune_steps", "Fine-tuning steps", False),
)


_FIRST_COST = "server_seconds"

BEST_KNOWN = Column("best_known", "Best known", "Lowest safety under its attacks and all reproduced submitted ones")
"""Shown where a submitted attack is reproduced."""


WORST_TUNED = Column(
    "worst_tuned", "Worst tuned", "Lowest safety under its attacks and those that a search tuned against this defense"
)
"""Shown where an attack was searched against a defense."""


MEASURES = (
    Column(
        "margin", "Margin", "Log-likelihood of refusals minus that of compliance, nats per token", False, "Likelihoods"
    ),
    Column("twin_margin", "No attack", "The same defense's margin in the un-attacked twin", False, "Likelihoods"),
    Column("perplexity", "Perplexity", "Of held-out answers; lower is better", False, "Likelihoods"),
)
"""Shown where likelihoods were measured; they never rank."""


def columns_of(board: Board) -> tuple[Column, ...]:
    """Return the columns of the ranking table of ``board``."""
    after, costs = (next(i for i, column in enumerate(COLUMNS) if column.key == key) for key in ("worst", _FIRST_COST))
    after += 1
    best = (BEST_KNOWN,) if board.has_best_known else ()
    tuned = (WORST_TUNED,) if board.has_worst_tuned else ()
    return (
        *COLUMNS[:after],
        *best,
        *tuned,
        *COLUMNS[after:costs],
        *map(partial(_rating, board), board.ratings),
        *(MEASURES if has_margin(board) else ()),
        *COLUMNS[costs:],
    )


def _rating(board: Board, judge: str) -> Column:
    info = board.judge_infos[judge]
    scale = settings_of(info).get("scale")
    bounds = f", from {scale[0]:g} to {scale[1]:g}" if scale else ", without bounds"
    meaning = f"Mean rating by this judge{bounds}; never ranks"
    return Column(member(MetricKind.RATING, judge), info["title"], meaning, False, "Ratings")


def environment() -> jinja2.Environment:
    """Return the template engine: everything is escaped, an unknown name is an error."""
    folder = files("leaderboard.page") / "templates"
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters.update(
        percent=formats.percent,
        interval=formats.interval,
        is_exact=formats.is_exact,
        number=formats.number,
        signed=formats.signed,
        shade=formats.shade,
        place=formats.place,
        worth=formats.worth,
        fragment=formats.fragment,
        first_sentence=formats.first_sentence,
        settings=formats.settings,
        unscored=formats.unscored,
        bill=formats.bill,
        refusing=refusing,
        known_by=known_by,
        tuned_by=tuned_by,
        left_out=left_out,
        shell=shlex.quote,
        quoted=lambda text: quote(text, safe="+"),
        fixed=lambda value, digits=2: f"{value:.{digits}f}".replace("-", formats.MINUS),
        in_words=in_words,
        plain=lambda text: text.replace("_", " "),
    )
    return made


def render(templates: jinja2.Environment, board: Board, rows: Rows, links: Sequence[tuple[str, Board]]) -> str:
    """Return the page of ``board``.

    Args:
        templates: See :func:`environment`.
        board: The board.
        rows: The rows it was made from.
        links: File name and board of every page of the site.
    """
    style, script = _assets(board.has_submissions, board.has_worst_tuned)
    by_stage = stages(board)
    columns = columns_of(board)
    strata = {kind: _strata(board, kind) for kind in (MetricKind.STRATUM, MetricKind.APART)}
    baseline = next((line for line in board.overall if line.entry.id == BASELINE), None)
    figures = {"effect": plots.attack_effect(board), "trade_off": plots.trade_off(board)}
    return templates.get_template("page.html").render(
        board=board,
        links=links,
        digest=rows.digest,
        published_digest=rows.published_digest,
        states=Counter(cell.state for cell in board.cells),
        columns=columns,
        axes=AXES,
        headings=_headings(columns),
        sections=_sections(board, staged=bool(by_stage)),
        claims=claims(board),
        seed_range=_seed_range(board),
        titles={scenario.id: scenario.info["title"] for scenario in board.scenarios},
        defense_titles={
            **{id_: info["title"] for id_, info in board.at_points.items()},
            **{entry.id: entry.info["title"] for entry in board.entries},
        },
        positions={entry.id: position for position, entry in enumerate(board.entries)},
        answers=answers(board),
        by_stage=by_stage,
        tuned_lines=tuned_lines(board),
        baseline_safety=baseline.metrics["safety"].mean if baseline and "safety" in baseline.metrics else None,
        filters=_filters(board),
        reasons=_reasons(board),
        strata=[(metric, subject_of(metric)) for names in strata.values() for metric in names],
        apart=len(strata[MetricKind.APART]),
        no_answers=any("no_answer" in s.metrics and s.metrics["no_answer"].mean > 0 for s in board.overall),
        judge_infos=[board.judge_infos[judge] for judge in (*board.judges, *board.ratings)],
        generators=sorted({cell.row["generator"] for cell in board.settled_cells} - {""}),
        rungs=[(name, MEANINGS[name]) for name in RUNGS],
        projects_own=PROJECTS_OWN,
        ranked_are=RANKED_ARE,
        drawings=drawings(board.sensitivity),
        points_of={defense: points_of(board, defense) for defense in board.at_points},
        tasks={entry.id: task_scores(board, entry) for entry in board.entries},
        detected=detection_table(board),
        losses=_losses(board),
        margin_orders=margin_agreement(board) if has_margin(board) else {},
        overall=OVERALL,
        judging=judging(board),
        readings=board.readings,
        labels=LABELS,
        retracted=retracted(board),
        published=published(),
        gate=GATE,
        refusal_gate=REFUSAL_GATE,
        refusal_flag=REFUSAL_FLAG,
        figures={name: Markup(svg) for name, svg in figures.items()},  # noqa: S704 - escaped where it is drawn
        data=Markup(  # noqa: S704 - escaped for its place
            page_data(
                board,
                shares=[column.key for column in columns if column.share and column.key != "worst"],
                costs=[column.key for column in columns if not column.share],
                axes=AXES,
                extra={
                    "cite": citations(board, rows),
                    "detection": detection_data(board),
                    **_known(board),
                    **_tuned(board),
                },
            )
        ),
        css=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own files
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def refusing(standing: Standing) -> str:
    """Return by how many points a defense refuses more than un-attacked FedAvg; empty up to :data:`REFUSAL_FLAG`."""
    excess = standing.excess_refusal
    if excess is None or not excess.mean > REFUSAL_FLAG:
        return ""
    return f"+{math.floor(float(formats.percent(excess.mean)) + 0.5)}"  # as the script rounds what is written


def in_words(standing: Standing) -> str:
    """Return the label of a standing's group; empty for ranked ones."""
    return GROUPS[standing.group].label


def known_by(standing: Standing) -> str:
    """Return the submitted attack behind a best-known value, or how many were not tried; empty otherwise."""
    known = standing.best_known
    if known is None:
        return ""
    if known.attack:
        return f"by {known.attack}" if len(known.attack) <= _LONGEST else f"by {known.attack[: _LONGEST - 1]}…"
    few = "it" if len(known.spared) == 1 else f"{len(known.spared)} attacks"
    return f"not attacked by {few}" if known.spared else ""


def tuned_by(standing: Standing) -> str:
    """Return the tuned attack behind a worst-tuned value and the budget of its search; empty without a search."""
    return standing.worst_tuned.words if standing.worst_tuned is not None else ""


_LONGEST = 24
"""Characters of an attack's id that a narrow column bears."""


def _known(board: Board) -> dict[str, Any]:
    """Return the texts below best-known values by view and defense, for the script; empty on boards without them."""
    return {"known": _words(board, known_by)} if board.has_best_known else {}


def _tuned(board: Board) -> dict[str, Any]:
    """Return the texts below worst-tuned values, likewise."""
    return {"tuned": _words(board, tuned_by)} if board.has_worst_tuned else {}


def _words(board: Board, words: Callable[[Standing], str]) -> dict[str, dict[int, str]]:
    positions = {entry.id: position for position, entry in enumerate(board.entries)}
    return {
        view: {positions[line.entry.id]: text for line in board.standings(view) if (text := words(line))}
        for view in (OVERALL, *board.by_scenario)
    }


@cache
def _assets(submissions: bool, tuned: bool) -> tuple[str, str]:
    """Return the style sheet and the script, with what only pages with ``submissions`` or ``tuned`` attacks need."""
    folder = files("leaderboard.page") / "assets"
    further = [*(["rungs.js"] if submissions else []), *(["tuned.js"] if tuned else [])]
    scripts = [*SCRIPTS[:-1], *further, SCRIPTS[-1]]
    styles = ["page.css", *(["rungs.css"] if submissions else [])]
    script, style = ([(folder / name).read_text(encoding="utf-8") for name in names] for names in (scripts, styles))
    return "".join(style), "".join(['"use strict";\n', *script])


def _headings(columns: Sequence[Column]) -> list[tuple[str, int, int]]:
    """Return every group of the ranking's columns with its width, without and with the columns shown on demand."""
    wide = Counter(column.heading for column in columns)
    narrow = Counter(column.heading for column in columns if not column.more)
    first = columns[0].heading  # one more: the drawing
    return [*((name, narrow[name] + (name == first), wide[name] + (name == first)) for name in wide), ("Method", 1, 2)]


def _sections(board: Board, *, staged: bool) -> list[tuple[str, str]]:
    local = [("local", "This machine")] if board.local and not board.local_only else []
    return [
        ("answer", "Answer"),
        *([("claims", "Claims")] if board.by_scenario else []),
        ("ranking", "Ranking"),
        *local,
        *([("stages", "Stages")] if staged else []),
        ("trade-off", "Trade-offs"),
        *([("losses", "Losses")] if has_margin(board) else []),
        ("heat", "Attack \N{MULTIPLICATION SIGN} defense"),
        ("sensitivity", "Sensitivity"),
        ("detection", "Detection"),
        ("judges", "Judges"),
        *([("readings", "Readers")] if board.readings else []),
        ("methods", "Defenses"),
        ("scenarios", "Scenarios"),
        ("published", "Published"),
        ("limits", "Limits"),
    ]


def _seed_range(board: Board) -> str:
    """Return the number of seeds of the scenarios, as ``3 to 10`` where they differ."""
    counts = {len(board.seeds_of(scenario.id)) for scenario in board.scenarios}
    fewest, most = min(counts, default=0), len(board.seeds)
    return str(most) if fewest == most else f"{fewest} to {most}"


def _losses(board: Board) -> list[tuple[Entry, Loss | None, Loss | None]]:
    """Return each defense with its losses of safety and margin over the compared scenarios; none without a margin."""
    if not has_margin(board):
        return []
    found = [
        (entry, loss_of(board, OVERALL, entry.id, "safety"), loss_of(board, OVERALL, entry.id, "margin"))
        for entry in board.entries
        if not entry.reference
    ]
    return [(entry, safety, margin) for entry, safety, margin in found if safety or margin]


def _filters(board: Board) -> dict[str, list[str]]:
    """Return what the ranking can be filtered by."""
    stages = {stage for entry in board.entries for stage in entry.info["stages"].split(",") if stage}
    return {
        "stages": sorted(stages),
        "told": sorted({entry.knowledge for entry in board.entries}),
        "origins": sorted({origin for entry in board.entries for origin in entry.origins}),
    }


def _reasons(board: Board) -> list[tuple[str, list[tuple[Entry, list[str]]]]]:
    """Return every reason for a missing or marked cell with the defenses and scenarios that it holds for."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for entry in board.entries:
        for scenario in board.scenarios:
            summary = entry.scenarios[scenario.id]
            if not summary.cells and scenario.leaves_out(entry.id):
                continue  # the scenario's remark names its defenses
            for text in summary.reasons + summary.flags:
                found[text][entry.id].append(scenario.info["title"])
    return [(text, [(board.entry(id_), places) for id_, places in by.items()]) for text, by in found.items()]


def _strata(board: Board, kind: MetricKind) -> list[str]:
    """Return the metrics of one kind, of all defenses, in alphabetical order."""
    return sorted({name for standing in board.overall for name in standing.metrics if kind_of(name) == kind})
