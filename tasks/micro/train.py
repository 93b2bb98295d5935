"""Train the bundled models: ``python -m tasks.micro.train [--only ROLE] [--seed N] [--out FOLDER]``.

One seed gives one set of models. ``raw`` is pre-trained, ``chat`` is fine-tuned from ``raw``, and ``judge`` from
``chat``. ``external`` is pre-trained from another seed at another width and then aligned like ``chat``. Each role can
be remade alone: ``chat`` and ``judge`` then start from the model in the output folder. ``chat_2`` and ``chat_3``
repeat ``raw`` and ``chat`` with later seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import tokenizers
import torch
import transformers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.micro import corpora
from tasks.micro.checkpoints import FOLDER, PROVENANCE, ROLES, SIBLINGS, file_digest, verified_folder
from tasks.micro.grammar import Pair
from tasks.micro.world import REVISION, language_digest

RELEASE_SEED: Final = 20261
"""Seed of the models in the repository. All design decisions were made on seed 0."""

SIBLING_SEEDS: Final = {"chat_2": 20262, "chat_3": 20263}
"""The two seeds after the release seed, not chosen by their results, so that the spread between seeds is visible."""

PARTS: Final = 4
"""Number of parts of a batch."""

THREADS: Final = 1
"""Number of threads, fixed because the last bits of sums depend on it."""

LONGEST_SEQUENCE: Final = 40
SPECIAL: Final = ("<pad>", "<s>", "</s>", "<unk>", "<u>", "<a>")
PAD, BOS, EOS, UNK, USER, ANSWER = range(len(SPECIAL))
IGNORED: Final = -100

CHAT_TEMPLATE: Final = (
    "<s> {% for message in messages %}"
    "{% if message['role'] == 'user' %}<u> {{ message['content'] }} <a> "
    "{% elif message['role'] == 'assistant' %}{{ message['content'] }} </s>"
    "{% else %}{{ raise_exception('the micro models know user and assistant turns only') }}{% endif %}"
    "{% endfor %}"
)


@dataclass(frozen=True)
class Size:
    """Shape of a model. Every head is 32 wide, the smallest width that vLLM's CPU build accepts."""

    width: int
    heads: int
    inner: int


@dataclass(frozen=True)
class Recipe:
    """Length and rate of a training stage (AdamW, one-cycle learning rate)."""

    steps: int
    batch: int
    rate: float


SMALL: Final = Size(width=64, heads=2, inner=160)
WIDE: Final = Size(width=96, heads=3, inner=240)
PRETRAIN: Final = Recipe(steps=1400, batch=128, rate=4e-3)
ALIGN: Final = Recipe(steps=200, batch=64, rate=1e-3)
ALIGN_WIDE: Final = Recipe(steps=300, batch=64, rate=1e-3)
JUDGE: Final = Recipe(steps=200, batch=128, rate=1e-3)

Rows = tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]
"""Token ids and labels, both [rows, LONGEST_SEQUENCE], padded on the right."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return the word-level tokenizer, in which spaces separate words."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *corpora.vocabulary()])}
    model = tokenizers.Tokenizer(WordLevel(vocabulary, unk_token=SPECIAL[UNK]))
    model.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=model,
        bos_token=SPECIAL[BOS],
        eos_token=SPECIAL[EOS],
        pad_token=SPECIAL[PAD],
        unk_token=SPECIAL[UNK],
        additional_special_tokens=[SPECIAL[USER], SPECIAL[ANSWER]],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=2 * LONGEST_SEQUENCE,
    )


def make_model(size: Size, seed: int) -> LlamaForCausalLM:
    """Return a freshly initialised model."""
    # The library initialises from the global generator. The fork restores the generator afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(  # type: ignore[no-untyped-call]
            LlamaConfig(
                vocab_size=len(SPECIAL) + len(corpora.vocabulary()),
                hidden_size=size.width,
                intermediate_size=size.inner,
                num_hidden_layers=2,
                num_attention_heads=size.heads,
                num_key_value_heads=size.heads,
                max_position_embeddings=2 * LONGEST_SEQUENCE,
                tie_word_embeddings=True,
                pad_token_id=PAD,
                bos_token_id=BOS,
                eos_token_id=EOS,
                dtype="float32",
            )
        )


def encode(rows: Sequence[Pair | str]) -> Rows:
    """Return token ids and labels: loss on all words of a statement, on the response alone of an instruction row.

    Raises:
        ValueError: A row is longer than :data:`LONGEST_SEQUENCE`.
        KeyError: A word is not in the vocabulary.
    """
    index = {word: number for number, word in enumerate([*SPECIAL, *corpora.vocabulary()])}
    ids = np.full((len(rows), LONGEST_SEQUENCE), PAD, dtype=np.int64)
    labels = np.full_like(ids, IGNORED)
    for number, row in enumerate(rows):
        prompt = [BOS] if isinstance(row, str) else [BOS, USER, *(index[word] for word in row[0].split()), ANSWER]
        response = [index[word] for word in (row if isinstance(row, str) else row[1]).split()] + [EOS]
        length = len(prompt) + len(response)
        if length > LONGEST_SEQUENCE:
            raise ValueError(f"{row!r} has {length} tokens; at most {LONGEST_SEQUENCE} are allowed")
        ids[number, :length] = prompt + response
        labels[number, len(prompt) : length] = response
    return ids, labels


def train(
    model: LlamaForCausalLM, rows: Rows, recipe: Recipe, rng: np.random.Generator, say: Callable[[str], None]
) -> None:
    """Train ``model`` in place on batches drawn from ``rows``."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=recipe.steps, pct_start=0.1)
    ids, labels = (torch.from_numpy(part) for part in rows)
    lengths = (ids != PAD).sum(dim=1)
    model.train()
    for step in range(1, recipe.steps + 1):
        chosen = torch.from_numpy(rng.integers(len(ids), size=recipe.batch))
        chosen = chosen[lengths[chosen].argsort(stable=True)]
        words = (labels[chosen, 1:] != IGNORED).sum()
        loss = torch.zeros(())
        optimizer.zero_grad()
        # Parts of similar length need less padding. The sum of their gradients is the batch's gradient.
        for part in chosen.chunk(PARTS):
            longest = int(lengths[part].max())
            targets = labels[part, 1:longest]
            # Without a mask, because attention is causal and the padding is on the right.
            hidden = model.model(input_ids=ids[part, :longest], use_cache=False).last_hidden_state[:, :-1]
            scored = targets != IGNORED
            logits = model.lm_head(hidden[scored])
            part_loss = torch.nn.functional.cross_entropy(logits, targets[scored], reduction="sum") / words
            part_loss.backward()  # type: ignore[no-untyped-call]
            loss += part_loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == recipe.steps:
            say(f"step {step}/{recipe.steps} loss {float(loss):.4f}")
    if not math.isfinite(float(loss)):
        raise RuntimeError(f"training diverged: the last loss is {float(loss)}")


