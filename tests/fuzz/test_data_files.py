"""Damaged data files: a value that is not text never becomes text."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.cli.data import report_lines
from tasks.hub.datasets import load_rows
from tasks.hub.inspection import inspect_data
from tasks.hub.roots import DATA_ROOT
from tasks.hub.settings import DatasetSource

from .mutations import ODD, damaged, returns_or_explains

PAIRS = [{"instruction": f"name {i}", "input": "", "output": f"red {i}"} for i in range(3)]
CHATS = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]} for _ in range(2)]
SETTINGS: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
    (PAIRS, {"columns": {"input": "input", "response": "output"}}),
    (CHATS, {"format": "chat", "columns": {"conversation": "messages"}}),
    (CHATS, {"format": "chat", "columns": {"conversation": "messages"}, "filters": ("first_turn", "with_text")}),
]
counter = itertools.count()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DATA_ROOT, str(folder))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield folder


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield f"{value:.0f}" if float(value).is_integer() else str(value)  # a number has one text


def _load(root: Path, content: bytes, suffix: str, options: dict[str, Any]) -> list[dict[str, str]] | None:
    file = root / f"{next(counter)}.{suffix}"
    file.write_bytes(content)
    try:
        source = DatasetSource(repository=f"o/{file.stem}", local=file.name, **options)
        rows: list[dict[str, str]] | None = returns_or_explains(lambda: load_rows(source).table.to_pylist())
        return rows
    finally:
        file.unlink()


def _come_from(rows: list[dict[str, str]] | None, document: Any) -> None:
    """Assert that every word of the rows stands in a text or a number of the document."""
    sources = " ".join(_texts(document))
    for row in rows or ():
        for column in ("instruction", "response"):
            for word in str(row.get(column, "")).split():
                assert word in sources, f"{word!r} of {row} is in no text of {document}"


@settings(settings.get_profile("fuzz"))
@given(case=st.sampled_from(SETTINGS), data=st.data(), lines=st.booleans())
def test_json_is_read_as_text_or_explained(
    root: Path, case: tuple[list[dict[str, Any]], dict[str, Any]], data: st.DataObject, lines: bool
) -> None:
    document = data.draw(damaged(case[0]))
    if lines and isinstance(document, list):
        content = "".join(json.dumps(row) + "\n" for row in document)
    else:
        content = json.dumps(document)
    rows = _load(root, content.encode("utf-8", "surrogatepass"), "jsonl" if lines else "json", case[1])
    _come_from(rows, document)


@settings(settings.get_profile("fuzz"))
@given(case=st.sampled_from(SETTINGS), data=st.data())
def test_parquet_is_read_as_text_or_explained(
    root: Path, case: tuple[list[dict[str, Any]], dict[str, Any]], data: st.DataObject
) -> None:
    document = data.draw(damaged(case[0]))
    try:
        table = pa.Table.from_pylist(document)
        target = io.BytesIO()
        pq.write_table(table, target)
    except (pa.ArrowException, AttributeError, LookupError, TypeError, ValueError, OverflowError):
        return  # Parquet holds no such rows
    _come_from(_load(root, target.getvalue(), "parquet", case[1]), document)


@settings(settings.get_profile("fuzz"))
@given(rows=st.lists(st.lists(ODD, min_size=1, max_size=4), min_size=1, max_size=4), damage=st.binary(max_size=4))
def test_csv_is_read_or_explained(root: Path, rows: list[list[Any]], damage: bytes) -> None:
    target = io.StringIO()
    csv.writer(target).writerows([["instruction", "input", "output"], *rows])
    _load(root, target.getvalue().encode("utf-8", "replace") + damage, "csv", SETTINGS[0][1])


@settings(settings.get_profile("fuzz"))
@given(content=st.binary(max_size=60), suffix=st.sampled_from(["json", "jsonl", "csv", "parquet"]))
def test_any_bytes_are_explained(root: Path, content: bytes, suffix: str) -> None:
    _load(root, content, suffix, SETTINGS[0][1])
    file = root / f"{next(counter)}.{suffix}"
    file.write_bytes(content)
    report = inspect_data(file, DatasetSource(repository="local/data", **SETTINGS[0][1]))
    assert all(line.isprintable() for line in report_lines(report, 40))
    file.unlink()
