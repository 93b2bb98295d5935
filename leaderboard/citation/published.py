"""Published tables as reference data: copied from papers, marked as such, never mixed with rows.

The numbers are single runs without uncertainty. The least difference that they can show is estimated from rows of the
tables that are the same function and differ all the same; see :class:`NoiseFloor`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from scipy.special import stdtrit

from benchmark.errors import unknown_name

CONFIDENCE = 0.95
"""Two-sided confidence at which two published numbers count as different."""
PAPERS = ("ye2025",)


@dataclass(frozen=True)
class Source:
    """The paper that the numbers are copied from."""

    key: str
    title: str
    authors: tuple[str, ...]
    venue: str
    arxiv: str
    setting: str

    @property
    def url(self) -> str:
        """Address of the paper."""
        return f"https://arxiv.org/abs/{self.arxiv}"


@dataclass(frozen=True)
class Metric:
    """A metric of the paper; higher is better for all. ``unit`` is ``%`` or empty."""

    id: str
    title: str
    unit: str
    meaning: str


@dataclass(frozen=True)
class Method:
    """A method as the paper ran it.

    Attributes:
        id: Name of the row.
        title: Heading of the row.
        related: Id of the nearest method here.
        note: How the paper's procedure differs from that one; empty where no difference matters.
    """

    id: str
    title: str
    related: str
    note: str


@dataclass(frozen=True)
class Column:
    """One column: a metric under a heading (data set, client count, …)."""

    group: str
    metric: Metric


@dataclass(frozen=True)
class Row:
    """One printed row; ``values`` has one number a column."""

    method: Method
    values: tuple[float, ...]


@dataclass(frozen=True)
class Table:
    """One table of the paper.

    Attributes:
        id: Its number in the paper.
        title: What it varies.
        note: A remark for readers; may be empty.
        columns: In printed order.
        rows: In printed order.
        baseline: Id of the row that others are compared with.
    """

    id: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    baseline: str

    def value(self, method: str, metric: str, group: str = "") -> float:
        """Return one number; ``group`` may be left out where there is only one.

        Raises:
            UsageError: The table has no such row or column.
        """
        rows = {row.method.id: row for row in self.rows}
        if method not in rows:
            raise unknown_name(f"row of table {self.id}", method, rows)
        wanted = group or self.columns[0].group
        columns = {f"{column.group}, {column.metric.id}": index for index, column in enumerate(self.columns)}
        if f"{wanted}, {metric}" not in columns:
            raise unknown_name(f"column of table {self.id}", f"{wanted}, {metric}", columns)
        return rows[method].values[columns[f"{wanted}, {metric}"]]


@dataclass(frozen=True)
class NoiseFloor:
    """Noise of one metric: how far repeated runs of one function differ, in the paper's own numbers.

    Attributes:
        metric: The metric.
        differences: Absolute differences between the rows of one function, one a setting.
        sd: Standard deviation of a single printed number: sqrt(sum of squared differences / 2n), n degrees of freedom.
        least: Least difference between two printed numbers that is not within the noise: t * sqrt(2) * sd.
    """

    metric: Metric
    differences: tuple[float, ...]
    sd: float
    least: float


@dataclass(frozen=True)
class Published:
    """One paper's tables.

    Attributes:
        source: Where they come from.
        metrics: By id.
        tables: In the paper's order.
        noise: Noise floor by metric id, for metrics that the repeated rows have.
        explanation: How the noise floor is derived.
        remarks: Contradictions and limits that a reader should know.
    """

    source: Source
    metrics: Mapping[str, Metric]
    tables: tuple[Table, ...]
    noise: Mapping[str, NoiseFloor]
    explanation: str
    remarks: tuple[str, ...]

    def table(self, id_: str) -> Table:
        """Return the table with that number.

        Raises:
            UsageError: There is none.
        """
        by_id = {table.id: table for table in self.tables}
        if id_ not in by_id:
            raise unknown_name("published table", id_, by_id)
        return by_id[id_]

    def separated(self, table: Table, row: Row, column: int) -> bool | None:
        """Return whether a number differs from its table's baseline by more than the noise.

        ``None`` for the baseline itself and for metrics without a noise floor.
        """
        floor = self.noise.get(table.columns[column].metric.id)
        if floor is None or row.method.id == table.baseline:
            return None
        base = next(other for other in table.rows if other.method.id == table.baseline)
        return abs(row.values[column] - base.values[column]) > floor.least


@cache
def published(paper: str = "ye2025") -> Published:
    """Return the tables of a paper; ``ye2025`` is arXiv 2406.10630.

    Raises:
        UsageError: The paper is unknown.
    """
    if paper not in PAPERS:
        raise unknown_name("published paper", paper, PAPERS)
    text = (files("leaderboard.citation") / "papers" / f"{paper}.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    metrics = {entry["id"]: Metric(**entry) for entry in content["metrics"]}
    methods = {id_: Method(id_, **{"note": "", **entry}) for id_, entry in content["methods"].items()}
    tables = tuple(_table(entry, metrics, methods) for entry in content["tables"])
    source = content["source"]
    return Published(
        source=Source(**{**source, "authors": tuple(source["authors"])}),
        metrics=metrics,
        tables=tables,
        noise=_noise(content["noise"], tables),
        explanation=content["noise"]["explanation"],
        remarks=tuple(content["remarks"]),
    )


def _table(entry: Mapping[str, Any], metrics: Mapping[str, Metric], methods: Mapping[str, Method]) -> Table:
    columns = tuple(Column(group, metrics[name]) for group in entry["groups"] for name in entry["metrics"])
    rows = tuple(Row(methods[id_], tuple(map(float, values))) for id_, values in entry["rows"].items())
    assert all(len(row.values) == len(columns) for row in rows), entry["id"]
    return Table(entry["id"], entry["title"], entry.get("note", ""), columns, rows, entry["baseline"])


def _noise(entry: Mapping[str, Any], tables: tuple[Table, ...]) -> dict[str, NoiseFloor]:
    found: dict[str, list[float]] = {}
    metrics: dict[str, Metric] = {}
    for table in tables:
        if table.id in entry["tables"]:
            one, other = (next(row for row in table.rows if row.method.id == id_) for id_ in entry["same"])
            for column, a, b in zip(table.columns, one.values, other.values, strict=True):
                # Printed with two decimals: what binary fractions add is cut off.
                found.setdefault(column.metric.id, []).append(round(abs(a - b), 2))
                metrics[column.metric.id] = column.metric
    floors = {}
    for id_, differences in found.items():
        sd = math.sqrt(math.fsum(d * d for d in differences) / (2 * len(differences)))
        quantile = float(stdtrit(len(differences), 0.5 + CONFIDENCE / 2))
        floors[id_] = NoiseFloor(metrics[id_], tuple(differences), sd, quantile * math.sqrt(2) * sd)
    return floors
