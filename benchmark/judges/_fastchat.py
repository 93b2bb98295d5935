"""MT-Bench's grading prompts, questions and reference answers, read from FastChat's own files.

With a data root, the files lie in its folder ``mt_bench/`` or in a checkout of FastChat called ``FastChat``. Without a
data root, they are fetched once from FastChat's repository at a fixed commit and refused if a byte differs.
"""

from __future__ import annotations

import hashlib
import json
import urllib.request
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmark.errors import InputsMissingError, UsageError
from tasks.hub.cache import cache_folder, keep
from tasks.hub.roots import data_root
from tasks.hub.text import normalised

_COMMIT = "0e6d3e4beaab66f4d3f93db72541a4abab8af28d"
_ADDRESS = f"https://raw.githubusercontent.com/lm-sys/FastChat/{_COMMIT}/"
_FOLDER = "fastchat/llm_judge/data"
_GENERAL, _WITH_REFERENCE = "single-v1", "single-math-v1"


@dataclass(frozen=True)
class _File:
    """One file of FastChat.

    Attributes:
        path: Below :data:`_FOLDER`.
        flat: Below ``mt_bench`` in a data root.
        digest: SHA-256 at :data:`_COMMIT`.
    """

    path: str
    flat: str
    digest: str


_PROMPTS = _File(
    "judge_prompts.jsonl",
    "judge_prompts.jsonl",
    "fd283293406d024f44c174b094ef48031d0687a4682fd3a56b29b138f80281b6",
)
_QUESTIONS = _File(
    "mt_bench/question.jsonl", "question.jsonl", "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7"
)
_REFERENCES = _File(
    "mt_bench/reference_answer/gpt-4.jsonl",
    "reference_answer_gpt-4.jsonl",
    "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
)


@dataclass(frozen=True)
class GradingPrompt:
    """Prompt that grades one answer.

    Attributes:
        system: System turn.
        question: User turn, with places for ``question``, ``answer`` and, with a reference, ``ref_answer_1``.
    """

    system: str
    question: str


@dataclass(frozen=True)
class MtBench:
    """Prompts and references for the first turn of MT-Bench.

    Attributes:
        general: Prompt without a reference answer.
        with_reference: Prompt with a reference answer.
        references: Normalised first turn → reference answer, of the questions that have one.
    """

    general: GradingPrompt
    with_reference: GradingPrompt
    references: dict[str, str]


def mt_bench() -> MtBench:
    """Return MT-Bench's prompts and references.

    Raises:
        InputsMissingError: A file is not in the data root, or cannot be fetched.
        UsageError: A file lacks the content of FastChat's file.
    """
    return _read(*(_located(file) for file in (_PROMPTS, _QUESTIONS, _REFERENCES)))


@lru_cache(maxsize=8)
def _read(prompts: Path, questions: Path, references: Path) -> MtBench:
    try:
        by_name = {row["name"]: GradingPrompt(row["system_prompt"], row["prompt_template"]) for row in _rows(prompts)}
        turns = {row["question_id"]: row["turns"][0] for row in _rows(questions)}
        answers = {row["question_id"]: row["choices"][0]["turns"][0] for row in _rows(references)}
        return MtBench(
            by_name[_GENERAL],
            by_name[_WITH_REFERENCE],
            {normalised(turns[question]): answer for question, answer in answers.items()},
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UsageError(
            f"{prompts}, {questions} and {references} are not MT-Bench's files as FastChat has them ({error!r}); take "
            f"those below {_ADDRESS}{_FOLDER}"
        ) from error


def _rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _located(file: _File) -> Path:
    root = data_root()
    if root is None:
        return _fetched(file)
    places = [root / "mt_bench" / file.flat, root / "FastChat" / _FOLDER / file.path]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise InputsMissingError(
            f"the data root has no {file.flat} of MT-Bench; save {_ADDRESS}{_FOLDER}/{file.path} as {places[0]}"
        )
    return path


def _fetched(file: _File) -> Path:
    """Return the file in this user's cache, after fetching it if necessary."""
    place = cache_folder() / "fastchat" / _COMMIT / file.path
    if place.is_file() and _digest(place.read_bytes()) == file.digest:
        return place
    address = f"{_ADDRESS}{_FOLDER}/{file.path}"
    try:
        with urllib.request.urlopen(address, timeout=60) as response:  # noqa: S310 - a fixed https address
            content = response.read()
    except OSError as error:
        raise InputsMissingError(
            f"{address} cannot be fetched ({error}); MT-Bench is graded by it: try again with a network, or save it as "
            f"mt_bench/{file.flat} below a folder named by --data-root"
        ) from error
    if _digest(content) != file.digest:
        raise InputsMissingError(f"{address} is not the file that was expected: its SHA-256 is {_digest(content)}")
    try:
        keep(place, content)
    except OSError as error:
        raise InputsMissingError(
            f"{address} cannot be kept as {place} ({error}); make room there, or name another folder by XDG_CACHE_HOME"
        ) from error
    return place


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
