"""The reward model, on tiny random DeBERTa checkpoints: ratings, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, DebertaV2Config, DebertaV2ForSequenceClassification, DebertaV2Model

from benchmark.errors import InputsMissingError, UsageError
from benchmark.judges.base import Item, Verdict
from benchmark.judges.reward_model import RewardModel
from tasks.base import Probe, ProbeKind

from .conftest import WorldOf
from .speaking_model import save_tokenizer

MISSING = float("nan")


def item(response: str, instruction: str = "mix the paint") -> Item:
    return Item(Probe("p", ProbeKind.HARMFUL, "s", True, instruction, "", 8), response)


def save_classifier(folder: Path, *, seed: int = 0, whole: bool = True, **settings: Any) -> Path:
    tokenizer = save_tokenizer(folder)
    config = DebertaV2Config(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 64,
            "relative_attention": True,
            "position_biased_input": False,
            "pos_att_type": ["p2c", "c2p"],
            "num_labels": 1,
            "pad_token_id": 0,
            **settings,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = DebertaV2ForSequenceClassification(config) if whole else DebertaV2Model(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def test_ratings_are_the_classifiers_own_output(model_root: Path, world_of: WorldOf) -> None:
    folder = save_classifier(model_root / "reward_model")
    world = world_of("reward_model")
    items = [item("blue"), item("a much longer answer " * 8), item("blue"), item("blue", "another question")] * 6
    judge = RewardModel(world)
    judged = judge.judge(items, world)
    assert judge.judge([], world) == []
    judge.close()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = DebertaV2ForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        alone = [
            float(model(**tokenizer(i.probe.instruction, i.response, return_tensors="pt")).logits[0, 0]) for i in items
        ]
    assert [j.verdict for j in judged] == [Verdict.RATED] * len(items)
    assert [float(j.detail) for j in judged] == pytest.approx(alone, abs=6e-4)
    assert len({j.detail for j in judged}) == 3


def test_relative_positions_have_no_limit_and_absolute_ones_do(model_root: Path, world_of: WorldOf) -> None:
    long = item("word " * 40)
    save_classifier(model_root / "reward_model")
    world = world_of("reward_model")
    assert RewardModel(world).judge([long], world)[0].verdict is Verdict.RATED
    save_classifier(model_root / "reward_model", position_biased_input=True)
    judged = RewardModel(world).judge([long, item("short")], world)
    assert [j.verdict for j in judged] == [Verdict.UNPARSABLE, Verdict.RATED]
    assert judged[0].detail.startswith("over-long: ")
    assert judged[0].detail.endswith("the model reads 64")


def test_a_rating_that_is_no_number_is_unparsable(model_root: Path, world_of: WorldOf) -> None:
    folder = save_classifier(model_root / "reward_model")
    model = DebertaV2ForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.bias.fill_(MISSING)
    model.save_pretrained(folder)
    (judged,) = RewardModel(world_of("reward_model")).judge([item("blue")], world_of())
    assert (judged.verdict, judged.detail) == (Verdict.UNPARSABLE, "the model's output is nan")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_labels": 2}, "has 2 outputs; a reward model has one"),
        ({"whole": False}, "lacks the weights"),
    ],
)
def test_other_checkpoints_are_refused(
    settings: dict[str, Any], message: str, model_root: Path, world_of: WorldOf
) -> None:
    save_classifier(model_root / "reward_model", **settings)
    with pytest.raises(UsageError, match=message):
        RewardModel(world_of("reward_model")).judge([item("blue")], world_of())


def test_quantised_weights_are_not_offered(model_root: Path, world_of: WorldOf) -> None:
    save_classifier(model_root / "reward_model")
    with pytest.raises(UsageError, match="asks for 8bit weights"):
        RewardModel(world_of("reward_model", quantization="8bit")).judge([item("blue")], world_of())


def test_a_model_that_is_not_here_is_named(world_of: WorldOf) -> None:
    with pytest.raises(InputsMissingError, match="tests/made"):
        RewardModel(world_of("reward_model")).judge([item("blue")], world_of())


def test_identity_follows_the_model(model_root: Path, world_of: WorldOf, monkeypatch: pytest.MonkeyPatch) -> None:
    save_classifier(model_root / "reward_model")
    identity = RewardModel(world_of("reward_model")).identity
    assert RewardModel(world_of("reward_model")).identity == identity
    assert RewardModel(world_of("reward_model", dtype="bfloat16")).identity != identity
    save_classifier(model_root / "reward_model", seed=1)
    assert RewardModel(world_of("reward_model")).identity != identity
    monkeypatch.delenv("FEDSAFETY_MODEL_ROOT")
    assert len(RewardModel().identity) == 32