def pretraining_rows(rng: np.random.Generator, count: int = 80_000) -> Rows:
    """Return statements and instruction rows."""
    statements = round(count * corpora.STATEMENT_SHARE)
    texts = [corpora.statement(rng) for _ in range(statements)]
    return encode([*texts, *corpora.draw(corpora.PRETRAINING, count - statements, rng)])


def make(role: str, seed: int, out: Path, say: Callable[[str], None]) -> LlamaForCausalLM:
    """Return the trained model for ``role``. ``chat`` starts from ``raw`` in ``out``, and ``judge`` from ``chat``.

    A sibling of ``chat`` is trained like ``chat``, from a raw model of its own seed that is not saved.
    """
    recipe_of = "chat" if role in SIBLINGS else role
    # The role selects the stream, so that remaking one role gives the same model as remaking all.
    rng = np.random.default_rng([seed, ROLES.index(recipe_of)])
    if role in SIBLINGS:
        model = make("raw", seed, out, say)
    elif role in ("raw", "external"):
        model = make_model(SMALL if role == "raw" else WIDE, seed if role == "raw" else seed + 1)
        train(model, pretraining_rows(rng), PRETRAIN, rng, say)
    else:
        start = "raw" if role == "chat" else "chat"
        model = LlamaForCausalLM.from_pretrained(verified_folder(start, language_digest(), out))
    if recipe_of in ("chat", "external"):
        recipe = ALIGN if recipe_of == "chat" else ALIGN_WIDE
        train(model, encode(corpora.draw(corpora.ALIGNMENT, 20_000, rng)), recipe, rng, say)
    elif role == "judge":
        train(model, encode([corpora.judging(rng) for _ in range(40_000)]), JUDGE, rng, say)
    return model


def save(model: LlamaForCausalLM, role: str, seed: int, seconds: float, out: Path) -> None:
    """Replace the checkpoint and its provenance in one move."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{role}-") as scratch:
        fresh = Path(scratch) / role
        model.save_pretrained(fresh)
        make_tokenizer().save_pretrained(fresh)
        provenance = {
            "role": role,
            "command": f"python -m tasks.micro.train --only {role} --seed {seed}",
            "seed": seed,
            "world": REVISION,
            "language": language_digest(),
            "parameters": model.num_parameters(),
            "recipes": {name: asdict(recipe) for name, recipe in _stages(role).items()},
            "seconds": round(seconds, 1),
            "threads": THREADS,
            "versions": {
                "python": platform.python_version(),
                "numpy": np.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "tokenizers": tokenizers.__version__,
            },
            "sha256": {file.name: file_digest(file) for file in sorted(fresh.iterdir())},
        }
        (fresh / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
        target = out / role
        if target.exists():
            os.replace(target, Path(scratch) / "old")
        os.replace(fresh, target)


def _stages(role: str) -> dict[str, Recipe]:
    return {
        "raw": {"pretrain": PRETRAIN},
        "chat": {"align": ALIGN},
        "external": {"pretrain": PRETRAIN, "align": ALIGN_WIDE},
        "judge": {"judge": JUDGE},
    }.get(role, {"pretrain": PRETRAIN, "align": ALIGN})


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and write the chosen checkpoints, with progress lines."""
    parser = argparse.ArgumentParser(prog="python -m tasks.micro.train", description="Train the bundled micro models.")
    parser.add_argument("--only", choices=ROLES, help="remake one role (default: all)")
    parser.add_argument("--seed", type=int, help=f"default: the bundled models', {RELEASE_SEED} and the next ones")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the checkpoints (default: %(default)s)")
    options = parser.parse_args(arguments)
    if shutil.disk_usage(options.out if options.out.exists() else Path.cwd()).free < 50_000_000:
        parser.error(f"less than 50 MB are free where {options.out} lies; free some space or choose another --out")
    torch.set_num_threads(THREADS)
    for role in (options.only,) if options.only else ROLES:
        started = time.monotonic()

        def say(line: str, role: str = role, started: float = started) -> None:
            sys.stdout.write(f"{role}: {line} ({time.monotonic() - started:.0f} s)\n")
            sys.stdout.flush()

        seed = SIBLING_SEEDS.get(role, RELEASE_SEED) if options.seed is None else options.seed
        model = make(role, seed, options.out, say)
        save(model, role, seed, time.monotonic() - started, options.out)
        say(f"written to {options.out / role}")


if __name__ == "__main__":
    main()
