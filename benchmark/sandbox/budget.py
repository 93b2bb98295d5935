"""Budget of one instance of a method for its tools, over all its hooks.

Tool time is not the method's own, and a request that has begun is not interrupted. So amounts are bounded, by what a
suite can need. The dearest built-in method, the post-hoc defense that generates its own pairs, has at most 7 prompts
answered for each training pair that the suite lets it use, and fine-tunes once on as many rows as there are pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.sandbox.channel import ChannelError
from tasks.base import Example

PROMPTS_PER_EXAMPLE = 20
"""Prompts answered for each of the suite's training pairs: nearly three times what a built-in method asks."""
ROWS_PER_EXAMPLE = 4
"""Rows of one request: a fine-tuning takes as many steps however many there are, but all are read first."""
ROWS_IN_ALL_PER_EXAMPLE = 400
"""Rows drawn, shuffled and trained on: the suite's number of pairs, all of it, once a round, for 100 rounds."""
FINETUNES = 100
"""Fine-tunings: one a round in the longest federation, the paper's, of 100 rounds."""
CHARACTERS_PER_TEXT = 2000
"""Mean length of what is read; ordinary instructions have a tenth of it."""
FEWEST_EXAMPLES = 100
"""Suites that grant fewer pairs, such as those of tests, are counted as if they granted these."""
STEPS_PER_EXAMPLE = 20
"""Steps that a method chooses itself, for each of the suite's training pairs: many times what a built-in one takes."""
READINGS = 100_000
"""Layers whose weights are read, over all rounds: 100 rounds of 500 layers of two models."""
ATTACK_EXAMPLES = 500
"""Pairs that an attack may need: what the built-in ones make or draw, and what each client of the micro suite holds."""


class Budget:
    """Counts the work of an instance's tools. More work than the budget is treated as an attack on the machine."""

    def __init__(self) -> None:
        self._prompts = self._rows = self._characters = self._finetunes = self._steps = self._readings = 0

    def answers(self, prompts: Sequence[str], examples: int) -> None:
        """Count prompts to be answered, in a suite that grants ``examples`` training pairs.

        Raises:
            ChannelError: They are too many.
        """
        most = PROMPTS_PER_EXAMPLE * _counted(examples)
        self._prompts += len(prompts)
        if self._prompts > most:
            raise ChannelError(f"it has more than {most:,} prompts answered")
        self._characters += sum(map(len, prompts))
        _check_length(self._characters, most)

    def rows(self, count: int, examples: int) -> None:
        """Count rows that are drawn, shuffled or trained on.

        Raises:
            ChannelError: They are too many.
        """
        at_once = ROWS_PER_EXAMPLE * _counted(examples)
        if count > at_once:
            raise ChannelError(f"it asks for {count:,} rows at a time; at most {at_once:,} are given or taken")
        most = ROWS_IN_ALL_PER_EXAMPLE * _counted(examples)
        self._rows += count
        if self._rows > most:
            raise ChannelError(f"it asks for more than {most:,} rows")

    def reading(self) -> None:
        """Count the reading of a layer's weights.

        Raises:
            ChannelError: It is one too many.
        """
        self._readings += 1
        if self._readings > READINGS:
            raise ChannelError(f"it reads weights more than {READINGS:,} times")

    def training(self, rows: Sequence[Example], examples: int, steps: int = 0) -> None:
        """Count a fine-tuning.

        Args:
            rows: Its rows.
            examples: Training pairs that the suite grants.
            steps: Its steps, if the method chose them.

        Raises:
            ChannelError: It is one too many, or on too many rows or for too many steps.
        """
        self._finetunes += 1
        if self._finetunes > FINETUNES:
            raise ChannelError(f"it fine-tunes more than {FINETUNES} times")
        self._steps += steps
        most = STEPS_PER_EXAMPLE * _counted(examples)
        if self._steps > most:
            raise ChannelError(f"it fine-tunes for more than {most:,} steps of its own choice")
        self.rows(len(rows), examples)
        length = sum(len(row.instruction) + len(row.response) for row in rows)
        _check_length(length, ROWS_PER_EXAMPLE * _counted(examples))

    def gradient(self, rows: Sequence[Example], examples: int) -> None:
        """Count a gradient. All its rows are trained on, so the rows of all gradients together are bounded.

        Raises:
            ChannelError: The rows are too many, or too long.
        """
        self.rows(len(rows), examples)
        length = sum(len(row.instruction) + len(row.response) for row in rows)
        _check_length(length, ROWS_PER_EXAMPLE * _counted(examples))


def _check_length(characters: int, texts: int) -> None:
    most = CHARACTERS_PER_TEXT * texts
    if characters > most:
        raise ChannelError(f"it has more than {most:,} characters read")


def _counted(examples: int) -> int:
    return max(examples, FEWEST_EXAMPLES)
