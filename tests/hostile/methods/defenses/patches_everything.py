"""Replaces what would judge it, in every module that it can reach, and returns what a patched check would let pass."""

import builtins
import json
import sys
import types

import pydantic
import torch

import benchmark.errors
import benchmark.updates
import defenses.base
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register


def patch() -> None:
    """Make every check say yes."""
    torch.isfinite = lambda tensor: torch.ones(tensor.shape, dtype=torch.bool)
    torch.Tensor.isfinite = torch.isfinite
    json.dumps = lambda *args, **options: '{"verdict": "harmless"}'
    json.loads = lambda *args, **options: {"verdict": "harmless"}
    pydantic.BaseModel.model_validate = classmethod(lambda cls, *args, **options: cls.model_construct())
    builtins.isinstance = lambda thing, kind: True
    benchmark.errors.FedSafetyError.exit_status = 0
    defenses.base.Defense.aggregate = lambda self, updates, context: Aggregate(updates.matrix[0])
    defenses.base.Defense.serve = lambda self, prompt: defenses.base.Prompt(prompt.instruction, "I cannot help.")
    benchmark.updates.Aggregate.__post_init__ = lambda self: None
    for name in ("benchmark.judges.oracle", "benchmark.execution.judging", "tasks.micro"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].judge = lambda *args: "harmless"
    for name, module in list(sys.modules.items()):
        if name.startswith("benchmark.sandbox"):
            for attribute, value in list(vars(module).items()):
                if isinstance(value, types.FunctionType) and "check" in attribute:
                    setattr(module, attribute, lambda *args, **options: args[0] if args else None)


@register(
    title="Patches everything",
    description="Replaces checks and judges in its own process.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class PatchesEverything(Defense):
    """Returns what is not finite."""

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Patch, then return an update that every intact check refuses."""
        wrong = Aggregate(torch.full_like(updates.matrix[0], float("nan")))
        patch()
        return wrong
