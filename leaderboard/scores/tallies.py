"""Tallies of a rule's treatment of malicious and benign clients: sums over a training's rounds, and a round's AUC."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from leaderboard.rows.canonical import codes_and_values

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_Groups = dict[int, dict[tuple[int, bool], Floats]]

FLAGGED = 0.5
"""Share of the uniform weight below which a client is flagged."""

COLUMNS = ("rounds", "malicious", "benign", "flagged_malicious", "flagged_benign", "auc", "auc_rounds", "discarded")
"""Columns of a sum over rounds."""


@dataclass(frozen=True)
class Tally:
    """Sums over the rounds of one training.

    ``drawn`` counts all rounds by (malicious participants, whether they are the majority). ``seen`` sums
    :data:`COLUMNS` over the rounds in which the rule gave weights, by the same pair of the participants that it saw.
    """

    drawn: dict[tuple[int, bool], int]
    seen: dict[tuple[int, bool], Floats]
    rejected: int


def tallies_of(table: pa.Table, wanted: set[str]) -> dict[str, Tally]:
    """Return the tallies of the ``wanted`` trainings in one pool of rounds (a canonical table), by training key.

    The reader of rows has checked that each round holds one flag and one possible weight for each client.
    """
    codes, names = codes_and_values(table.column("training_key"))
    number = table.column("round").to_numpy()
    keep = np.array([name in wanted for name in names], dtype=bool)[codes]
    # A training that ran twice has its rounds twice; only their seconds differ.
    keep[1:] &= (codes[1:] != codes[:-1]) | (number[1:] != number[:-1])
    if not keep.any():
        return {}
    table = table.filter(pa.array(keep)).combine_chunks()
    codes = codes[keep]
    lists = {name: table.column(name).combine_chunks() for name in ("clients", "malicious", "weights", "rejected")}
    length = {name: _lengths(array) for name, array in lists.items()}
    rejected = length["rejected"]
    door = _refused(lists, rejected)
    malicious = lists["malicious"].flatten().to_numpy(zero_copy_only=False)
    row = np.repeat(np.arange(len(codes)), length["clients"])
    drawn = np.bincount(row, weights=malicious, minlength=len(codes)).astype(np.int64)
    weighted = length["weights"] > 0
    weight = np.full(len(row), math.nan)
    weight[weighted[row]] = lists["weights"].flatten().to_numpy(zero_copy_only=False)
    counted = ~door & weighted[row]
    sums, n = _rounds(weight[counted], malicious[counted], row[counted], len(codes))
    present = n > 0
    groups = {
        "drawn": _grouped(codes, drawn, length["clients"], np.ones((len(codes), 1))),
        "seen": _grouped(codes[present], sums[present, 1].astype(np.int64), n[present], sums[present]),
    }
    refused = np.bincount(codes, weights=rejected, minlength=len(names))
    return {
        names[code]: Tally(
            {group: int(total[0]) for group, total in groups["drawn"].get(code, {}).items()},
            groups["seen"].get(code, {}),
            int(refused[code]),
        )
        for code in map(int, np.unique(codes))
    }


def auc(weights: Floats, malicious: Bools) -> Floats:
    """Return for each row the probability that a malicious client weighs less than a benign one; a tie counts one half.

    Equal to the Mann-Whitney U of the benign weights over the number of pairs; nan where a kind is absent.

    Args:
        weights: Weights [rounds, clients].
        malicious: Mask of the malicious clients, of the same shape.

    >>> auc(np.array([[0.5, 0.5, 0.0], [0.2, 0.2, 0.6]]), np.array([[False, False, True], [False, True, False]]))
    array([1.  , 0.75])
    """
    order = np.argsort(weights, axis=1, kind="stable")
    ordered = np.take_along_axis(weights, order, axis=1)
    benign = ~np.take_along_axis(malicious, order, axis=1)
    # All weights of a tie get the mean of its first and last position.
    positions = np.broadcast_to(np.arange(weights.shape[1]), weights.shape)
    starts, ends = np.ones(weights.shape, bool), np.ones(weights.shape, bool)
    starts[:, 1:] = ends[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(starts, positions, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, positions, weights.shape[1])[:, ::-1], axis=1)[:, ::-1]
    count = benign.sum(axis=1)
    below = (np.where(benign, (first + last) / 2, 0.0)).sum(axis=1) - count * (count - 1) / 2
    pairs = count * (weights.shape[1] - count)
    share: Floats = np.divide(below, pairs, out=np.full(len(weights), math.nan), where=pairs > 0)
    return share


def _lengths(lists: pa.Array) -> Ints:
    lengths: Ints = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def _refused(lists: Mapping[str, pa.Array], rejected: Ints) -> Bools:
    """Return for each participation whether its update was refused at the door; rounds with refusals are rare."""
    starts = np.concatenate([[0], np.cumsum(_lengths(lists["clients"]))])
    refused = np.zeros(starts[-1], dtype=bool)
    for index in np.flatnonzero(rejected):
        names = set(lists["rejected"][index].as_py())
        refused[starts[index] : starts[index + 1]] = [name in names for name in lists["clients"][index].as_py()]
    return refused


def _rounds(weights: Floats, malicious: Bools, row: Ints, count: int) -> tuple[Floats, Ints]:
    """Return :data:`COLUMNS` [rounds, columns] and n [rounds], from the participations that the rule saw."""
    n = np.bincount(row, minlength=count)
    total = np.bincount(row, weights=weights, minlength=count)
    flagged = weights < FLAGGED * (total / np.maximum(n, 1))[row]
    flagged |= (total == 0)[row]
    sums = np.zeros((count, len(COLUMNS)))
    sums[:, 0] = 1
    for column, mask in enumerate((malicious, ~malicious, flagged & malicious, flagged & ~malicious), start=1):
        sums[:, column] = np.bincount(row, weights=mask, minlength=count)
    for size in np.unique(n[n > 0]):  # rounds of one size make a matrix
        rounds = np.flatnonzero(n == size)
        inside = (n == size)[row]
        values = auc(weights[inside].reshape(-1, size), malicious[inside].reshape(-1, size))
        sums[rounds, 5] = np.nan_to_num(values)
        sums[rounds, 6] = ~np.isnan(values)
    sums[:, 7] = (total == 0) & (n > 0)
    return sums, n


def _grouped(codes: Ints, malicious: Ints, n: Ints, values: Floats) -> _Groups:
    """Return the sums of ``values`` by training code and by (malicious clients, whether they are more than half)."""
    if not len(codes):
        return {}
    keys = (codes * (int(malicious.max()) + 1) + malicious) * 2 + (2 * malicious > n)
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    sums = np.add.reduceat(values[order], starts, axis=0)
    found: _Groups = defaultdict(dict)
    for index, total in zip(order[starts], sums, strict=True):
        group = int(malicious[index]), bool(2 * malicious[index] > n[index])
        found[int(codes[index])][group] = total
    return found
