"""Converted GGUF files: equal answers, an identity that covers every file, and refusals of unreadable files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmark.errors import FedSafetyError, UsageError
from tasks.hub import gguf as conversion
from tasks.hub.digests import file_sha256
from tasks.hub.gguf import convert, converted_identity, gguf_identity

from .tiny_gguf import TEMPLATE, VOCABULARY, WIDTH, write_gguf


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def folder(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    lines: list[str] = []
    convert(weights, folder, "tiny 1.0", lines.append)
    assert lines == ["converting tiny 1.0 (llama, F32, Q4_1) to safetensors; this takes about half a minute"]
    return folder


def test_the_converted_model_is_the_file_s_model(weights: Path, folder: Path) -> None:
    opened = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert plain.dtype == torch.float32
    assert not hasattr(plain.config, "quantization_config")
    assert plain.get_input_embeddings().weight.shape == (VOCABULARY, WIDTH)
    expected, found = opened.state_dict(), plain.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_tokenizer_and_template_come_along(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == TEMPLATE
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.decode(tokenizer.encode("Plain text, ünicode", add_special_tokens=False)) == "Plain text, ünicode"
    assert tokenizer.encode("<|im_end|>", add_special_tokens=False) == [2]


def test_identity_is_that_of_the_file_until_a_file_changes(weights: Path, folder: Path, tmp_path: Path) -> None:
    identity = gguf_identity(file_sha256(weights))
    assert converted_identity(folder) == identity == f"gguf/1:sha256:{file_sha256(weights)}"
    assert converted_identity(tmp_path) == ""
    copied = tmp_path / "copy"
    copied.mkdir()
    for file in folder.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    assert converted_identity(copied) == identity
    (copied / "added_tokens.json").write_text("{}")
    assert converted_identity(copied) == ""
    (copied / "added_tokens.json").unlink()
    (copied / "config.json").write_text("{}")
    assert converted_identity(copied) == ""
    (copied / "conversion.json").write_text("[]")
    assert converted_identity(copied) == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architecture": "rwkv6"},
            r"tiny 1\.0 is a GGUF file \(rwkv6, F32, Q4_1\) that transformers cannot read: .*rwkv6",
        ),
        ({"kind": "TQ1_0"}, r"tiny 1\.0 is a GGUF file \(llama, F32, TQ1_0\) that transformers cannot read"),
    ],
)
def test_what_transformers_cannot_read_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        convert(write_gguf(tmp_path / "other.gguf", **changes), tmp_path / "out", "tiny 1.0", lambda _: None)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<!DOCTYPE html>")
    with pytest.raises(UsageError, match=r"tiny 1\.0 cannot be read as a GGUF file: .*name another file"):
        convert(tmp_path / "page.gguf", tmp_path / "out", "tiny 1.0", lambda _: None)


def test_a_missing_library_is_named(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UsageError, match=r"takes the package gguf; install 'fedsafetybench\[hub\]', or put the model"):
        convert(weights, tmp_path, "tiny 1.0", lambda _: None)
    assert [*tmp_path.iterdir()] == []


def test_a_conversion_that_changes_answers_is_refused(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = conversion._plain

    def rounded(model: Any) -> Any:
        return plain(model.bfloat16()).float()

    monkeypatch.setattr(conversion, "_plain", rounded)
    with pytest.raises(
        FedSafetyError, match=r"the converted model differs from it: logits differ by up to 0\.\d+; use"
    ):
        convert(weights, tmp_path, "tiny 1.0", lambda _: None)
    assert converted_identity(tmp_path) == ""
