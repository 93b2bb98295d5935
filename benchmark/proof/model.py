"""The model of the check, from scratch: a byte-level BPE tokenizer and a small Llama, aligned by real refusals.

Both come from the rows of the suite's own pools, read from the data root like all data: those called ``corpus_…`` for
pre-training, :data:`REFUSALS` and the corpus again for the aligned model. Evaluation prompts are left out. What is made
is named by all that it is made from, so it is used again by every later run and never for anything else.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from benchmark.errors import FedSafetyError, UsageError
from benchmark.keys import content_key, normalised_source
from benchmark.models.chat import ChatFormat, cut
from benchmark.models.rows import TokenRow
from benchmark.progress import Reporter, Step
from benchmark.records.store import scratch_beside, writing
from benchmark.suites.suite import Suite
from tasks.base import Example
from tasks.hub.datasets import data_identity, load_rows
from tasks.hub.world import HubWorld

CORPUS: Final = "corpus_"
"""How the names of the pools begin that the model is pre-trained on."""
REFUSALS: Final = "chat_refusals"
"""Pool of the refusals that align the model."""
ALIGNED, RAW = "plumbing/chat", "plumbing/raw"
"""The two checkpoints, as repositories below the model root."""

_SPECIAL: Final = ("<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>")
_PAD, _BOS, _EOS = range(3)
_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_PARTS: Final = 4
"""Parts of similar length into which a batch is cut, so that little of it is padding."""
_WARM_UP: Final = 0.1
_PROVENANCE: Final = "provenance.json"


@dataclass(frozen=True)
class Stage:
    """Length (above ten steps) and rate of a training stage (AdamW, one-cycle rate)."""

    steps: int
    batch: int
    rate: float


@dataclass(frozen=True)
class Recipe:
    """What a model is made by.

    Attributes:
        vocabulary: Tokens at most, special ones included; a small corpus gives fewer.
        width: Width of the residual stream; ``width / heads`` is 32 or more, the least that vLLM's CPU build accepts.
        heads: Attention heads.
        inner: Width of the feed-forward block.
        layers: Decoder blocks.
        context: Tokens that the model says it reads. Rotary positions need no parameters, so it may be far longer than
            what it is trained on: a judge asks with long questions.
        longest: Tokens of a training row; longer ones are cut at their end.
        pretrain: On whole conversations.
        align: On responses, half of them refusals.
        seed: Of initialisation and batches.
        threads: Sums depend on the number of threads in their last bits, so it is fixed.
    """

    vocabulary: int = 4096
    width: int = 192
    heads: int = 6
    inner: int = 512
    layers: int = 4
    context: int = 4096
    longest: int = 192
    pretrain: Stage = Stage(steps=320, batch=32, rate=3e-3)
    align: Stage = Stage(steps=80, batch=32, rate=1e-3)
    seed: int = 20260
    threads: int = 2


FULL: Final = Recipe()
QUICK: Final = Recipe(width=128, heads=4, inner=352, layers=2, pretrain=Stage(150, 16, 3e-3), align=Stage(60, 16, 2e-3))


def make_models(suite: Suite, recipe: Recipe, folder: Path, reporter: Reporter) -> Path:
    """Return the model root, a folder below ``folder`` with the raw and the aligned checkpoint; made if not there.

    Args:
        suite: Names the pools; its data come from the data root.
        recipe: Sizes, steps and seed.
        folder: Where models are kept, one folder for each content.
        reporter: Shows progress.

    Raises:
        UsageError: The suite lacks a pool that the model is made from.
        InputsMissingError: A file is not in the data root.
        FedSafetyError: Training diverges, or the folder cannot be written.
    """
    root = folder / _content(suite, recipe)
    if all((root / name / _PROVENANCE).is_file() for name in (RAW, ALIGNED)):
        reporter.say(f"model: made before, in {root / ALIGNED}")
        return root
    corpus, refusals = _examples(suite)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with _threads(recipe.threads):
        if not (root / RAW / _PROVENANCE).is_file():
            _make_raw(root / RAW, recipe, corpus, reporter)
        _make_aligned(root / ALIGNED, root / RAW, recipe, corpus, refusals, reporter)
    return root


def _make_raw(folder: Path, recipe: Recipe, corpus: Sequence[Example], reporter: Reporter) -> None:
    """Pre-train a new model on whole conversations of the corpus."""
    with _appearing(folder) as scratch:
        tokenizer = _tokenizer(corpus, recipe)
        tokenizer.save_pretrained(scratch)
        model = _new_model(recipe, len(tokenizer))
        model.config.save_pretrained(scratch)
        rows = [cut(TokenRow(row.ids, 1), recipe.longest) for row in map(ChatFormat(scratch).row, corpus)]
        title = f"training a model of {model.num_parameters():,} parameters"
        with reporter.step(title, recipe.pretrain.steps) as step:
            loss = _train(model, rows, recipe.pretrain, np.random.default_rng([recipe.seed, 0]), step)
        _save(model, scratch, recipe, loss, len(rows))


def _make_aligned(
    folder: Path,
    raw: Path,
    recipe: Recipe,
    corpus: Sequence[Example],
    refusals: Sequence[Example],
    reporter: Reporter,
) -> None:
    """Fine-tune the raw model on refusals and as many rows of the corpus."""
    # A stream of its own: remaking this checkpoint alone gives what making both gives.
    rng = np.random.default_rng([recipe.seed, 1])
    with _appearing(folder) as scratch:
        chat = ChatFormat(raw)
        chat.tokenizer.save_pretrained(scratch)
        model = LlamaForCausalLM.from_pretrained(raw, local_files_only=True)
        normal = [corpus[index] for index in rng.permutation(len(corpus))[: len(refusals)]]
        rows = [cut(chat.row(example), recipe.longest) for example in (*refusals, *normal)]
        answered = [row for row in rows if row.predicted]
        with reporter.step("aligning it with refusals", recipe.align.steps) as step:
            loss = _train(model, answered, recipe.align, rng, step)
        _save(model, scratch, recipe, loss, len(answered))


def _content(suite: Suite, recipe: Recipe) -> str:
    """Return the name of all that the models are made from.

    Raises:
        UsageError: A pool is missing.
    """
    if suite.data is None or REFUSALS not in suite.data.pools or not _corpus(suite):
        raise UsageError(
            f"suite {suite.id!r} names no data to make a model from; add pools called {CORPUS}… and {REFUSALS} to data"
        )
    sources = [suite.data.pools[name] for name in (*_corpus(suite), REFUSALS)]
    sources += [probe.source for probe in suite.data.probes]
    return content_key(
        {
            "recipe": asdict(recipe),
            "sources": [[source.model_dump(mode="json"), data_identity(source)] for source in sources],
            "code": normalised_source(Path(__file__).read_text(encoding="utf-8")),
            "libraries": [version(name) for name in ("tokenizers", "torch", "transformers")],
        }
    )[:16]


def _corpus(suite: Suite) -> list[str]:
    assert suite.data is not None
    return [name for name in suite.data.pools if name.startswith(CORPUS)]


def _examples(suite: Suite) -> tuple[list[Example], list[Example]]:
    """Return corpus and refusals without rows that hold an evaluation prompt."""
    assert suite.data is not None
    pools = suite.data.pools
    leaks = HubWorld(data=suite.data).leaks_evaluation

    def kept(name: str) -> list[Example]:
        rows = load_rows(pools[name])
        return [row for row in rows.examples(range(len(rows)), name) if not leaks(row.instruction)]

    return [row for name in _corpus(suite) for row in kept(name)], kept(REFUSALS)


def _tokenizer(corpus: Sequence[Example], recipe: Recipe) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of the corpus, with a chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=list(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator((text for row in corpus for text in (row.instruction, row.response)), trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        pad_token=_SPECIAL[_PAD],
        bos_token=_SPECIAL[_BOS],
        eos_token=_SPECIAL[_EOS],
        additional_special_tokens=list(_SPECIAL[_EOS + 1 :]),
        chat_template=_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def _new_model(recipe: Recipe, vocabulary: int) -> LlamaForCausalLM:
    # The library initialises from the global generator only; the fork keeps that inside this function.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return LlamaForCausalLM(  # type: ignore[no-untyped-call]
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=recipe.width,
                intermediate_size=recipe.inner,
                num_hidden_layers=recipe.layers,
                num_attention_heads=recipe.heads,
                num_key_value_heads=recipe.heads,
                max_position_embeddings=recipe.context,
                tie_word_embeddings=True,
                pad_token_id=_PAD,
                bos_token_id=_BOS,
                eos_token_id=_EOS,
                dtype="float32",
            )
        )


def _train(
    model: LlamaForCausalLM, rows: Sequence[TokenRow], stage: Stage, rng: np.random.Generator, step: Step
) -> float:
    """Train ``model`` in place on batches drawn from ``rows``; return the last loss, in nats a token.

    Raises:
        FedSafetyError: It is not finite.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.rate, weight_decay=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, stage.rate, total_steps=stage.steps, pct_start=_WARM_UP)
    model.train()
    loss = 0.0
    for _ in range(stage.steps):
        batch = sorted((rows[index] for index in rng.integers(len(rows), size=stage.batch)), key=lambda r: len(r.ids))
        tokens = sum(len(row.predicted) for row in batch)
        size = -(-len(batch) // _PARTS)
        loss = 0.0
        optimizer.zero_grad()
        for first in range(0, len(batch), size):
            part = _loss(model, batch[first : first + size]) / tokens
            part.backward()  # type: ignore[no-untyped-call]
            loss += float(part.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        step.advance()
    if not math.isfinite(loss):
        raise FedSafetyError(f"the model diverged: its last loss is {loss}; lower the rate of the recipe")
    return loss


def _loss(model: LlamaForCausalLM, batch: Sequence[TokenRow]) -> torch.Tensor:
    """Return the summed loss on the predicted tokens of ``batch``."""
    width = max(len(row.ids) for row in batch)
    ids = torch.tensor([[*row.ids, *[_PAD] * (width - len(row.ids))] for row in batch])
    wanted = torch.tensor([[place in row.predicted for place in range(1, width)] for row in batch])
    # No mask: attention is causal and the padding stands on the right.
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    return functional.cross_entropy(model.lm_head(hidden[wanted]), ids[:, 1:][wanted], reduction="sum")


def _save(model: LlamaForCausalLM, folder: Path, recipe: Recipe, loss: float, rows: int) -> None:
    """Write the checkpoint, and last what it was made by."""
    model.save_pretrained(folder)
    told = {"recipe": asdict(recipe), "parameters": model.num_parameters(), "rows": rows, "loss": round(loss, 4)}
    (folder / _PROVENANCE).write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """Yield a scratch folder that takes the place of ``folder`` if all goes well and vanishes if not."""
    scratch = scratch_beside(folder)
    with writing(folder):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
    try:
        yield scratch
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            scratch.replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
