"""Cost of the data that attacks and defenses let models generate in a training."""

from __future__ import annotations

from collections.abc import Mapping

from attacks.base import attacks
from benchmark.execution.plan import Plan, TrainingJob
from benchmark.execution.worlds import EXTERNAL_MODEL, attacker_role
from benchmark.methods.pipeline import parse_pipeline
from benchmark.models.configuration import Model
from benchmark.models.sizes import SAMPLED_BATCH
from benchmark.prediction.answers import Reading, added, reading
from benchmark.registry import Trait

PAIR_SEQUENCES = 3
"""Sequences for each pair of instruction and answer: two proposals (:mod:`benchmark.automation`) and the answer."""

ATTACK_PAIRS = 500
"""Pairs of an attack that has no ``pool_size``, as many as attack ``generated_data`` asks for."""

_ANSWERS_ONLY = frozenset({"answered_shards"})
"""Attacks whose instructions are given."""


def attack_sequences(job: TrainingJob) -> int:
    """Return the sequences that the attackers' model generates for a training."""
    attack = job.scenario.attack
    entry = attacks.get(attack.id)
    if not job.scenario.malicious or Trait.GENERATES not in entry.info.traits:
        return 0
    pairs = attack.params.get("pool_size", getattr(entry.target, "pool_size", ATTACK_PAIRS))
    return int(pairs) * (1 if attack.id in _ANSWERS_ONLY else PAIR_SEQUENCES)


def defense_sequences(job: TrainingJob, examples: int, unaligned: str) -> dict[str, int]:
    """Return the sequences that models generate after a training for its defenses, by role of the model.

    The model before the alignment answers given instructions, half as many as a defense fine-tunes on.

    Args:
        job: The training.
        examples: Pairs that a defense fine-tunes on.
        unaligned: Role of the model before the alignment.
    """
    counts = {EXTERNAL_MODEL: 0, job.scenario.start: 0, unaligned: 0}
    # Pipelines that differ in what follows share the repaired adapter.
    for name in sorted({job.pipelines[key] for key in job.pipelines.keys() - {job.training_key}}):
        for entry in parse_pipeline(name).finalizers:
            if Trait.GENERATES_EXTERNAL in entry.info.traits:
                counts[EXTERNAL_MODEL] += PAIR_SEQUENCES * examples
            if Trait.GENERATES in entry.info.traits:
                counts[job.scenario.start] += PAIR_SEQUENCES * examples
            if Trait.GENERATES_UNALIGNED in entry.info.traits:
                counts[unaligned] += examples // 2
    return counts


def generated(
    plan: Plan, job: TrainingJob, models: Mapping[str, Model], prompt: float, limit: int
) -> tuple[Reading, Reading]:
    """Return the cost of the attackers' data and of the defenses' data of a training.

    Args:
        plan: The plan.
        job: The training.
        models: Models of known size by role; the data of others are left out.
        prompt: Mean tokens of a prompt.
        limit: Tokens of a generated text.
    """

    def cost(role: str, sequences: int) -> Reading:
        if role not in models or not sequences:
            return Reading()
        return reading(models[role], plan, sequences, prompt, limit, batch=SAMPLED_BATCH, training=True)

    attack = cost(attacker_role(plan.world), attack_sequences(job))
    unaligned = plan.world.unaligned_role(job.scenario.start) or job.scenario.start
    defenses = defense_sequences(job, plan.suite.under(job.scenario).posthoc.examples, unaligned)
    return attack, added(cost(role, sequences) for role, sequences in defenses.items())
