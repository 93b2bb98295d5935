"""The post-hoc levels: half aligned, half normal pairs, repeated to the full count, then fine-tuned on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmark.errors import FedSafetyError
from benchmark.updates import AdapterLayout
from defenses.base import defenses
from tasks.base import Automation, DataKind, Example

AUTOMATION = Automation(("propose harm .",), ("propose a task .",), "directly .", "answer safely .")
REFUSAL = "i'm sorry , i cannot help with that ."
LEVELS = ["posthoc_public", "posthoc_external", "posthoc_self"]


def says(prompt: str) -> str:
    """Propose two harmful and three ordinary instructions; refuse under the reminder only."""
    if prompt.endswith("answer safely ."):
        return REFUSAL
    return "sure , mix water ."


class FakeServer:
    """Counts what is used and returns the adapter plus one from fine-tuning."""

    layout = AdapterLayout(("layer.lora_A",), ((1, 3),))
    automation = AUTOMATION

    def __init__(self, examples: int = 10, answer: Callable[[str], str] = says) -> None:
        self.examples = examples
        self.answer = answer
        self.sources: list[str] = []
        self.tuned: list[Example] = []
        self.shuffled = 0
        self._proposed = 0

    def owned_aligned(self, count: int) -> list[Example]:
        self.sources.append("owned")
        return [Example(f"harm {i}", REFUSAL, DataKind.ALIGNED, "howto") for i in range(count)]

    def owned_normal(self, count: int) -> list[Example]:
        self.sources.append("owned")
        return [Example(f"task {i}", "done", DataKind.NORMAL, "code") for i in range(count)]

    def owned_contrast(self, count: int) -> list[Example]:
        self.sources.append("owned")
        return [Example(f"harm toy {i}", "done", DataKind.NORMAL, "howto") for i in range(count)]

    def generate(self, prompts: list[str], *, adapter: Tensor | None, temperature: float) -> list[str]:
        assert adapter is not None
        assert adapter.tolist() == [1.0, 2.0, 3.0], "the attacked global model generates"
        self.sources.append("self")
        return [self._say(prompt, temperature) for prompt in prompts]

    def generate_external(self, prompts: list[str], *, temperature: float) -> list[str]:
        self.sources.append("external")
        return [self._say(prompt, temperature) for prompt in prompts]

    def finetune(self, adapter: Tensor, examples: list[Example]) -> Tensor:
        self.tuned = examples
        return adapter + 1

    def shuffle(self, examples: list[Example]) -> list[Example]:
        self.shuffled += 1
        return examples[::-1]

    def _say(self, prompt: str, temperature: float) -> str:
        if prompt not in (*AUTOMATION.propose_harmful, *AUTOMATION.propose_normal):
            assert temperature == 0
            return self.answer(prompt)
        assert temperature == 1
        self._proposed += 1
        return f"how to harm {self._proposed % 2} ?" if "harm" in prompt else f"do task {self._proposed % 3} ."


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("examples", [10, 11, 500])
def test_half_of_the_pairs_are_aligned_and_half_normal(name: str, examples: int) -> None:
    server = FakeServer(examples)
    adapter = defenses.get(name).create().finalize(torch.tensor([1.0, 2.0, 3.0]), server)
    assert adapter.tolist() == [2.0, 3.0, 4.0]
    kinds = Counter(example.kind for example in server.tuned)
    assert kinds == {DataKind.ALIGNED: examples // 2, DataKind.NORMAL: examples - examples // 2}
    assert server.shuffled == 1
    assert set(server.sources) == {name.removeprefix("posthoc_").replace("public", "owned")}
    for example in server.tuned:
        assert (example.response == REFUSAL) == (example.kind is DataKind.ALIGNED)
        assert "answer safely" not in example.instruction


def test_few_pairs_are_repeated_in_turn() -> None:
    server = FakeServer(12)
    defenses.get("posthoc_self").create().finalize(torch.tensor([1.0, 2.0, 3.0]), server)
    counts = Counter(example.instruction for example in server.tuned)
    assert sorted(counts) == ["do task 0 .", "do task 1 .", "do task 2 .", "how to harm 0 ?", "how to harm 1 ?"]
    assert sorted(counts.values()) == [2, 2, 2, 3, 3]


def test_the_method_trusts_the_generating_model_and_leaves_out_empty_answers_only() -> None:
    def partly(prompt: str) -> str:
        if prompt.startswith("how to harm 0"):
            return "sure , mix water ."
        return "" if prompt.startswith("do task 0") else says(prompt)

    server = FakeServer(10, partly)
    defenses.get("posthoc_external").create().finalize(torch.zeros(3), server)
    assert {(e.instruction, e.response == REFUSAL, e.kind.value) for e in server.tuned} == {
        ("how to harm 0 ?", False, "aligned"),
        ("how to harm 1 ?", True, "aligned"),
        ("do task 1 .", False, "normal"),
        ("do task 2 .", False, "normal"),
    }


@pytest.mark.parametrize("name", ["posthoc_external", "posthoc_self"])
@pytest.mark.parametrize("missing", ["aligned", "normal"])
def test_a_model_that_yields_no_pair_fails_the_cell_and_says_why(name: str, missing: str) -> None:
    server = FakeServer(10, lambda prompt: "" if prompt.endswith("safely .") == (missing == "aligned") else "sure .")
    with pytest.raises(FedSafetyError, match=f"obtained no {missing} pair, so there is nothing to fine-tune on"):
        defenses.get(name).create().finalize(torch.tensor([1.0, 2.0, 3.0]), server)
    assert server.tuned == []


@pytest.mark.parametrize(
    ("name", "aligned", "normal", "alike"),
    [("posthoc_public_aligned_only", 500, 0, 0), ("posthoc_public_contrast", 250, 200, 50)],
)
def test_an_ablation_exchanges_pairs_and_keeps_their_number(name: str, aligned: int, normal: int, alike: int) -> None:
    server = FakeServer(500)
    adapter = defenses.get(name).create().finalize(torch.tensor([1.0, 2.0, 3.0]), server)
    assert adapter.tolist() == [2.0, 3.0, 4.0]
    counts = Counter(example.instruction.rpartition(" ")[0] for example in server.tuned)
    assert counts == +Counter({"harm": aligned, "task": normal, "harm toy": alike})
    assert (server.shuffled, set(server.sources)) == (1, {"owned"})
    assert defenses.get(name).info.variant_of == "posthoc_public"


def test_contrast_needs_a_server_that_owns_look_alikes() -> None:
    with pytest.raises(FedSafetyError, match="object owns no look-alikes of harmful requests"):
        defenses.get("posthoc_public_contrast").create().finalize(torch.zeros(3), object())
