"""Simulation of the intervals' coverage and of false separations, on data whose truth is known.

``python -m leaderboard.scores.simulation`` prints the tables in docs/statistics.md; tests run it at reduced size.

Data. Scores resemble the suite's: four equally weighted strata of 48 probes, several defenses on the same seeds. A
seed's quality in a stratum is Beta distributed with the design's spread, strata differ in difficulty, and half of the
variance of the (normal) quality scores behind the Betas is shared by all defenses, which is what pairing removes. Given
its quality, a probe goes well at random. All defenses of a board have the same expected score, the design's mean, so
each separation is wrong.

Designs. Mid-range to near the end of the scale, spreads between seeds of 0.1 to 30 points. *Regular* designs keep at
least :data:`REGULAR` standard deviations of quality between mean and end. Beyond that a Beta is dominated by rare
collapses: most seeds are near the end, few are far off. No method can allow for a collapse that its seeds do not
contain, so these designs are reported apart from the goals.

Cautionary comparison: the percentile bootstrap that resamples seeds and, in each stratum, probes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.special import betaincinv, ndtr

from leaderboard.scores.stats import ALPHA, Bools, Floats, compare_all, estimate, holm

PER_STRATUM, STRATA = 48, 4
PROBES = PER_STRATUM * STRATA
SHARED = 0.5
"""Share of the variance of a seed's quality that all defenses have in common."""
DIFFICULTY = 0.5 * np.array([-1, -1 / 3, 1 / 3, 1])
"""Offset of each stratum's mean, as a share of the distance to the end of the scale."""
REGULAR = 1.5


@dataclass(frozen=True)
class Design:
    """Expected score of every defense, and standard deviation between seeds of its quality, as shares.

    Attributes:
        mean: The truth that an interval should cover.
        sd: Spread in a stratum of medium difficulty; smaller near the end of the scale, in proportion.
        calm: Factor on the spread of every second defense: equal defenses need not vary equally.
    """

    mean: float
    sd: float
    calm: float = 1.0

    @property
    def regular(self) -> bool:
        """Whether the mean is at least :data:`REGULAR` spreads away from the end of the scale."""
        return min(self.mean, 1 - self.mean) >= REGULAR * self.sd


DESIGNS = tuple(
    Design(mean, sd, calm)
    for mean, sd, calm in (
        (0.5, 0.005, 1),
        (0.5, 0.05, 1),
        (0.5, 0.15, 1),
        (0.5, 0.15, 0.2),
        (0.5, 0.30, 1),
        (0.8, 0.02, 1),
        (0.8, 0.10, 1),
        (0.8, 0.10, 0.2),
        (0.95, 0.005, 1),
        (0.95, 0.02, 1),
        (0.99, 0.005, 1),
        (0.998, 0.001, 1),
        (0.8, 0.20, 1),
        (0.8, 0.20, 0.2),
        (0.95, 0.05, 1),
        (0.95, 0.10, 1),
        (0.98, 0.05, 1),
        (0.99, 0.02, 1),
    )
)


@dataclass(frozen=True)
class Rates:
    """Rates over the boards of one design, as shares.

    Attributes:
        design: The design.
        seeds: Seeds of a board.
        boards: Number of boards; the slow bootstrap runs on fewer.
        coverage: Of the 95 % intervals of the means.
        paired: Of the 95 % intervals of the differences between neighbouring defenses, which are 0.
        separated: Boards on which any two defenses are called different after Holm.
        exact: Means whose interval is the exact one because no seed differed.
        bootstrap_coverage: As ``coverage``, by the percentile bootstrap; nan if it did not run.
        bootstrap_separated: As ``separated``, likewise.
    """

    design: Design
    seeds: int
    boards: int
    coverage: float
    paired: float
    separated: float
    exact: float
    bootstrap_coverage: float
    bootstrap_separated: float


def simulate(
    design: Design,
    seeds: int,
    rng: np.random.Generator,
    *,
    boards: int,
    defenses: int = 11,
    bootstrapped: int = 0,
    resamples: int = 2000,
) -> Rates:
    """Return the rates of ``boards`` simulated boards, the first ``bootstrapped`` of which are bootstrapped too."""
    tally, bootstrap = [], []
    above = np.arange(defenses - 1)
    for number in range(boards):
        answers = draw(design, seeds, defenses, rng)
        scores = answers.mean(axis=(2, 3))
        estimates = [estimate(row, PROBES) for row in scores]
        pairs = compare_all(scores, PROBES)
        tally.append(
            (
                fmean(e.low <= design.mean <= e.high for e in estimates),
                float(np.mean((pairs.low <= 0)[above, above + 1] & (pairs.high >= 0)[above, above + 1])),
                float(pairs.better().any()),
                fmean(e.method == "exact" for e in estimates),
            )
        )
        if number < bootstrapped:
            bootstrap.append(percentile_bootstrap(answers, design.mean, resamples, rng))
    coverage, paired, separated, exact = np.mean(tally, axis=0)
    slow = np.mean(bootstrap, axis=0) if bootstrap else np.full(2, np.nan)
    return Rates(design, seeds, boards, coverage, paired, separated, exact, *slow)


