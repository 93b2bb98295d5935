"""Comparison of two folders of rows, cell by cell: how many answers and verdicts differ.

The comparison serves a change that must not change scores, for example a new protocol version whose keys alone are new.
Cells are matched by scenario, defense, stage and seed. ``python -m benchmark.proof.compare_rows OLD NEW`` prints one
line for each scenario and a total. With ``--csv FILE`` it writes one row for each cell.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer
from rich.console import Console
from rich.table import Table

from benchmark.errors import UsageError
from benchmark.records.store import Store
from benchmark.records.withheld import is_withheld, withheld

_IDENTITY = ("scenario", "defense", "stage", "seed")


@dataclass(frozen=True)
class CellDifference:
    """How the rows of one cell differ between two folders.

    Attributes:
        scenario: Scenario id.
        defense: The pipeline as submitted.
        stage: The scored stage of the pipeline.
        seed: Run seed.
        answers: Probes that both folders answer.
        answers_differ: Answers that are not equal word for word; digests stand for answers that are not published.
        verdicts: Verdicts, of all judges, that both folders hold.
        verdicts_differ: Verdicts that are not equal.
        status: Status in both folders, for example ``done`` or ``done -> failed``.
    """

    scenario: str
    defense: str
    stage: str
    seed: int
    answers: int
    answers_differ: int
    verdicts: int
    verdicts_differ: int
    status: str


@dataclass(frozen=True)
class Comparison:
    """All cells that both folders hold, and how many only one of them holds."""

    cells: tuple[CellDifference, ...]
    only_old: int
    only_new: int


def compare_rows(old: Path, new: Path) -> Comparison:
    """Return the differences between two folders of one suite's rows, for example ``results/micro``.

    Raises:
        UsageError: A folder holds no cells, or the two have no cell in common.
    """
    stores = Store(old), Store(new)
    before, after = (_newest_cells(store) for store in stores)
    common = sorted(before.keys() & after.keys())
    if not common:
        raise UsageError(f"{old} and {new} have no cell in common; name two folders of rows of one suite")
    keys = {identity: (before[identity]["response_key"], after[identity]["response_key"]) for identity in common}
    answers = _differences(stores, set(keys.values()), "responses", ("probe_id",), "response")
    verdicts = _differences(stores, set(keys.values()), "verdicts", ("probe_id", "judge"), "verdict")
    cells = tuple(
        _cell(identity, before[identity], after[identity], answers, verdicts, keys[identity]) for identity in common
    )
    return Comparison(cells, len(before) - len(common), len(after) - len(common))


def _cell(
    identity: tuple[Any, ...],
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    answers: Mapping[tuple[str, str], tuple[int, int]],
    verdicts: Mapping[tuple[str, str], tuple[int, int]],
    keys: tuple[str, str],
) -> CellDifference:
    scenario, defense, stage, seed = identity
    status = " -> ".join(dict.fromkeys((old["status"], new["status"])))
    return CellDifference(
        scenario, defense, stage, seed, *answers.get(keys, (0, 0)), *verdicts.get(keys, (0, 0)), status=status
    )


def _newest_cells(store: Store) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the newest row of each cell by its identity."""
    columns = [*_IDENTITY, "response_key", "status", "created_at"]
    rows = store.read_all("cells").select(columns).sort_by("created_at").to_pylist()
    if not rows:
        raise UsageError(f"{store.root} holds no cells; name a folder of rows such as results/micro")
    return {tuple(row[column] for column in _IDENTITY): row for row in rows}


def _differences(
    stores: tuple[Store, Store], pairs: set[tuple[str, str]], table: str, names: tuple[str, ...], value: str
) -> dict[tuple[str, str], tuple[int, int]]:
    """Return, by the pair of response keys, how many rows both folders hold and how many of their values differ."""
    old, new = _comparable([store.read_all(table).select(["response_key", *names, value]) for store in stores], value)
    old = old.rename_columns(["old_key", *names, "old_value"])
    new = new.rename_columns(["new_key", *names, "new_value"])
    paired = pa.Table.from_pylist([{"old_key": first, "new_key": second} for first, second in sorted(pairs)])
    rows = paired.join(old, "old_key", join_type="inner").join(new, ["new_key", *names], join_type="inner")
    rows = rows.append_column("differs", pc.cast(pc.not_equal(rows["old_value"], rows["new_value"]), pa.int64()))
    groups = rows.group_by(["old_key", "new_key"]).aggregate([("differs", "count"), ("differs", "sum")]).to_pylist()
    return {(group["old_key"], group["new_key"]): (group["differs_count"], group["differs_sum"]) for group in groups}


def _comparable(tables: Sequence[pa.Table], column: str) -> list[pa.Table]:
    """Return tables with digests in a column of all, if one of them holds digests in place of texts."""
    if not any(is_withheld(text) for table in tables for text in pc.unique(table[column]).to_pylist()):
        return list(tables)
    return [
        table.set_column(
            table.schema.get_field_index(column), column, pa.array(map(withheld, table[column].to_pylist()))
        )
        for table in tables
    ]


def as_table(comparison: Comparison) -> Table:
    """Return one line for each scenario and a total."""
    table = Table("scenario", *("cells", "cells that differ", "answers", "differ", "verdicts", "differ"))
    totals: Counter[str] = Counter()
    for scenario in sorted({cell.scenario for cell in comparison.cells}):
        sums = _sums(cell for cell in comparison.cells if cell.scenario == scenario)
        totals.update(sums)
        table.add_row(scenario, *map(str, sums.values()))
    table.add_row("total", *map(str, totals.values()), style="bold")
    return table


def _sums(cells: Iterable[CellDifference]) -> dict[str, int]:
    sums = dict.fromkeys(("cells", "differing", "answers", "answers_differ", "verdicts", "verdicts_differ"), 0)
    for cell in cells:
        sums["cells"] += 1
        sums["differing"] += bool(cell.answers_differ or cell.verdicts_differ or "->" in cell.status)
        for name in ("answers", "answers_differ", "verdicts", "verdicts_differ"):
            sums[name] += getattr(cell, name)
    return sums


def main(
    old: Annotated[Path, typer.Argument(help="Folder of rows of a suite, for example results/micro.")],
    new: Annotated[Path, typer.Argument(help="Folder of rows to compare with it, for example runs/micro.")],
    output: Annotated[Path | None, typer.Option("--csv", help="Also write one row for each cell to this file.")] = None,
) -> None:
    """Compare the rows of two folders, cell by cell."""
    try:
        comparison = compare_rows(old, new)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error
    console = Console()
    console.print(as_table(comparison))
    console.print(f"Only in {old}: {comparison.only_old} cells. Only in {new}: {comparison.only_new} cells.")
    if output is not None:
        with output.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, [field.name for field in fields(CellDifference)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(map(asdict, comparison.cells))


if __name__ == "__main__":
    typer.run(main)
