"""Checkpoints whose files are damaged, nested, or want their own code to run."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, Gemma3Config

from benchmark.errors import FedSafetyError, UsageError
from benchmark.generation.checkpoints import read_checkpoint
from benchmark.models.chat import ChatFormat
from benchmark.models.configuration import read_decoder
from benchmark.models.loading import load_causal_lm
from benchmark.models.lora import target_layers
from benchmark.suites.settings import LoraSettings

SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
READERS: dict[str, Callable[[Path], object]] = {
    "chat format": ChatFormat,
    "engine": read_checkpoint,
    "sizes": read_decoder,
    "training": load_causal_lm,
}


@pytest.fixture
def folder(checkpoints: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(checkpoints / "chat", copy)
    return copy


def change(folder: Path, name: str, **changes: object) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("layers", [2**13, 2**80, 1e9])
def test_a_number_of_layers_that_would_fill_the_memory_is_refused(reader: str, layers: float, folder: Path) -> None:
    change(folder, "config.json", num_hidden_layers=layers)
    with pytest.raises(UsageError, match=r"has num_hidden_layers = .*, and at most 2,048 are read; mend its config"):
        READERS[reader](folder)


CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
from transformers import LlamaConfig
class MyConfig(LlamaConfig):
    model_type = "myllama"
"""


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("model_type", ["myllama", "llama"])
def test_code_in_a_checkpoint_is_neither_run_nor_offered(
    reader: str, model_type: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "configuration_my.py").write_text(CODE)
    change(folder, "config.json", model_type=model_type, auto_map={"AutoConfig": "configuration_my.MyConfig"})
    change(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["configuration_my.MyTokenizer", None]})
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\ny\n"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on the terminal"))
    if model_type == "llama":
        READERS[reader](folder)  # transformers has the class, so the code is not needed
    else:
        with pytest.raises(FedSafetyError, match="code is never run; take a model without auto_map") as refused:
            READERS[reader](folder)
        assert "trust_remote_code" not in str(refused.value)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_position_embeddings": None}, "max_position_embeddings"),
        ({"max_position_embeddings": "80"}, "max_position_embeddings"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        ({"hidden_size": [64]}, "hidden_size"),
    ],
)
def test_a_field_of_another_type_is_named(reader: str, changes: dict[str, Any], field: str, folder: Path) -> None:
    change(folder, "config.json", **changes)
    with pytest.raises(FedSafetyError, match=f"{folder}.*{field}"):
        READERS[reader](folder)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"model_type": "no such model"}'])
def test_a_damaged_configuration_is_one_error(reader: str, content: str, folder: Path) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(FedSafetyError, match=str(folder)):
        READERS[reader](folder)


def test_a_tokenizer_that_fails_on_its_first_text_is_one_error(folder: Path) -> None:
    change(folder, "tokenizer_config.json", model_max_length=[])
    with pytest.raises(UsageError, match=f"the tokenizer in {folder} cannot be read"):
        ChatFormat(folder)


@pytest.mark.parametrize("limit", [0, -1, True])
def test_a_length_that_is_none_is_named(limit: object, folder: Path) -> None:
    change(folder, "config.json", max_position_embeddings=limit)
    for reader in (ChatFormat, read_checkpoint):
        with pytest.raises(UsageError, match="max_position_embeddings"):
            reader(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"eos_token_id": "</s>"}', '{"eos_token_id": [2, null]}'])
def test_a_damaged_generation_configuration_is_one_error(content: str, folder: Path) -> None:
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(UsageError, match=r"generation_config\.json"):
        read_checkpoint(folder)


def test_sizes_of_a_model_with_towers_are_those_of_its_language_model(folder: Path) -> None:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = Gemma3Config(text_config={**SMALL, "max_position_embeddings": 5000}, vision_config=vision)
    config.save_pretrained(folder)
    assert ChatFormat(folder).max_length == 5000
    checkpoint = read_checkpoint(folder)
    assert checkpoint.max_length == 5000
    model = AutoModelForCausalLM.from_config(config)
    assert any("vision_tower" in name for name, _ in model.named_modules())
    every = target_layers(model, LoraSettings(rank=4, alpha=8))
    assert list(every) == list(checkpoint.linear_layers)
    assert len(every) == 2 * 7
    assert all(name.startswith("model.language_model.layers.") for name in every)
    # The tower's attention has a layer of this name, too.
    assert len(target_layers(model, LoraSettings(rank=4, alpha=8, targets=("q_proj",)))) == 2


def test_a_model_without_a_limit_gets_the_stated_one(folder: Path) -> None:
    BloomConfig(vocab_size=40, hidden_size=32, n_layer=1, n_head=2).save_pretrained(folder)
    assert ChatFormat(folder).max_length == 2048
    assert read_checkpoint(folder).max_length == 2048


def test_a_pad_token_outside_the_embedding_is_named(folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(UsageError, match=r"token '\[PAD\]' of .* has id 40, and the embedding has 40 rows; name"):
        ChatFormat(folder)
    # The advice works.
    assert ChatFormat(folder, pad_token="<pad>").pad_id == 0


def test_a_token_of_the_template_outside_the_embedding_is_named(folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<turn>", "extra"])
    tokenizer.save_pretrained(folder)
    chat = ChatFormat(folder)
    # In a text the added tokens are texts.
    assert max(chat.prompt_ids("say <turn> extra")) < 40
    with pytest.raises(UsageError, match=r"token '<turn>' of .* has id 40"):
        ChatFormat(folder, template="<turn> {{ messages[0]['content'] }}")


def test_a_token_of_the_vocabulary_outside_the_embedding_is_named(folder: Path) -> None:
    change(folder, "config.json", vocab_size=39)
    chat = ChatFormat(folder)
    (word,) = (token for token, number in chat.tokenizer.get_vocab().items() if number == 39)
    with pytest.raises(UsageError, match=f"token '{word}' of .* has id 39, and the embedding has 39 rows"):
        chat.prompt_ids(f"name {word}")


def test_a_damaged_configuration_is_no_fault_of_the_tokenizer(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(UsageError, match="the configuration in"):
        ChatFormat(folder)
