"""Digests in place of texts that published rows do not hold.

A digest replaces the text of an answer to a harmful prompt, and the text of a prompt whose data set is fetched and not
copied. It is a text itself, ``sha256:<64 hexadecimal digits>:<characters>``, so that the columns stay the same. Whoever
runs a cell again gets the text and can compare it with the digest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa

from benchmark.errors import FedSafetyError
from benchmark.records.schemas import TABLES

TEXT, ANSWERS, HASH = "text", "answers", "hash"
"""What published rows hold of a set of probes: prompts and answers, answers alone, or digests alone."""
Extents = Mapping[str, str]
"""Set of probes, the first part of its probes' ids → one of the three; a set that is absent is published as text."""

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}:[0-9]+")
_COLUMNS: Final = {
    "responses": (("response",), (HASH,)),
    "probes": (("instruction", "reference", "target"), (ANSWERS, HASH)),
}
"""Table → its columns of texts, and the extents under which digests replace them."""
_ORDER: Final = (TEXT, ANSWERS, HASH)


def withheld(text: str) -> str:
    """Return the digest of a text, with its length; the digest of a digest is itself. An empty text stays empty.

    >>> withheld("Sure")
    'sha256:c54cbee211a25e1433eb71998057181fa2c44273dc20445a35263c86a0ca041d:4'
    """
    if not text or is_withheld(text):
        return text
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}:{len(text)}"


def text_digest(text: str) -> str:
    """Return the SHA-256 (hex) of a text; of a digest in place of a text, the SHA-256 that the digest holds.

    >>> text_digest("Sure") == text_digest(withheld("Sure"))
    True
    """
    return text.split(":")[1] if is_withheld(text) else hashlib.sha256(text.encode()).hexdigest()


def is_withheld(text: str) -> bool:
    """Return whether a value of a column of texts is a digest."""
    return _DIGEST.fullmatch(text) is not None


def same_text(one: str, other: str) -> bool:
    """Return whether two values stand for the same text; where one is a digest, the digests are compared."""
    return one == other or ((is_withheld(one) or is_withheld(other)) and withheld(one) == withheld(other))


def extents_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what a suite publishes of its sets of probes, from the suite's settings in its catalog row."""
    data = settings.get("data") or {}
    return {probes["id"]: probes.get("publish", TEXT) for probes in data.get("probes", ())}


def extents_in(probes: pa.Table) -> dict[str, str]:
    """Return what is published of each set of probes, from rows of table ``probes``."""
    found: dict[str, str] = {}
    for probe, extent in zip(probes["probe_id"].to_pylist(), probes["publish"].to_pylist(), strict=True):
        name = probe.partition("/")[0]
        found[name] = max(found.get(name, TEXT), extent or TEXT, key=_ORDER.index)
    return found


def strictest(one: Extents, other: Extents) -> dict[str, str]:
    """Return for each set the smaller of two extents.

    >>> strictest({"a": "text", "b": "hash"}, {"a": "answers"})
    {'a': 'answers', 'b': 'hash'}
    """
    sets = [*one, *(name for name in other if name not in one)]
    return {name: max(one.get(name, TEXT), other.get(name, TEXT), key=_ORDER.index) for name in sets}


def without_texts(table: str, rows: pa.Table, extents: Extents) -> pa.Table:
    """Return rows of a table with digests in place of the texts that are not published.

    Args:
        table: Name of the table; tables without such texts are returned as they are.
        rows: Its rows, with a column ``probe_id``.
        extents: What is published of each set of probes.
    """
    columns, hidden = _COLUMNS.get(table, ((), ()))
    if not columns or not any(extent in hidden for extent in extents.values()):
        return rows
    hides = [_extent(probe, extents) in hidden for probe in rows["probe_id"].to_pylist()]
    for column in columns:
        texts = rows[column].to_pylist()
        made = [withheld(text) if hide and text else text for text, hide in zip(texts, hides, strict=True)]
        field = TABLES[table].field(column)
        rows = rows.set_column(rows.schema.get_field_index(column), field, pa.array(made, pa.string()).cast(field.type))
    return rows


def withheld_answers(responses: pa.Table) -> set[tuple[str, str]]:
    """Return response key and probe id of each row of table ``responses`` that holds a digest in place of its text."""
    columns = (responses[name].to_pylist() for name in ("response_key", "probe_id", "response"))
    return {(key, probe) for key, probe, response in zip(*columns, strict=True) if is_withheld(response)}


def check_no_texts(table: str, rows: pa.Table, extents: Extents) -> None:
    """Refuse rows that hold a text that is not published.

    Raises:
        FedSafetyError: There is one; names the probe.
    """
    columns, hidden = _COLUMNS.get(table, ((), ()))
    for column in columns:
        for probe, text in zip(rows["probe_id"].to_pylist(), rows[column].to_pylist(), strict=True):
            if text and _extent(probe, extents) in hidden and not is_withheld(text):
                raise FedSafetyError(
                    f"the {column} of probe {probe!r} is a text, and the suite publishes only its digest "
                    f"(publish: {_extent(probe, extents)}); nothing was written"
                )


def find_misplaced(table: str, rows: pa.Table, extents: Extents) -> str:
    """Return in words the first value of a table that is not in the form that the suite publishes; empty for none.

    A value is misplaced if it is a text where the suite publishes the digest, or a digest where it publishes the text.
    """
    columns, hidden = _COLUMNS.get(table, ((), ()))
    for column in columns:
        for probe, text in zip(rows["probe_id"].to_pylist(), rows[column].to_pylist(), strict=True):
            extent = _extent(probe, extents)
            if text and is_withheld(text) != (extent in hidden):
                form, other = ("a digest", "the text") if is_withheld(text) else ("a text", "only the digest")
                return f"the {column} of probe {probe!r} is {form}, and the suite publishes {other} (publish: {extent})"
    return ""


def _extent(probe_id: str, extents: Extents) -> str:
    return extents.get(probe_id.partition("/")[0], TEXT)
