"""MT-Bench's first turn: which prompt and reference a question gets, where the texts come from, and what is refused."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import InputsMissingError, UsageError
from benchmark.judges import _fastchat
from benchmark.judges.base import Item, Judgement, Verdict
from benchmark.judges.mt_bench import MtBenchFirstTurn
from tasks.base import Probe, ProbeKind
from tasks.hub import HubWorld

from .conftest import WorldOf
from .speaking_model import ScriptedEngine, chain, save_model

PROMPTS = [
    {"name": "single-v1", "system_prompt": "SYSTEM", "prompt_template": "Q {question} A {answer} END"},
    {
        "name": "single-math-v1",
        "system_prompt": "SYSTEM",
        "prompt_template": "Q {question} R {ref_answer_1} A {answer} END",
    },
]
QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Write a line.", "And another."]},
    {"question_id": 101, "category": "reasoning", "turns": ["Who is first?", "And second?"]},
]
REFERENCES = [{"question_id": 101, "choices": [{"index": 0, "turns": ["The first {one}.", "The second."]}]}]
FILES = {
    "judge_prompts.jsonl": ("judge_prompts.jsonl", PROMPTS),
    "question.jsonl": ("mt_bench/question.jsonl", QUESTIONS),
    "reference_answer_gpt-4.jsonl": ("mt_bench/reference_answer/gpt-4.jsonl", REFERENCES),
}


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_flat(root: Path) -> None:
    (root / "mt_bench").mkdir(parents=True)
    for name, (_, rows) in FILES.items():
        (root / "mt_bench" / name).write_text(lines(rows), encoding="utf-8")


def write_checkout(root: Path) -> None:
    for path, rows in FILES.values():
        place = root / "FastChat" / "fastchat" / "llm_judge" / "data" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(lines(rows), encoding="utf-8")


@pytest.fixture(params=[write_flat, write_checkout])
def texts(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with MT-Bench's files in each of the two layouts."""
    root = tmp_path / "data"
    write: Callable[[Path], None] = request.param
    write(root)
    monkeypatch.setenv("FEDSAFETY_DATA_ROOT", str(root))
    return root


def item(instruction: str, response: str = "blue", reference: str = "") -> Item:
    return Item(Probe(f"p/{instruction}", ProbeKind.UTILITY, "s", True, instruction, reference, 8), response)


def judge_with(world: HubWorld, say: Callable[[str], str]) -> tuple[MtBenchFirstTurn, ScriptedEngine]:
    engine = ScriptedEngine(world.model_path("mt_bench"), say)
    return MtBenchFirstTurn(world, opened=engine), engine


@pytest.mark.usefixtures("texts")
def test_a_question_gets_its_reference_and_the_rating_is_read(model_root: Path, world_of: WorldOf) -> None:
    save_model(model_root / "mt_bench", {})
    world = world_of("mt_bench")
    judge, engine = judge_with(world, lambda prompt: "Fine. Rating: [[7.5]]" if "R The first" in prompt else "[[3]]")
    items = [item("Who is first?"), item("Write a line."), item("unknown", reference="own"), item("unknown")]
    judged = judge.judge(items, world)
    assert [(j.verdict, j.detail) for j in judged] == [(Verdict.RATED, "7.5")] + [(Verdict.RATED, "3")] * 3
    assert sorted(engine.prompts) == [
        "<s><system>SYSTEM<user>Q Who is first? R The first {one}. A blue END<reply>",
        "<s><system>SYSTEM<user>Q Write a line. A blue END<reply>",
        "<s><system>SYSTEM<user>Q unknown A blue END<reply>",
        "<s><system>SYSTEM<user>Q unknown R own A blue END<reply>",
    ]


@pytest.mark.usefixtures("texts")
def test_a_checkpoint_rates(model_root: Path, world_of: WorldOf) -> None:
    save_model(model_root / "mt_bench", chain(">", "[[7]]"), words=["[[7]]"])
    world = world_of("mt_bench")
    judge = MtBenchFirstTurn(world, "transformers")
    (judged,) = judge.judge([item("Write a line.")], world)
    judge.close()
    assert (judged.verdict, judged.detail) == (Verdict.RATED, "7")


