"""The interface of all generation engines: many adapters over one base model, answers in large batches."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from benchmark.errors import UsageError

LONGEST = 4096
"""Default limit on a prompt with its answer, in tokens; a model's own limit may be longer than memory allows."""


@dataclass(frozen=True)
class Request:
    """One prompt to answer.

    Attributes:
        prompt_ids: Token ids of the whole formatted prompt.
        max_new_tokens: Length limit of the answer.
        adapter: Folder of a PEFT-format adapter, or ``None`` for the bare base model.
        contrast: Two token ids (refusal opening, compliant opening), or ``None``. The answer holds their
            log-probabilities at the first position, which do not depend on the temperature.
        temperature: Softmax temperature; 0 takes the likeliest token.
        top_p: Share of probability that is sampled from, from the likeliest token down (Holtzman et al. 2020, arXiv
            1904.09751).
        seed: Seed of a sampled answer, so that no answer depends on the rest of its batch. Another engine draws other
            answers from the same seed.

    Raises:
        UsageError: Temperature or top_p is out of range, or a sampled request has no seed.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    adapter: Path | None = None
    contrast: tuple[int, int] | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UsageError(f"temperature is {self.temperature}; give a finite number from 0, which is greedy")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}; give a share above 0 and at most 1")
        if self.temperature > 0 and self.seed is None:
            raise UsageError(
                f"a request at temperature {self.temperature} has no seed; give one, so that its answer can be repeated"
            )


@dataclass(frozen=True)
class Answer:
    """A model's answer to a request.

    Attributes:
        token_ids: Generated ids without the end-of-sequence token.
        text: Their decoding without special tokens.
        finished: Whether the model ended the answer; else the length limit cut it.
        contrast_logprobs: Natural-log probabilities of the request's ``contrast`` tokens at the first generated
            position; ``None`` for a request without.
    """

    token_ids: tuple[int, ...]
    text: str
    finished: bool
    contrast_logprobs: tuple[float, float] | None = None


@dataclass(frozen=True)
class TokenScore:
    """Probability and rank of one token in a given sequence.

    Attributes:
        logprob: Natural-log probability of the token given the tokens before it.
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
    quantization: str = ""
    """Quantisation of the base model's weights: ``8bit``, ``4bit``, or empty for none."""
    max_length: int
    """Longest prompt with its answer, in tokens."""

    @abstractmethod
    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Return the answers in the order of ``requests``.

        Args:
            requests: Any mix of prompts and adapters.
        """

    @abstractmethod
    def scores(self, scored: Sequence[tuple[Sequence[int], Path | None]]) -> list[list[TokenScore]]:
        """Return for each (token sequence, adapter) the score of every token given the tokens before it.

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

    def check_fit(self, prompts: Iterable[tuple[str, int, int]]) -> None:
        """Check that every prompt leaves room for its answer; see :func:`check_fit`."""
        check_fit(prompts, self.max_length)

    @abstractmethod
    def close(self) -> None:
        """Free the engine's memory; a further engine may be made in this process."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_fit(prompts: Iterable[tuple[str, int, int]], max_length: int) -> None:
    """Check that every prompt leaves room for its answer.

    Args:
        prompts: Name, tokens of the prompt, largest number of new tokens.
        max_length: Tokens that an engine takes.

    Raises:
        UsageError: Some prompts do not fit; the message names the longest of them, its lengths and the limit.
    """
    listed = list(prompts)
    too_long = [(length + new, length, new, name) for name, length, new in listed if length + new > max_length]
    if too_long:
        total, length, new, name = max(too_long)
        raise UsageError(
            f"{len(too_long)} of {len(listed)} prompts do not fit: {name} with its answer takes {total} tokens "
            f"({length} of the prompt, up to {new} new ones), the engine allows {max_length}; shorten or leave out "
            f"such prompts, lower max_new_tokens, or raise max_length where the model takes more"
        )
