"""Content that lies in the place of a file is recognised with its way out, and a file with its own content is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tasks.stand_ins import stand_in, stand_in_of_checkpoint

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.safetensors", LFS, "a pointer of Git LFS in place of the file; fetch the file with git lfs pull"),
        ("config.json", LFS, "a pointer of Git LFS"),
        ("a.jsonl", b"/annex/objects/SHA256E-s31390--f50d7ac4.safetensors\n", "git annex get"),
        ("a.safetensors", b"\xef\xbb\xbf\n <!DOCTYPE html>\n<html>", "a web page; download the file"),
        ("a.json", b"<!-- saved -->\n<HTML lang=en>", "a web page"),
        ("a.json", b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "a web page"),
        ("a.safetensors", b"Entry not found", "a text, which begins with 'Entry not found'"),
        ("a.safetensors", b'{"error":"Invalid username"}', "a text"),
        ("a.safetensors", b"", "an empty file"),
        ("a.safetensors", b"PK\x03\x04\x00\x00", "pickled weights, which could run code; save the model again"),
        ("a.txt", b"Entry not found", ""),
        ("a.txt", b"<htmlish> text", ""),
        ("a.txt", b"version https://example.org/git-lfs", ""),
        ("a.xml", b'<?xml version="1.0"?><rows/>', ""),
        ("a.json", b"", ""),
    ],
)
def test_the_first_bytes_tell_a_stand_in(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    found = str(stand_in(tmp_path / name) or "")
    assert said in found
    assert bool(said) == bool(found)


def test_tensors_are_no_stand_in(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(3)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "folder.json").mkdir()
    assert stand_in(tmp_path / "model.safetensors") is None
    assert stand_in_of_checkpoint(tmp_path) == ""
    (tmp_path / "tokenizer.json").write_bytes(LFS)
    assert stand_in_of_checkpoint(tmp_path).startswith("tokenizer.json is a pointer of Git LFS")


@pytest.mark.parametrize(
    ("target", "said"),
    [("../.git/annex/objects/0K/gj/SHA256E-s3--a", "git annex get"), ("../blobs/4d7a", "blobs/4d7a, which is missing")],
)
def test_a_link_without_its_file_is_a_stand_in(tmp_path: Path, target: str, said: str) -> None:
    (tmp_path / "model.safetensors").symlink_to(target)
    assert said in str(stand_in(tmp_path / "model.safetensors"))
