"""The interface of all generation engines: many adapters over one base model, greedy answers in large batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType


@dataclass(frozen=True)
class Request:
    """One prompt to answer.

    Attributes:
        prompt_ids: Token ids of the whole formatted prompt.
        max_new_tokens: Length limit of the answer.
        adapter: Folder of a PEFT-format adapter, or ``None`` for the bare base model.
        contrast: Two token ids whose first-position log-probabilities are wanted (refusal opening, compliant
            opening), or ``None``.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    adapter: Path | None = None
    contrast: tuple[int, int] | None = None


@dataclass(frozen=True)
class Answer:
    """What the model said.

    Attributes:
        token_ids: Generated ids without the end-of-sequence token.
        text: Their decoding without special tokens.
        finished: Whether the model ended by itself (else the length limit cut it).
        contrast_logprobs: Natural-log probabilities of the request's ``contrast`` tokens at the first generated
            position; ``None`` if not asked for.
    """

    token_ids: tuple[int, ...]
    text: str
    finished: bool
    contrast_logprobs: tuple[float, float] | None = None


class Engine(ABC):
    """One base model, loaded once; adapters come and go with the requests."""

    name: str
    """Engine and version, as recorded in rows, for example ``vllm 0.32.0``."""
    dtype: str = "float32"
    """Number format of weights and activations, as PyTorch names it."""

    @abstractmethod
    def generate(self, requests: Sequence[Request], progress: Callable[[int], None] | None = None) -> list[Answer]:
        """Return greedy answers in the order of ``requests``.

        Args:
            requests: Any mix of prompts and adapters.
            progress: Called with the number of newly finished requests.
        """

    @abstractmethod
    def logprobs(self, sequences: Sequence[Sequence[int]], adapter: Path | None) -> list[list[float]]:
        """Return for each token sequence the natural-log probability of every token given those before it.

        Position 0 is left out, so a sequence of length L yields L - 1 numbers.
        """

    def logprobs_mixed(self, scored: Sequence[tuple[Sequence[int], Path | None]]) -> list[list[float]]:
        """Return what :meth:`logprobs` does, for (sequence, adapter) pairs with any mix of adapters, in order."""
        by_adapter: dict[Path | None, list[int]] = {}
        for index, (_, adapter) in enumerate(scored):
            by_adapter.setdefault(adapter, []).append(index)
        results: list[list[float]] = [[] for _ in scored]
        for adapter, indices in by_adapter.items():
            found = self.logprobs([scored[index][0] for index in indices], adapter)
            for index, values in zip(indices, found, strict=True):
                results[index] = values
        return results

    @abstractmethod
    def close(self) -> None:
        """Free the engine's memory; a further engine may be made in this process."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
