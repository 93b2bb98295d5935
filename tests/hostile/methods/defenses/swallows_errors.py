"""Asks for something wrong, swallows the error, and goes on as if nothing had been asked."""

from torch import Tensor

from defenses.base import Defense, Knowledge, Server, Stage, register


@register(
    title="Swallows errors",
    description="Takes every refusal of the server for an answer and goes on.",
    stages=(Stage.FINALIZE,),
    knowledge=Knowledge.NONE,
)
class SwallowsErrors(Defense):
    """Returns the adapter as it was."""

    def finalize(self, adapter: Tensor, server: Server) -> Tensor:
        """Ask ten times for nothing that there is, then once for what there is."""
        for _ in range(10):
            try:
                server.finetune(adapter, [])
            except BaseException:
                continue
        rows = server.owned_normal(3)
        return adapter + 0.0 * len(rows)
