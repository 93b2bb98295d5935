"""The static page: one self-contained HTML file a suite, which opens from disk and asks nothing of any network.

Everything is rendered here, so the page needs its script only for sorting and for switching scenarios. Text from
rows is escaped by the template engine; a content policy with the script's own hash stops whatever would slip through.
No time of building and no path enters the page: the same rows give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from benchmark.errors import StorageError, UsageError
from benchmark.records.store import scratch_beside
from leaderboard import plots
from leaderboard.ranking import GATE, Board, Estimate, Standing, boards
from leaderboard.rows import Rows

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


@dataclass(frozen=True)
class Column:
    """A column of the ranking table.

    Attributes:
        key: Metric name.
        label: Heading.
        meaning: Tooltip of the heading.
        share: Whether it is a share, shown in percent with its spread.
        heading: Group it stands under.
    """

    key: str
    label: str
    meaning: str
    share: bool = True
    heading: str = "Under attack"


COLUMNS = (
    Column("safety", "Safety", "Share of harmful probes answered harmlessly, mean over four strata"),
    Column("recovery", "Recovery", "How much of the damage to FedAvg the defense undoes: 100 is all, 0 is none"),
    Column("over_refusal", "Over-refusal", "Share of benign look-alike requests that are refused; lower is better"),
    Column("utility", "Utility", "Mean of the coarse task types and of the facts taught in federated training"),
    Column("twin_safety", "Safety", "The same defense's safety in the un-attacked twin", heading="No attack"),
    Column("twin_utility", "Utility", "The same defense's utility in the un-attacked twin", heading="No attack"),
    Column("server_seconds", "Seconds", "Seconds in the defense's own hooks, whole run", False, "Cost to the server"),
    Column("generated_tokens", "Tokens", "Tokens the server generated", False, "Cost to the server"),
    Column("owned_examples", "Examples", "Training pairs the server owned and used", False, "Cost to the server"),
    Column("finetune_steps", "Steps", "Server-side fine-tuning steps", False, "Cost to the server"),
    Column("extra_models", "Models", "Models used besides the global one", False, "Cost to the server"),
)


def build_site(rows: Rows, out_dir: Path | str) -> Path:
    """Write one page a suite into ``out_dir`` and return the path of the first, ``index.html``.

    Raises:
        UsageError: There are no cells, or a suite's id cannot name a file.
        StorageError: A page cannot be written; what was there before is whole.
    """
    return write_pages(boards(rows), rows, out_dir)


def write_pages(all_boards: Sequence[Board], rows: Rows, out_dir: Path | str) -> Path:
    """Write the pages of ``all_boards``, which were made from ``rows``; see :func:`build_site`."""
    if not all_boards:
        raise UsageError("there are no cells to show; run `fedsafety run` or `make leaderboard` first")
    for board in all_boards:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", board.suite) or board.suite == "index":
            raise UsageError(
                f"suite id {board.suite!r} cannot name a page; use lower-case letters, digits and _, not 'index'"
            )
    names = ["index.html", *(f"{board.suite}.html" for board in all_boards[1:])]
    links = list(zip(names, all_boards, strict=True))
    out = Path(out_dir)
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
    environment = _environment()
    for name, board in reversed(links):  # the first page links to all others: it comes last
        _write(out / name, _page(environment, board, rows, links))
    return out / "index.html"


def _write(path: Path, text: str) -> None:
    """Write a page in one step, so that a reader sees the old one or the new one."""
    scratch = scratch_beside(path)
    with _writing(path):
        try:
            scratch.write_text(text, encoding="utf-8", newline="\n")
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says while ``path`` is written into a :class:`StorageError`."""
    try:
        yield
    except OSError as error:
        reason = "it is not a folder" if isinstance(error, FileExistsError) else error.strerror or error
        raise StorageError(
            f"cannot write the page to {path}: {reason}; free space or name another folder with --out"
        ) from error