def draw(design: Design, seeds: int, defenses: int, rng: np.random.Generator) -> Bools:
    """Return which answers go well on one board, [defenses, seeds, strata, probes of a stratum]."""
    individual, common = rng.standard_normal((defenses, seeds)), rng.standard_normal(seeds)
    place = ndtr(np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * individual)[:, :, None]
    means = design.mean + DIFFICULTY * min(design.mean, 1 - design.mean)
    spread = design.sd * np.where(np.arange(defenses) % 2, design.calm, 1.0)[:, None, None]
    size = design.mean * (1 - design.mean) / spread**2 - 1
    # A quality of exactly 0 or 1 is a limit of the Beta: clip to the resolution of a double.
    quality = betaincinv(means * size, (1 - means) * size, np.clip(place, 1e-12, 1 - 1e-12))
    good: Bools = rng.random((defenses, seeds, STRATA, PER_STRATUM)) < quality[..., None]
    return good


def percentile_bootstrap(answers: Bools, truth: float, resamples: int, rng: np.random.Generator) -> tuple[float, bool]:
    """Return, by the percentile bootstrap over seeds and probes, the coverage of the means and whether any two differ.

    Every resample draws seeds and, in each stratum, probes, the same ones for all defenses. A pair's p value is twice
    the smaller share of resampled differences on one side of 0.
    """
    defenses, seeds = answers.shape[:2]
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
    probe_weights = rng.multinomial(PER_STRATUM, np.full(PER_STRATUM, 1 / PER_STRATUM), (resamples, STRATA)) / PROBES
    flat = answers.reshape(defenses, seeds, PROBES).astype(np.float64)
    means: Floats = np.stack(
        [((seed_weights @ defense) * probe_weights.reshape(resamples, PROBES)).sum(axis=1) for defense in flat]
    )
    low, high = np.quantile(means, (ALPHA / 2, 1 - ALPHA / 2), axis=1)
    first, second = np.triu_indices(defenses, 1)
    differences = means[first] - means[second]
    p = 2 * np.minimum((differences <= 0).mean(axis=1), (differences >= 0).mean(axis=1))
    return float(np.mean((low <= truth) & (truth <= high))), bool((holm(np.minimum(p, 1)) < ALPHA).any())


def run(
    designs: Sequence[Design], seeds: Sequence[int], *, boards: int, defenses: int, bootstrapped: int, seed: int
) -> Iterator[Rates]:
    """Yield the rates of each design at each number of seeds, each from a random stream of its own."""
    for count in seeds:
        for design in designs:
            key = [seed, count, *(round(1000 * value) for value in (design.mean, design.sd, design.calm))]
            rng = np.random.default_rng(key)
            yield simulate(design, count, rng, boards=boards, defenses=defenses, bootstrapped=bootstrapped)


def report(rates: Sequence[Rates], console: Console) -> None:
    """Print a line for each design and number of seeds, and the means over the regular and the skewed designs."""
    columns = ("mean", "sd", "every second", "", "seeds", "covered", "difference covered", "separated", "exact")
    title = "Seed-level t with Holm, and the percentile bootstrap (last two columns); rates in %"
    table = Table(*columns, "covered", "separated", title=title, box=None)
    for entry in rates:
        design = entry.design
        names = (f"{design.mean:.3f}", f"{design.sd:.3f}", f"{design.sd * design.calm:.3f}", _kind(design))
        table.add_row(*names, str(entry.seeds), *_percent([entry]))
    for kind in ("regular", "skewed"):
        for seeds in dict.fromkeys(entry.seeds for entry in rates):
            group = [entry for entry in rates if entry.seeds == seeds and _kind(entry.design) == kind]
            if group:
                table.add_row("all", "", "", kind, str(seeds), *_percent(group))
    console.print(table)


def _kind(design: Design) -> str:
    return "regular" if design.regular else "skewed"


def _percent(rates: Sequence[Rates]) -> list[str]:
    names = ("coverage", "paired", "separated", "exact", "bootstrap_coverage", "bootstrap_separated")
    return [f"{100 * fmean(getattr(entry, name) for entry in rates):.1f}" for name in names]


def main() -> None:
    """Run the simulation with the arguments of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m leaderboard.scores.simulation", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--boards", type=int, default=1000, help="boards for each design and number of seeds")
    parser.add_argument("--bootstrapped", type=int, default=100, help="boards of these to bootstrap as well")
    parser.add_argument("--seeds", default="3,5,10", help="numbers of seeds, separated by commas")
    parser.add_argument("--defenses", type=int, default=11, help="defenses on a board")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulation itself")
    arguments = parser.parse_args()
    seeds = [int(text) for text in arguments.seeds.split(",")]
    rates = run(
        DESIGNS,
        seeds,
        boards=arguments.boards,
        defenses=arguments.defenses,
        bootstrapped=min(arguments.bootstrapped, arguments.boards),
        seed=arguments.seed,
    )
    progress = Console(stderr=True)
    total = len(DESIGNS) * len(seeds)
    report(list(track(rates, "simulating", total=total, console=progress)), Console(width=120))


if __name__ == "__main__":
    main()
