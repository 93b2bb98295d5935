"""Of a folder, exactly the files are read that the split and the configuration name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark.errors import FedSafetyError, UsageError
from tasks.hub.datasets import load_rows
from tasks.hub.files import data_digest, data_files, open_records
from tasks.hub.settings import DatasetSource


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / "o" / "two" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"instruction": name, "response": "x"}) + "\n")


def read(split: str = "train", config: str = "") -> list[str]:
    source = DatasetSource(repository="o/two", split=split, config=config)
    found: list[str] = load_rows(source).table["instruction"].to_pylist()
    return found


@pytest.mark.parametrize(
    ("names", "split", "kept"),
    [
        (["train.jsonl", "test.jsonl"], "train", ["train.jsonl"]),
        (["train.jsonl", "test.jsonl"], "test", ["test.jsonl"]),
        (["data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl"], "train", None),
        (["train/a.jsonl", "train/b.jsonl", "dev/a.jsonl"], "train", ["train/a.jsonl", "train/b.jsonl"]),
        (["my.dev.jsonl", "my.test.jsonl"], "test", ["my.test.jsonl"]),
        (["val.jsonl", "train.jsonl"], "validation", ["val.jsonl"]),
        (["330k_train.jsonl", "330k_test.jsonl"], "330k_train", ["330k_train.jsonl"]),
        (["trainset.jsonl", "testset.jsonl"], "train", ["trainset.jsonl"]),
        (["myTrain2.jsonl", "myTest2.jsonl"], "test", ["myTest2.jsonl"]),
        (["contest.jsonl", "latest.jsonl"], "train", ["contest.jsonl", "latest.jsonl"]),
        (["train_sft-00000-of-00001.jsonl", "train_gen-00000-of-00001.jsonl"], "train_sft", None),
        (["part-0.jsonl", "part-1.jsonl"], "train", ["part-0.jsonl", "part-1.jsonl"]),
        (["values.jsonl", "contest.jsonl"], "train", ["contest.jsonl", "values.jsonl"]),
        (["train.jsonl", "Thumbs.db", "desktop.ini", "~$train.xlsx"], "train", ["train.jsonl"]),
        (["train.JSONL", "readme.txt", "dataset_infos.json"], "train", ["train.JSONL"]),
        (["train.jsonl", ".ipynb_checkpoints/train-checkpoint.jsonl", "_tmp/train.jsonl"], "train", ["train.jsonl"]),
    ],
)
def test_files_of_a_split(root: Path, names: list[str], split: str, kept: list[str] | None) -> None:
    write(root, *names)
    assert read(split) == (kept or names[:1])


def test_hidden_files_change_nothing(root: Path) -> None:
    write(root, "train.jsonl")
    before = data_digest(root / "o" / "two", "train")
    (root / "o" / "two" / "._train.jsonl").write_bytes(b"\x00\x05\x16\x07")
    assert data_digest(root / "o" / "two", "train") == before
    assert read() == ["train.jsonl"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["test.jsonl"], r"no file in .* is named after split 'train'; it holds test\.jsonl"),
        (["train_test.jsonl"], r"train_test\.jsonl .* say several splits"),
        (["train.jsonl", "more.jsonl.gz"], r"holds more\.jsonl\.gz, which are not read; unpack it with gunzip"),
        (["train.jsonl", "more.zip.001", "more.zip.002"], r"holds more\.zip\.001, which are not read; join its parts"),
        (["train.jsonl", "more.Z"], r"holds more\.Z, which are not read; unpack it with gunzip"),
        (["train.jsonl", "train.tab"], r"holds train\.tab, which are not read; write it with commas"),
        (["train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl"], r"2 of 3 shards of train, and shard 00001 is"),
        (["train-00000-of-00001.jsonl", "train-00001-of-00002.jsonl"], r"sets of 1 and of 2 shards of train; remove"),
        (["data.jsonl", "holdout.jsonl"], r"no file in .* is named after split 'train'; it holds data\.jsonl, holdout"),
        (["main/train.jsonl", "other/train.jsonl"], r"several folders .*: main, other; name one as config"),
        (
            ["traindata.jsonl", "testdata.jsonl"],
            r"names of testdata\.jsonl, traindata\.jsonl in .* may say splits",
        ),
        (["gsm8ktrain.jsonl", "gsm8ktest.jsonl"], "may say splits"),
        (["trains/a.jsonl", "tests/b.jsonl"], "may say splits"),
        (["rowsval1.jsonl", "rowstrain1.jsonl"], "may say splits"),
        (["tr.jsonl", "te.jsonl"], "may say splits"),
        (["train/state.json", "train/data.arrow"], r"was written by save_to_disk"),
    ],
)
def test_folders_that_leave_open_what_is_meant(root: Path, names: list[str], message: str) -> None:
    write(root, *names)
    with pytest.raises(UsageError, match=message):
        read()


def test_files_that_are_left_out_are_listed_with_their_reason(root: Path) -> None:
    write(
        root,
        "a/train.jsonl",
        "a/test.jsonl",
        "a/more.csv",
        "b/train.jsonl",
        "a/readme.txt",
        "a/cover.png",
        "a/.x/train.jsonl",
    )
    folder = root / "o" / "two"
    files = data_files(folder, "train", "a")
    assert files.read == (folder / "a" / "train.jsonl",)
    assert {file.relative_to(folder).as_posix(): reason for file, reason in files.left_out} == {
        "a/.x/train.jsonl": "hidden",
        "a/cover.png": "no data file",
        "a/more.csv": "names no split, as others do",
        "a/readme.txt": "describes the data",
        "a/test.jsonl": "of another split",
        "b/train.jsonl": "of another configuration",
    }


def test_a_configuration_is_a_folder(root: Path) -> None:
    write(root, "main/train.jsonl", "other/train.jsonl")
    assert read(config="main") == ["main/train.jsonl"]


def test_a_configuration_in_the_names_of_files(root: Path) -> None:
    write(root, "en-train.jsonl", "de-train.jsonl", "den-train.jsonl")
    assert read(config="en") == ["en-train.jsonl"]


def test_a_configuration_is_compared_without_case(root: Path) -> None:
    write(root, "EN-train.jsonl", "de-train.jsonl", "Fr/train.jsonl")
    assert read(config="en") == ["EN-train.jsonl"]
    assert read(config="fr") == ["Fr/train.jsonl"]


def test_a_configuration_that_no_name_holds_is_refused(root: Path) -> None:
    write(root, "train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl")
    assert len(read(config="default")) == 2
    write(root, "de-train.jsonl")
    message = r"named after configuration 'fr'; it holds de-train\.jsonl, train-00000.*; name another configuration"
    with pytest.raises(UsageError, match=message):
        read(config="fr")


def test_a_copy_of_a_file_is_refused(root: Path) -> None:
    write(root, "train.jsonl")
    folder = root / "o" / "two"
    (folder / "train (1).jsonl").write_bytes((folder / "train.jsonl").read_bytes())
    with pytest.raises(UsageError, match=r"train \(1\)\.jsonl, train\.jsonl in .* have the same content.*; remove one"):
        read()


def test_a_link_to_nothing_is_refused(root: Path) -> None:
    write(root, "train-1.jsonl")
    (root / "o" / "two" / ".#train-1.jsonl").symlink_to("an editor's lock")
    assert read() == ["train-1.jsonl"]
    (root / "o" / "two" / "train-2.jsonl").symlink_to(root / "blob")
    with pytest.raises(UsageError, match=r"holds links to nothing: train-2\.jsonl; copy the files"):
        read()


def test_a_link_to_a_folder_is_refused(root: Path) -> None:
    write(root, "a/train.jsonl", "../more/train.jsonl")
    (root / "o" / "two" / "b").symlink_to(root / "o" / "more")
    assert read(config="a") == ["a/train.jsonl"]
    for config in ("", "b"):
        with pytest.raises(UsageError, match=r"holds links to folders, which are not followed: b; copy the folders"):
            read(config=config)


@pytest.mark.parametrize("split", ["train[:10]", "train+test"])
def test_slices_are_for_the_hub(root: Path, split: str) -> None:
    write(root, "part.jsonl")
    with pytest.raises(
        UsageError, match=r"is a slice or a sum of splits, .*; name one split, and use offset and limit"
    ):
        read(split)


def test_one_name_of_two_files_is_refused(root: Path) -> None:
    write(root, "../two.jsonl", "../two.json")
    with pytest.raises(UsageError, match=r"o/two lies below the data root as two\.json, two\.jsonl"):
        read()


def test_tables_of_a_folder_have_the_same_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt\nx\n")
    (tmp_path / "b.csv").write_text("question\ny\n")
    with pytest.raises(FedSafetyError, match=r"b\.csv has no column 'prompt'"):
        list(open_records(tmp_path, "").read(("prompt",)))