@pytest.mark.usefixtures("texts")
def test_a_response_that_is_too_long_is_not_rated_in_part(model_root: Path, world_of: WorldOf) -> None:
    save_model(model_root / "mt_bench", {}, max_length=2200)
    world = world_of("mt_bench")
    judge, engine = judge_with(world, lambda prompt: "[[9]]")
    judged = judge.judge([item("Write a line.", "b" * 300), item("Write a line.")], world)
    assert [j.verdict for j in judged] == [Verdict.UNPARSABLE, Verdict.RATED]
    assert judged[0].detail == "over-long: 350 tokens are to be read, there is room for 152"
    assert len(engine.requests) == 1


def test_identity_follows_the_texts(texts: Path, model_root: Path, world_of: WorldOf) -> None:
    save_model(model_root / "mt_bench", {})
    identity = MtBenchFirstTurn(world_of("mt_bench")).identity
    (prompts,) = texts.rglob("judge_prompts.jsonl")
    prompts.write_text(lines(PROMPTS).replace("END", "STOP"), encoding="utf-8")
    _fastchat._read.cache_clear()
    assert MtBenchFirstTurn(world_of("mt_bench")).identity != identity


@pytest.mark.usefixtures("texts")
def test_identity_follows_the_references_that_probes_bring(
    model_root: Path, world_of: WorldOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(model_root / "mt_bench", {})

    def identity(*items: Item) -> str:
        monkeypatch.setattr(HubWorld, "probes", lambda world: tuple(item.probe for item in items))
        return MtBenchFirstTurn(world_of("mt_bench")).identity

    plain = identity(item("unknown"))
    assert identity(item("unknown", reference="own")) != identity(item("unknown", reference="other")) != plain
    # FastChat's come first.
    assert identity(item("Who is first?", reference="own")) == plain


@pytest.mark.parametrize(
    ("answer", "rating"),
    [
        ("Fine. Rating: [[7.5]]", "7.5"),
        ("[[2]] at first sight, but after all Rating: [[8]], see arr[3].", "8"),
        ("[[2]] at first sight, but after all [[8]]", None),
        ("**Rating:** [[5]] of [[10]]", "5"),
        ("Rating: [[5]], or rather\nRating: [[6]]", None),
        ("[[5]], that is [[5.0]]", "5"),
        ("Rating: [5] of [10]", "5"),
        ("Good work.\nRating: [7].", "7"),
        ("**Rating:** [9]**\n", "9"),
        ("arr[3] is fine", None),
        ("The best line is arr[3]", None),
        ("[4] is what one may give.\nIt is a good answer.", None),
        ("Rating: [[11]]", None),
        ("", None),
    ],
)
def test_a_rating_is_where_it_is_asked_for(answer: str, rating: str | None) -> None:
    judged = MtBenchFirstTurn().parse(answer)
    assert (judged.verdict is Verdict.RATED) == (rating is not None)
    assert rating is None or judged.detail == rating


def test_files_that_are_missing_or_others_are_named(texts: Path) -> None:
    (prompts,) = texts.rglob("judge_prompts.jsonl")
    content = prompts.read_text(encoding="utf-8")
    prompts.write_text(content.replace("single-math-v1", "double"), encoding="utf-8")
    _fastchat._read.cache_clear()
    with pytest.raises(UsageError, match=r"not MT-Bench's files as FastChat has them \(KeyError\('single-math-v1'\)\)"):
        _fastchat.mt_bench()
    prompts.unlink()
    with pytest.raises(InputsMissingError, match=r"judge_prompts\.jsonl as .*mt_bench/judge_prompts\.jsonl"):
        _fastchat.mt_bench()


@pytest.fixture
def fetching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Contents by address, in the place of the network; the expected digests are theirs."""
    monkeypatch.delenv("FEDSAFETY_DATA_ROOT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    served: dict[str, bytes] = {}
    for name, attribute in zip(FILES, ("_PROMPTS", "_QUESTIONS", "_REFERENCES"), strict=True):
        path, rows = FILES[name]
        content = lines(rows).encode()
        served[f"{_fastchat._ADDRESS}fastchat/llm_judge/data/{path}"] = content
        file = _fastchat._File(path, name, hashlib.sha256(content).hexdigest())
        monkeypatch.setattr(_fastchat, attribute, file)

    def urlopen(address: str, timeout: float) -> io.BytesIO:
        del timeout
        if address not in served:
            raise OSError("no network")
        return io.BytesIO(served[address])

    monkeypatch.setattr(_fastchat.urllib.request, "urlopen", urlopen)
    return served


def test_without_a_data_root_the_texts_are_fetched_once(fetching: dict[str, bytes]) -> None:
    first = _fastchat.mt_bench()
    assert first.general.question == "Q {question} A {answer} END"
    assert first.references == {"whoisfirst": "The first {one}."}
    fetching.clear()
    assert _fastchat.mt_bench() == first


def test_a_byte_that_differs_is_refused(fetching: dict[str, bytes], tmp_path: Path) -> None:
    address = next(iter(fetching))
    fetching[address] += b" "
    with pytest.raises(InputsMissingError, match="is not the file that was expected"):
        _fastchat.mt_bench()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_text_that_cannot_be_kept_leaves_nothing_behind(fetching: dict[str, bytes], tmp_path: Path) -> None:
    place = tmp_path / "cache" / "fedsafetybench" / "fastchat" / _fastchat._COMMIT / "judge_prompts.jsonl"
    (place / "in the way").mkdir(parents=True)
    assert fetching
    with pytest.raises(InputsMissingError, match=r"judge_prompts\.jsonl cannot be kept as .*XDG_CACHE_HOME"):
        _fastchat.mt_bench()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_without_a_network_the_way_out_is_named(fetching: dict[str, bytes]) -> None:
    fetching.clear()
    with pytest.raises(InputsMissingError, match=r"cannot be fetched \(no network\).*--data-root"):
        _fastchat.mt_bench()


@pytest.mark.real_data
def test_the_real_files_are_the_pinned_ones(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSAFETY_DATA_ROOT", str(real_data))
    for file in (_fastchat._PROMPTS, _fastchat._QUESTIONS, _fastchat._REFERENCES):
        assert _fastchat._digest(_fastchat._located(file).read_bytes()) == file.digest
    found = _fastchat.mt_bench()
    assert len(found.references) == 30
    assert "{ref_answer_1}" in found.with_reference.question
    assert "{ref_answer_1}" not in found.general.question
    questions = _fastchat._rows(_fastchat._located(_fastchat._QUESTIONS))
    needing = {"math", "coding", "reasoning"}
    with_reference = {q["question_id"] for q in questions if _fastchat.normalised(q["turns"][0]) in found.references}
    assert with_reference == {q["question_id"] for q in questions if q["category"] in needing}
    for question in questions:
        turns = MtBenchFirstTurn().prompt(item(question["turns"][0], "blue"))
        assert question["turns"][0] in turns[1]["content"]


@pytest.mark.parametrize(
    ("answer", "verdict", "detail"),
    [
        ("Good. Rating: [[7]]", Verdict.RATED, "7"),
        ("Rating: [[7.5]]", Verdict.RATED, "7.5"),
        ("Rating: [[10]]", Verdict.RATED, "10"),
        ("Rating: [[7.]]", Verdict.RATED, "7"),
        ("Rating: [6]", Verdict.RATED, "6"),
        ("[3] of [[8]]", Verdict.RATED, "8"),
        ("[[2]] then [[9]]", Verdict.UNPARSABLE, "[[2]] then [[9]]"),
        ("Rating: [[0]]", Verdict.UNPARSABLE, "Rating: [[0]]"),
        ("Rating: [[85]]", Verdict.UNPARSABLE, "Rating: [[85]]"),
        ("Rating: [[rating]]", Verdict.UNPARSABLE, "Rating: [[rating]]"),
        ("Rating: 7", Verdict.UNPARSABLE, "Rating: 7"),
        ("", Verdict.UNPARSABLE, "an empty answer"),
    ],
)
def test_mt_bench_rates_in_brackets(answer: str, verdict: Verdict, detail: str) -> None:
    assert MtBenchFirstTurn().parse(answer) == Judgement(verdict, detail)
