"""The self-generated post-hoc repair, written anew in a file."""

from __future__ import annotations

from torch import Tensor

from benchmark.automation import answer, fill, propose
from defenses.base import Defense, Knowledge, Server, Stage, register
from tasks.base import DataKind


@register(
    title="Post-hoc in a file",
    description="Fine-tunes the aggregate on pairs that the attacked model and the server's own data give.",
    stages=(Stage.FINALIZE,),
    knowledge=Knowledge.NONE,
    resources="server-side generation and fine-tuning",
)
class FilePosthoc(Defense):
    def finalize(self, adapter: Tensor, server: Server) -> Tensor:
        def generate(prompts: list[str], temperature: float) -> list[str]:
            return server.generate(prompts, adapter=adapter, temperature=temperature)

        half = server.examples // 2
        proposed = propose(generate, server.automation.propose_harmful, half)
        pairs = answer(generate, proposed, server.automation.safety_reminder, DataKind.ALIGNED)
        external = server.generate_external([pair.instruction for pair in pairs[:2]], temperature=0.0)
        assert len(external) == len(pairs[:2])
        repaired = server.finetune(adapter, server.shuffle(fill(pairs, half) + server.owned_normal(half)))
        return (repaired + server.finetune(adapter, server.owned_aligned(half))) / 2
