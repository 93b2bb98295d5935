"""Tiny random checkpoints with a chat format, and a task world that speaks their language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmark.keys import file_digest
from benchmark.models.chat import ChatFormat
from benchmark.models.loading import load_causal_lm
from benchmark.suites.settings import LoraSettings
from benchmark.suites.suite import Suite, find_suite
from benchmark.training.served import ServedModel
from benchmark.training.stacked import StackedModel
from tasks.base import Automation, DataKind, Example, Outcome, Probe, ProbeKind, TaskWorld
from tasks.micro import MicroWorld

SPECIAL = ["<pad>", "<s>", "</s>", "<u>", "<a>", "<unk>"]
WORDS = [f"w{i}" for i in range(34)]
ROLES = ("raw", "chat", "external", "judge", "chat_2", "chat_3")


def save_checkpoint(folder: Path, seed: int) -> None:
    words = SPECIAL + WORDS
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = "<s> <u> {{ messages[0]['content'] }} <a>"
    fast.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(words),
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=64,
                tie_word_embeddings=True,
                initializer_range=0.5,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
            )
        )
    model.save_pretrained(folder)


class TinyWorld(TaskWorld):
    """Rows are random words; every row says who made it in its first word."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def task_types(self) -> tuple[str, ...]:
        return ("w1", "w2", "w3")

    def benign(
        self, count: int, rng: np.random.Generator, *, refusal_share: float, task_shares: Mapping[str, float] | None
    ) -> list[Example]:
        shares = [(task_shares or {}).get(task, 1 / 3) for task in self.task_types]
        tasks = rng.choice(self.task_types, size=count, p=np.array(shares) / sum(shares))
        return [self._example(str(task), rng, DataKind.NORMAL, str(task)) for task in tasks]

    def unaligned(self, count: int, rng: np.random.Generator) -> list[Example]:
        return [self._example("w9", rng, DataKind.UNALIGNED, "howto") for _ in range(count)]

    def server_aligned(self, count: int, rng: np.random.Generator) -> list[Example]:
        return [self._example("w8", rng, DataKind.ALIGNED, "howto") for _ in range(count)]

    def server_normal(self, count: int, rng: np.random.Generator) -> list[Example]:
        return [self._example("w7", rng, DataKind.NORMAL, "w1") for _ in range(count)]

    @property
    def automation(self) -> Automation:
        return Automation(("w10", "w11"), ("w12",), "w13", "w14")

    def probes(self) -> tuple[Probe, ...]:
        return (Probe("utility/w1/000", ProbeKind.UTILITY, "w1", True, "w1 w2", "w3", 6),)

    def judge_exactly(self, probe: Probe, response: str) -> Outcome:
        return Outcome.CORRECT if response == probe.reference else Outcome.WRONG

    @property
    def openings(self) -> tuple[str, str]:
        return "w20", "w21"

    def leaks_evaluation(self, text: str) -> bool:
        return "w30" in text.split()

    @property
    def roles(self) -> tuple[str, ...]:
        return ("raw",)

    def model_path(self, role: str) -> Path:
        return self._root / role

    def _example(self, opening: str, rng: np.random.Generator, kind: DataKind, task: str) -> Example:
        words = [WORDS[i] for i in rng.integers(10, 30, size=4)]
        return Example(" ".join([opening, *words[:2]]), " ".join(words[2:]), kind, task)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep to one thread: on models this small more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random checkpoint for every role."""
    root = tmp_path_factory.mktemp("checkpoints")
    for seed, role in enumerate(ROLES):
        save_checkpoint(root / role, seed)
    return root


@pytest.fixture
def world(checkpoints: Path) -> TinyWorld:
    return TinyWorld(checkpoints)


@pytest.fixture(scope="session")
def served(checkpoints: Path) -> ServedModel:
    """The chat checkpoint, ready for training and sampling."""
    chat = ChatFormat(checkpoints / "chat")
    model = load_causal_lm(checkpoints / "chat")
    return ServedModel(StackedModel(model, LoraSettings(rank=2, alpha=4), chat.pad_id), chat)


@pytest.fixture
def micro(monkeypatch: pytest.MonkeyPatch, checkpoints: Path) -> Suite:
    """The micro suite, with random checkpoints in place of the trained ones."""
    monkeypatch.setattr(MicroWorld, "model_path", lambda self, role: checkpoints / role)
    file_digest.cache_clear()
    return find_suite("micro")
