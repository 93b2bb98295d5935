"""Norm clipping at the round's median norm with Gaussian noise (after Sun et al. 2019)."""

from __future__ import annotations

import torch

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._clipping import add_noise, clip_factors
from defenses._columns import weighted_sum
from defenses._distances import squared_norms
from defenses.base import Defense, Knowledge, Stage, register

NOISE = 0.002 / 3
"""Standard deviation of the noise of one update as a share of the norm bound."""


@register(
    title="Norm clipping with noise",
    description=(
        "Shortens every update that is longer than the round's median update to that length, takes the average "
        "weighted by training rows, and adds a little random noise to every number of the result, so that small "
        "hidden changes are blurred. The noise is far too weak to protect privacy."
    ),
    paper="Sun et al. 2019, arXiv 1911.07963",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class NormClippingNoise(Defense):
    """Aggregate to Σ w_i (c_i x_i + z_i) with c_i = min(1, M / ‖x_i‖), z_i ~ N(0, s² I), w_i the shares of samples.

    M is the median of the norms, as in the rule ``norm_clipping``, in place of the paper's fixed bound. Condition:
    n ≥ 1.

    s = M · 0.002 / 3. The paper's own noise belongs to its models. Of the published pairs of bound and noise this is
    the one with the least noise for its bound: M = 3 with s = 0.002, the default of github.com/vio1etus/FLPoison. The
    pairs of Wang et al. 2020, arXiv 2007.05084, have M from 2 to 3 and s from 0.025 to 0.158. FLPoison adds the
    noise to every clipped update before the mean, and switches it off by default.

    The rule draws the sum of these noises, which is N(0, s² Σ w_i² I): at n equal shares s / √n for each coordinate.
    The noise of d coordinates then has the norm s √(d / n). With ten clients it is a third of M at d = 2.25 million.
    The noise comes from the defense's own stream.

    No client weights are reported, because clipping bounds lengths and distrusts no client.
    Source: Sun et al. 2019, arXiv 1911.07963, section 4.

    The norms are 5, 10 and 1, so M = 5, the second update is halved and the average is (2, 3). The noise has the
    standard deviation 1 / (300 √3):

    >>> from defenses._examples import one_round
    >>> rows = [[3.0, 4.0], [6.0, 8.0], [0.0, 1.0]]
    >>> [round(value, 1) for value in NormClippingNoise().aggregate(*one_round(rows)).update.tolist()]
    [2.0, 3.0]
    """

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the weighted mean of the clipped updates with noise."""
        norms = squared_norms(updates.matrix.unbind()).sqrt()
        bound = torch.quantile(norms, 0.5)
        weights = updates.sample_counts.double() / updates.sample_counts.sum()
        update = weighted_sum(updates.matrix, weights * clip_factors(norms, bound))
        add_noise(update, NOISE * float(bound) * float(weights.norm()), context.generator)
        return Aggregate(update)
