"""One canonical form per set of rows, so that the same rows give the same digest and the same page bytes.

Rows are sorted by their key, every string column becomes a dictionary that is sorted and holds used values only, and
chunks are joined. How rows were split over files, in which order they were written and how dictionaries were coded
leaves no trace.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from hashlib import _Hash

Codes = npt.NDArray[np.int64]


def canonical_table(
    table: pa.Table, keys: Sequence[str], on_repeat: Callable[[dict[str, Any], dict[str, Any]], None] | None
) -> pa.Table:
    """Return ``table`` in canonical form: sorted by ``keys``, strings as sorted dictionaries, one chunk a column.

    Args:
        table: Any rows without nulls in string columns.
        keys: The columns whose values identify a row.
        on_repeat: Called with every two neighbouring rows of one key; it raises what the caller wants raised. If it
            returns, the second row is dropped. ``None`` keeps repeated rows.
    """
    if table.num_rows == 0:
        return table.combine_chunks()
    columns = {name: _encoded(table.column(name)) for name in table.column_names}
    key = _row_keys([columns[name] for name in keys])
    order = np.arange(len(key)) if bool((key[1:] > key[:-1]).all()) else np.argsort(key, kind="stable")
    ordered = key[order]
    repeats = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    if len(repeats) and on_repeat is not None:
        first, second = (table.take(order[positions]).to_pylist() for positions in (repeats - 1, repeats))
        for one, other in zip(first, second, strict=True):
            on_repeat(one, other)
        order = np.delete(order, repeats)
    return pa.table({name: _take(column, order) for name, column in columns.items()})


def update_digest(digest: _Hash, table: pa.Table) -> None:
    """Feed the content of a canonical table to ``digest``: names, types, lengths and values, nothing of the layout."""
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        digest.update(f"{name}:{column.type}:{len(column)};".encode())
        _update(digest, column)


def rows_digest(tables: Sequence[tuple[str, pa.Table]]) -> str:
    """Return the SHA-256 (hex) over the content of canonical ``tables``, given as (name, table)."""
    digest = hashlib.sha256()
    for name, table in tables:
        digest.update(f"table {name};".encode())
        update_digest(digest, table)
    return digest.hexdigest()


def codes_and_values(column: pa.ChunkedArray) -> tuple[Codes, list[str]]:
    """Return the dictionary codes of a canonical string column and the sorted values they stand for."""
    array = column.combine_chunks()
    if not pa.types.is_dictionary(array.type):  # an empty table keeps its plain string columns
        array = array.dictionary_encode()
    return array.indices.to_numpy().astype(np.int64), array.dictionary.to_pylist()


def _encoded(column: pa.ChunkedArray) -> pa.Array:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_dictionary(kind):
        array = column.unify_dictionaries().combine_chunks()
        return _sorted_dictionary(array if pa.types.is_dictionary(kind) else array.dictionary_encode())
    return column.combine_chunks()


def _sorted_dictionary(array: pa.DictionaryArray) -> pa.DictionaryArray:
    # A file's dictionary may hold a value twice or hold unused ones; encoding it anew costs its size, not the rows'.
    encoded = array.dictionary.dictionary_encode()
    codes = encoded.indices.to_numpy()[array.indices.to_numpy()]
    used = np.zeros(len(encoded.dictionary), dtype=bool)
    used[codes] = True
    values = encoded.dictionary.filter(pa.array(used))
    order = pc.sort_indices(values)
    rank = np.empty(len(values), dtype=np.int32)
    rank[order.to_numpy()] = np.arange(len(values), dtype=np.int32)
    remap = np.full(len(used), -1, dtype=np.int32)
    remap[used] = rank
    return pa.DictionaryArray.from_arrays(pa.array(remap[codes]), values.take(order))


def _row_keys(columns: Sequence[pa.Array]) -> Codes:
    key: Codes | None = None
    for column in columns:
        if pa.types.is_dictionary(column.type):
            codes, size = column.indices.to_numpy().astype(np.int64), len(column.dictionary)
        else:
            values, inverse = np.unique(column.to_numpy(zero_copy_only=False), return_inverse=True)
            codes, size = inverse.astype(np.int64), len(values)
        if key is None:
            key = codes
        elif int(key.max(initial=0)) < 2**62 // max(size, 1):
            key = key * size + codes
        else:  # too many combinations for one integer: number the ones that occur
            key = np.unique(key, return_inverse=True)[1].astype(np.int64) * size + codes
    assert key is not None
    return key


def _take(column: pa.Array, order: Codes) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        codes = column.indices.to_numpy()[order]
        taken = pa.DictionaryArray.from_arrays(pa.array(codes), column.dictionary)
        return taken if len(order) == len(column) else _sorted_dictionary(taken)
    return column.take(pa.array(order))


def _update(digest: _Hash, array: pa.Array) -> None:
    kind = array.type
    if pa.types.is_dictionary(kind):
        values = array.dictionary
        digest.update(np.asarray(pc.binary_length(values), dtype=np.int64).tobytes())
        digest.update("".join(values.to_pylist()).encode())
        digest.update(array.indices.to_numpy().astype(np.int32, copy=False).tobytes())
    elif pa.types.is_string(kind):
        _update(digest, _sorted_dictionary(array.dictionary_encode()) if len(array) else pa.array([], pa.int32()))
    elif pa.types.is_list(kind):
        digest.update(pc.list_value_length(array).fill_null(-1).to_numpy().astype(np.int32).tobytes())
        _update(digest, array.flatten())
    else:
        digest.update(np.packbits(array.is_null().to_numpy(zero_copy_only=False)).tobytes())
        plain = array.cast(pa.int64()) if pa.types.is_timestamp(kind) else array
        filled = plain.fill_null(False if pa.types.is_boolean(kind) else 0) if array.null_count else plain
        digest.update(filled.to_numpy(zero_copy_only=False).tobytes())