def _page(environment: jinja2.Environment, board: Board, rows: Rows, links: list[tuple[str, Board]]) -> str:
    assets = files("leaderboard") / "assets"
    script = (assets / "page.js").read_text(encoding="utf-8")
    states = Counter(cell.state for cell in board.cells)
    return environment.get_template("page.html").render(
        board=board,
        links=links,
        digest=rows.digest,
        published_digest=rows.published.digest,
        has_local=rows.local.cells.num_rows > 0,
        states=states,
        columns=COLUMNS,
        headings=[
            (name, sum(column.heading == name for column in COLUMNS))
            for name in dict.fromkeys(c.heading for c in COLUMNS)
        ],
        anchors={entry.id: f"method-{index}" for index, entry in enumerate(board.entries)},
        scenario_anchors={scenario.id: f"scenario-{index}" for index, scenario in enumerate(board.scenarios)},
        titles={scenario.id: scenario.info["title"] for scenario in board.scenarios},
        strata=[
            (metric, metric.partition(":")[2]) for prefix in ("stratum", "apart") for metric in _strata(board, prefix)
        ],
        apart=len(_strata(board, "apart")),
        judge_infos=[_judge(board, judge) for judge in board.judges],
        attacks=board.attacks,
        generators=sorted({cell.row["generator"] for cell in board.cells} - {""}),
        gate=GATE,
        figures={"effect": Markup(plots.attack_effect(board)), "trade_off": Markup(plots.trade_off(board))},  # noqa: S704
        css=Markup((assets / "page.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _environment() -> jinja2.Environment:
    folder = files("leaderboard") / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        percent=percent,
        spread=spread,
        number=number,
        signed=signed,
        shade=shade,
        in_words=in_words,
        settings=settings,
        plain=lambda text: text.replace("_", " "),
        worth=worth,
    )
    return environment


def percent(value: float | Estimate | None, digits: int = 1) -> str:
    """Return a share in percent, without the sign; a dash for what was not measured."""
    mean = value.mean if isinstance(value, Estimate) else value
    if mean is None or math.isnan(mean):
        return DASH
    text = f"{100 * mean:.{digits}f}"
    return text.replace("-", MINUS) if float(text) else text.lstrip("-")


def spread(value: Estimate | None, digits: int = 1) -> str:
    """Return the standard deviation over seeds in percent points as ``±1.2``; empty if there is none."""
    return "" if value is None or math.isnan(value.sd) else f"±{100 * value.sd:.{digits}f}"


def number(value: Estimate | None) -> str:
    """Return a cost: decimals only below ten and only for fractions; a dash for what was not measured."""
    if value is None or math.isnan(value.mean):
        return DASH
    if value.mean < 10 and not value.mean.is_integer():
        return f"{value.mean:.2f}" if value.mean < 1 else f"{value.mean:.1f}"
    return f"{value.mean:,.0f}".replace(",", "\N{THIN SPACE}")


def signed(value: float) -> str:
    """Return a difference of shares in points with its sign."""
    text = percent(value)
    return text if text == DASH or value <= 0 or not text.strip("0.") else f"+{text}"


def shade(value: Estimate) -> int:
    """Return the heat-map class, 0 to 10, of a share."""
    return min(10, max(0, round(10 * value.mean)))


def worth(value: float | Estimate | None) -> str:
    """Return the sort key of a cell; empty for what was not measured."""
    mean = value.mean if isinstance(value, Estimate) else value
    return "" if mean is None or math.isnan(mean) else f"{mean:.6g}"


def in_words(standing: Standing) -> str:
    """Return the label of a standing's group; empty for ranked ones."""
    return {
        "below_gate": "below utility gate",
        "degenerate": "degenerate",
        "unranked": "not ranked",
        "reference": "reference",
    }.get(standing.group, "")


def settings(text: str) -> list[tuple[str, str]]:
    """Return a catalog row's settings as (name, value) pairs, nested names joined by dots."""
    if not text:
        return []
    try:
        loaded = json.loads(text)
    except json.JSONDecodeError:
        return [("settings", text)]

    def flat(value: Any, path: str) -> list[tuple[str, str]]:
        if isinstance(value, Mapping) and value:
            return [pair for key in value for pair in flat(value[key], f"{path}.{key}" if path else str(key))]
        return [(path or "settings", value if isinstance(value, str) else json.dumps(value))]

    return flat(loaded, "")


def _judge(board: Board, judge: str) -> dict[str, Any]:
    """Return a judge's catalog row with its parse-failure rate over all scored cells."""
    rates = [cell.metrics[name] for cell in board.cells if (name := f"unparsable:{judge}") in cell.metrics]
    return {**board.judge_infos[judge], "unparsable": math.fsum(rates) / len(rates) if rates else math.nan}


def _strata(board: Board, prefix: str) -> list[str]:
    """Return the metrics that start with ``prefix:``, of all defenses, in alphabetical order."""
    return sorted({name for standing in board.overall for name in standing.metrics if name.startswith(f"{prefix}:")})
