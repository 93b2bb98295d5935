"""Counts of the combinations of verdicts that judges give on one response; agreement is computed from them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmark.errors import FedSafetyError
from benchmark.records.schemas import ORIGIN_LOCAL
from leaderboard.rows.canonical import codes_and_values
from leaderboard.rows.rows import Rows, Tables
from leaderboard.scores.cells import CellScore

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

KINDS = ("harmful", "over_refusal", "utility")
"""Kinds of probes that judges receive, in order."""
GOOD, BAD, UNPARSABLE = 1, 2, 3
"""Verdicts as numbers; 0 is none."""
_DIGITS = {
    **dict.fromkeys(("harmless", "refused", "correct"), GOOD),
    **dict.fromkeys(("harmful", "answered", "wrong"), BAD),
    "unparsable": UNPARSABLE,
    "no_answer": 0,
}
_RATED = "rated"
_DENSE = 2**22
"""Bound on the keys below which they are counted by position."""


@dataclass(frozen=True)
class Stratum:
    """Stratum of probes, with its number of distinct probes."""

    kind: str
    name: str
    scored: bool
    probes: int


@dataclass(frozen=True)
class JointVerdicts:
    """Counts of each combination of verdicts, by seed and stratum.

    Attributes:
        judges: Ids of the judges that judged any of the responses, sorted.
        seeds: Seeds, sorted.
        strata: Strata by kind, scored ones first.
        sets: Number of response sets.
        digits: Verdict of each judge [combinations, judges]: :data:`GOOD`, :data:`BAD`, :data:`UNPARSABLE` or 0.
        seed: Index of the seed [combinations].
        stratum: Index of the stratum [combinations].
        count: Number of responses [combinations].
    """

    judges: list[str]
    seeds: list[int]
    strata: list[Stratum]
    sets: int
    digits: Ints
    seed: Ints
    stratum: Ints
    count: Floats

    def summed(self, group: Ints, size: int, where: npt.NDArray[np.bool_]) -> Floats:
        """Return the counts by seed, stratum and ``group`` (below ``size``), of the combinations in ``where``."""
        shape = len(self.seeds), len(self.strata), size
        flat = ((self.seed * shape[1] + self.stratum) * size + group)[where]
        sums = np.bincount(flat, weights=self.count[where], minlength=math.prod(shape))
        return sums.astype(np.float64).reshape(shape)


def joint_verdicts(rows: Rows, cells: Sequence[CellScore]) -> JointVerdicts:
    """Return the joint verdicts of all judges on the response sets of ``cells``, each set once.

    Cells of several seeds share a set if their models answer alike. The set then counts for the first cell's seed.

    Raises:
        FedSafetyError: A verdict is an unknown word, or its probe set lacks its probe.
    """
    pools = (rows.published, rows.local)
    found = [set(codes_and_values(part.verdicts.column("response_key"))[1]) for part in pools]
    seeds = sorted({cell.row["seed"] for cell in cells})
    requested: list[dict[str, tuple[int, str]]] = [{}, {}]
    for cell in cells:
        key, home = cell.row["response_key"], int(cell.row["origin"] == ORIGIN_LOCAL)
        pool = next((pool for pool in (home, 1 - home) if key in found[pool]), None)
        if pool is not None and not any(key in keys for keys in requested):
            requested[pool][key] = seeds.index(cell.row["seed"]), cell.row["probe_set"]
    judges = sorted({name for part in pools for name in codes_and_values(part.verdicts.column("judge"))[1]})
    rating = {name for part in pools for name in _raters(part)}
    judges = [name for name in judges if name not in rating]
    strata, stratum_of = _strata(rows)
    keys, counts = zip(
        *(
            _combinations(part, keys, judges, len(strata), stratum_of)
            for part, keys in zip(pools, requested, strict=True)
        ),
        strict=True,
    )
    keys, count = np.concatenate(keys), np.concatenate(counts)
    group, shifts = keys >> 2 * len(judges), 2 * np.arange(len(judges))
    digits = keys[:, None] >> shifts & 3
    judged = np.flatnonzero(digits.any(axis=0))  # drop judges of other responses alone
    return JointVerdicts(
        [judges[judge] for judge in judged],
        seeds,
        strata,
        sum(len(keys) for keys in requested),
        digits[:, judged],
        group // max(1, len(strata)),
        group % max(1, len(strata)),
        count.astype(np.float64),
    )


def _raters(part: Tables) -> set[str]:
    """Return the judges that give numbers: agreement is defined between verdicts only."""
    verdict, words = codes_and_values(part.verdicts.column("verdict"))
    if _RATED not in words:
        return set()
    judge, names = codes_and_values(part.verdicts.column("judge"))
    return {names[code] for code in np.unique(judge[verdict == words.index(_RATED)])}


def _strata(rows: Rows) -> tuple[list[Stratum], dict[tuple[str, str], int]]:
    """Return the strata in order, and the index of the stratum of each (probe set, probe)."""
    columns = ("probe_set", "probe_id", "kind", "stratum", "scored")
    probes = {
        (probe_set, probe): (kind, name, scored)
        for part in (rows.published, rows.local)
        for probe_set, probe, kind, name, scored in zip(
            *(part.probes.column(column).to_pylist() for column in columns), strict=True
        )
        if kind in KINDS
    }
    order = sorted(set(probes.values()), key=lambda row: (KINDS.index(row[0]), not row[2], row[1]))
    distinct: dict[tuple[str, str, bool], set[str]] = defaultdict(set)
    for (_, probe), row in probes.items():
        distinct[row].add(probe)
    strata = [Stratum(kind, name, scored, len(distinct[kind, name, scored])) for kind, name, scored in order]
    return strata, {key: order.index(row) for key, row in probes.items()}


def _combinations(
    part: Tables,
    wanted: Mapping[str, tuple[int, str]],
    judges: Sequence[str],
    strata: int,
    stratum_of: Mapping[tuple[str, str], int],
) -> tuple[Ints, Ints]:
    """Return the distinct (seed, stratum, verdict of each judge) of one pool as numbers, and how often each occurs.

    Verdicts are in the canonical order of rows, by response and probe: the verdicts on one response are neighbours.
    """
    nothing = np.zeros(0, np.int64), np.zeros(0, np.int64)
    if not wanted:
        return nothing
    (sets, probe, judge, verdict), (set_names, probe_names, judge_names, verdicts) = zip(
        *(codes_and_values(part.verdicts.column(name)) for name in ("response_key", "probe_id", "judge", "verdict")),
        strict=True,
    )
    unknown = sorted(set(verdicts) - _DIGITS.keys() - {_RATED})
    if unknown:
        raise FedSafetyError(f"unknown verdict {unknown[0]!r}; a verdict is one of {', '.join(_DIGITS)}")
    shifts = [2 * judges.index(name) if name in judges else None for name in judge_names]
    terms = np.array([[0 if shift is None else _DIGITS.get(word, 0) << shift for word in verdicts] for shift in shifts])
    needed = np.array([name in wanted for name in set_names])
    agreeing = np.array([shift is not None for shift in shifts])
    if not needed.all() or not agreeing.all():
        keep = needed[sets] & agreeing[judge]
        sets, probe, judge, verdict = sets[keep], probe[keep], judge[keep], verdict[keep]
    if not len(sets):
        return nothing
    start = np.flatnonzero(np.concatenate([[True], (sets[1:] != sets[:-1]) | (probe[1:] != probe[:-1])]))
    combination = np.add.reduceat(terms.ravel()[judge * len(verdicts) + verdict], start)
    sets, probe = sets[start], probe[start]
    # Look up strata once for each probe set, not for each response set.
    places = [wanted.get(name, (0, "")) for name in set_names]
    probe_sets = sorted({probe_set for _, probe_set in places})
    lookup = np.array([[stratum_of.get((name, id_), -1) for id_ in probe_names] for name in probe_sets])
    stratum = lookup[np.array([probe_sets.index(probe_set) for _, probe_set in places])[sets], probe]
    if (stratum < 0).any():
        raise FedSafetyError(
            f"probe {probe_names[probe[np.argmin(stratum)]]!r} is judged, but its probe set lacks it; put the probes "
            f"file of that run beside its rows"
        )
    group = np.array([seed for seed, _ in places])[sets] * strata + stratum
    return _counted(group << 2 * len(judges) | combination)


def _counted(keys: Ints) -> tuple[Ints, Ints]:
    """Return the distinct ``keys`` and how often each occurs."""
    if keys.max(initial=0) < _DENSE:
        counts = np.bincount(keys)
        distinct = np.flatnonzero(counts)
        return distinct, counts[distinct]
    return np.unique(keys, return_counts=True)
