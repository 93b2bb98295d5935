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


@dataclass(frozen=True)
class TokenScore:
    """What the model says of one token of a given sequence.

    Attributes:
        logprob: Natural-log probability of the token given those before it.
        greedy: Whether no other token is more probable there.
    """

    logprob: float
    greedy: bool


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
    def scores(self, scored: Sequence[tuple[Sequence[int], Path | None]]) -> list[list[TokenScore]]:
        """Return for each (token sequence, adapter) what the model says of every token given those before it.

        Position 0 is left out, so a sequence of length L yields L - 1 scores.

        Args:
            scored: Any mix of sequences and adapters; answered in this order.
        """

    def logprobs(self, sequences: Sequence[Sequence[int]], adapter: Path | None) -> list[list[float]]:
        """Return the log-probabilities of :meth:`scores` for sequences under one adapter."""
        return self.logprobs_mixed([(sequence, adapter) for sequence in sequences])

    def logprobs_mixed(self, scored: Sequence[tuple[Sequence[int], Path | None]]) -> list[list[float]]:
        """Return the log-probabilities of :meth:`scores`."""
        return [[score.logprob for score in scores] for scores in self.scores(scored)]

    @abstractmethod
    def close(self) -> None:
        """Free the engine's memory; a further engine may be made in this process."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
