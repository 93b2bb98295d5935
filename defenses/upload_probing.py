"""Probing of uploads (MOS and TPC, after CloudGhost 2026): each client's model is asked before it counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmark.errors import FedSafetyError
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._columns import weighted_sum
from defenses.base import Defense, Knowledge, Server, Stage, register
from tasks.base import Example

PROMPTS = 32
"""Most harmful prompts with which an upload is probed."""
ROWS = 16
"""Most normal rows with which an upload is probed."""
OPENING_SHARE = 0.05
"""Share of the server's refusals that must begin with a word for the word to count as an opening."""
LEAST_SHARE = 0.5
"""Share of the median upload's refusals, and of its probability of a token, that an upload must keep."""


@register(
    title="Upload probing",
    description=(
        "The server applies each update alone and asks the resulting model before it counts. Rejected are updates "
        "after which answers to harmful prompts begin less than half as often with a refusal as after the median "
        "update, or after which ordinary rows are less than half as likely. The rest are averaged as FedAvg does."
    ),
    paper="MOS and TPC, as described by CloudGhost 2026",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
    resources="aligned and normal pairs; a forward and a backward pass for each update in every round",
    asks_server=True,
)
class UploadProbing(Defense):
    """Aggregate to the sample-weighted mean of the uploads that pass two probes.

    The model of upload i is the broadcast adapter plus its update x_i.

    1. Refusals r_i: the mean probability, over harmful prompts that the server owns, of the likeliest opening of a
       refusal as the first token of the answer. The openings are the usual first words of the server's own refusals
       (see below). The upload passes with r_i ≥ median(r) / 2.
    2. Loss l_i: the mean token loss on normal rows that the server owns, in nats. The upload passes with l_i ≤
       median(l) + log 2, so that a token keeps at least half of its probability in the geometric mean.

    The described defenses reject an upload whose share of harmful answers is too high (MOS) or whose task score is
    too low (TPC), and no threshold is published. The thresholds here are relative to the median upload of the round.
    A bound relative to the start model would reject honest clients as well, because training on benign rows costs
    refusals, too (Qi et al. 2023, arXiv 2310.03693). The first token stands for the whole answer, because generation
    would cost as many passes as an answer has tokens. An answer that begins as a refusal and then complies passes.

    *Openings.* A word is an opening if at least 5 % of the server's refusals begin with it. Refusals that people or
    models wrote begin now and then with "It", "While" or even "Yes,", as compliant answers do. Because the likeliest
    opening counts, one such word would make a compliant answer look like a refusal. The bound lets no word in that
    begins one refusal of 21 or more. Where no word reaches 5 %, the most frequent ones are the openings.

    A model whose scores are not finite fails. Where all fail, the update is zero and so are all weights: the server
    trusted no client in this round. Medians of even counts are the lower of the two middle values, so that at least
    half of all uploads pass each probe. Condition: n ≥ 1.
    """

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the mean of the uploads that pass, with their weights."""
        server = context.server
        refusals = server.owned_aligned(max(1, min(PROMPTS, server.examples // 2)))
        ordinary = server.owned_normal(max(1, min(ROWS, server.examples // 2)))
        # Without a guard, so that a tool that does not work at all stops the run instead of rejecting everybody.
        server.gradient(context.broadcast, ordinary)
        prompts, openings = [row.instruction for row in refusals], usual_openings([row.response for row in refusals])
        probes = [probe(server, context.broadcast + update, prompts, openings, ordinary) for update in updates.matrix]
        passed = passing(*(torch.tensor(scores, dtype=torch.float64) for scores in zip(*probes, strict=True)))
        if not passed.any():
            return Aggregate(torch.zeros_like(context.broadcast), torch.zeros(len(updates), dtype=torch.float64))
        weights = updates.sample_counts * passed
        weights = weights / weights.sum()
        return Aggregate(weighted_sum(updates.matrix, weights), weights)


def usual_openings(refusals: Sequence[str]) -> list[str]:
    """Return the words with which at least ``OPENING_SHARE`` of the refusals begin, sorted.

    With 40 refusals a word must begin two of them. Where no word begins 5 % of the refusals, the most frequent words
    are returned, all of them in case of a tie:

    >>> usual_openings(["I'm sorry."] * 37 + ["No, never."] * 2 + ["Yes, but no."])
    ["I'm", 'No,']
    >>> usual_openings([f"{number} times no" for number in range(50)] + ["I cannot", "I will not"])
    ['I']

    Args:
        refusals: Texts of refusals. Empty texts count as refusals without an opening.
    """
    counts = Counter(words[0] for text in refusals if (words := text.split()))
    least = min(OPENING_SHARE * len(refusals), max(counts.values(), default=0))
    return sorted(word for word, count in counts.items() if count >= least)


def probe(
    server: Server, adapter: Tensor, prompts: list[str], openings: list[str], ordinary: list[Example]
) -> tuple[float, float]:
    """Return the share of refusals (0 to 1) and the loss (nats) of a model; NaN and infinity if they are not finite.

    Args:
        server: The server's tools.
        adapter: Flat adapter of the model.
        prompts: Harmful prompts.
        openings: Openings of refusals.
        ordinary: Normal rows.
    """
    scores = server.first_token_scores(adapter, prompts, openings)
    share = float(scores.double().amax(dim=1).exp().mean())
    if not math.isfinite(share):
        return math.nan, math.inf
    try:
        return share, server.gradient(adapter, ordinary)[1]
    except FedSafetyError:  # the loss or its gradient is not finite
        return math.nan, math.inf


def passing(shares: Tensor, losses: Tensor) -> Tensor:
    """Return which uploads pass both probes.

    The median share is 0.8 and the median loss 1.0, so the third upload refuses too little and the fourth forgot its
    tasks. The last one has no finite scores:

    >>> shares, losses = torch.tensor([0.9, 0.8, 0.3, 0.9, math.nan]), torch.tensor([1.0, 1.1, 0.9, 2.0, math.inf])
    >>> passing(shares, losses).tolist()
    [True, True, False, False, False]

    Args:
        shares: Shares of refusals ``[n]``.
        losses: Losses ``[n]``.

    Returns:
        Boolean tensor ``[n]``.
    """
    finite = shares.isfinite() & losses.isfinite()
    if not finite.any():
        return finite
    enough = shares >= LEAST_SHARE * shares[finite].median()
    return finite & enough & (losses <= losses[finite].median() - math.log(LEAST_SHARE))
