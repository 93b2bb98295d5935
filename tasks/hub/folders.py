"""Files of a folder that hold the rows of one split and configuration."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmark.errors import UsageError
from tasks.hub.conversions import WAYS
from tasks.hub.digests import file_sha256

_SPLITS: Final = {
    "train": ("train", "training", "trainset", "trn"),
    "validation": ("validation", "valid", "val", "dev", "valset", "devset"),
    "test": ("test", "testing", "eval", "evaluation", "testset", "evalset", "tst"),
    "holdout": ("holdout", "heldout"),
}
_CANONICAL: Final = {word: split for split, words in _SPLITS.items() for word in words}
_GLUED: Final = _CANONICAL | {"tr": "train", "te": "test", "va": "validation"}
_LONG: Final = 4
"""Least letters of a word that other words seldom begin or end with."""
_WORDS: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
"""Words of a name: ``trainData2`` has train and Data."""
_SHARD: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})")
_SIDE_FILES: Final = frozenset(
    {
        "dataset_info.json",
        "dataset_infos.json",
        "license.txt",
        "licence.txt",
        "notice.txt",
        "readme.txt",
        "requirements.txt",
    }
)
_SYSTEM_FILES: Final = frozenset({"desktop.ini", "ehthumbs.db", "thumbs.db"})
_OTHER_CONFIG: Final = "of another configuration"
_FOREIGN: Final = {
    "dataset_dict.json": "was written by save_to_disk",
    "state.json": "was written by save_to_disk",
    "_delta_log": "is a Delta table",
    "_spark_metadata": "was written by Spark as a stream",
}
"""File or folder → what a folder with it is; a list of the valid files stands elsewhere in such folders."""


@dataclass(frozen=True)
class FolderFiles:
    """Files of a folder, for one split and configuration.

    Attributes:
        read: Data files that are read, in the order of their names.
        left_out: The other files, in the order of their names, each with the reason.
    """

    read: tuple[Path, ...]
    left_out: tuple[tuple[Path, str], ...]


def split_files(folder: Path, split: str, config: str, endings: Collection[str]) -> FolderFiles:
    """Return the files of ``folder`` that hold one split, and those that are left out.

    Hidden files and side files do not count as data. Hidden are names that begin with a dot, an underscore or ``~$``,
    and the files that Windows adds to a folder. Where names say a split, the files of the wanted split are taken; where
    no name does, all files are.

    Args:
        folder: Folder to look into, at any depth.
        split: Wanted split; empty to take every file.
        config: Wanted configuration, in any case: the subfolder of that name, else the files whose names hold it. Where
            no name does, the split must be one file or one set of shards.
        endings: Endings of data files, in lower case.

    Raises:
        UsageError: The files of the split or configuration cannot be told apart, a part of the split is missing or
            there twice, a link leads nowhere or to a folder, or another program's folder needs that program.
    """
    entries = sorted(folder.rglob("*"))
    names = {entry.name for entry in entries}
    for name, what in _FOREIGN.items():
        if name in names:
            raise UsageError(f"{folder} {what}, as its {name} says; write its rows as one Parquet or JSON Lines file")
    inner = _inner(entries, folder, config)
    _check_links(entries, folder, inner)
    reasons = {entry: _reason(entry, folder, inner, endings) for entry in entries if entry.is_file()}
    if unread := [file for file, reason in reasons.items() if not reason and file.suffix.lower() in WAYS]:
        raise UsageError(
            f"{inner} holds {_listed(unread, inner)}, which are not read; {WAYS[unread[0].suffix.lower()]}, or move "
            f"such files out of the folder"
        )
    files = [file for file, reason in reasons.items() if not reason]
    chosen = [file for file in files if config and _names(file.relative_to(inner), config)]
    if chosen:
        reasons |= {file: _OTHER_CONFIG for file in files if file not in chosen}
        files = chosen
    found = _of_split(files, inner, split) if split else files
    if config and inner == folder and not chosen and len({_without_number(file) for file in found}) > 1:
        raise UsageError(
            f"no file or subfolder of {folder} is named after configuration {config!r}; it holds "
            f"{_listed(found, folder)}; name another configuration, leave it out to read all, or name one file as local"
        )
    for file in {*files} - {*found}:
        is_named = _splits(file.relative_to(inner), split)
        reasons[file] = "of another split" if is_named else "names no split, as others do"
    _check_shards(found, inner)
    _check_copies(found, inner)
    return FolderFiles(tuple(found), tuple((file, reason) for file, reason in reasons.items() if reason))


def _inner(entries: list[Path], folder: Path, config: str) -> Path:
    """Return the subfolder of a configuration; ``folder`` if there is none, or several differ in case alone."""
    if not config:
        return folder
    if (folder / config).is_dir():
        return folder / config
    wanted = Path(config).as_posix().casefold()
    found = [entry for entry in entries if entry.relative_to(folder).as_posix().casefold() == wanted and entry.is_dir()]
    return found[0] if len(found) == 1 else folder


def _check_links(entries: list[Path], folder: Path, inner: Path) -> None:
    """Refuse links to nothing, and links to folders at, above or below ``inner``."""
    links = [entry for entry in entries if entry.is_symlink() and _is_visible(entry.relative_to(folder))]
    if broken := [link for link in links if not link.exists()]:
        raise UsageError(
            f"{folder} holds links to nothing: {_listed(broken, folder)}; copy the files, or remove the links"
        )
    folders = [link for link in links if link.is_dir() and (link.is_relative_to(inner) or inner.is_relative_to(link))]
    if folders:
        raise UsageError(
            f"{folder} holds links to folders, which are not followed: {_listed(folders, folder)}; copy the folders, "
            f"or remove the links"
        )


def _without_number(file: Path) -> Path:
    """Return the path of a file, without the number of a shard."""
    shard = _SHARD.match(file.stem)
    return file.with_name(shard[1] if shard else file.name)


def _reason(file: Path, folder: Path, inner: Path, endings: Collection[str]) -> str:
    """Return why a file does not belong to the configuration; empty for data, also in unread formats."""
    if not file.is_relative_to(inner):
        return _OTHER_CONFIG
    if not _is_visible(file.relative_to(folder)):
        return "hidden"
    if file.name.lower() in _SIDE_FILES:
        return "describes the data"
    return "" if file.suffix.lower() in {*endings, *WAYS} else "no data file"


def _is_visible(path: Path) -> bool:
    return not any(part.startswith((".", "_", "~$")) or part.lower() in _SYSTEM_FILES for part in path.parts)


def _of_split(files: list[Path], folder: Path, split: str) -> list[Path]:
    named = {file: _splits(file.relative_to(folder), split) for file in files}
    if not any(named.values()):
        if len(files) > 1 and _may_say_splits(files, folder):
            raise UsageError(
                f"the names of {_listed(files, folder)} in {folder} may say splits; write each split as a word of its "
                f"own, such as data-train, or name one file as local"
            )
        return files
    wanted = _CANONICAL.get(split, split)
    if doubtful := [file for file, splits in named.items() if wanted in splits and len(splits) > 1]:
        raise UsageError(f"the names of {_listed(doubtful, folder)} in {folder} say several splits; rename them")
    found = [file for file, splits in named.items() if wanted in splits]
    if not found:
        raise UsageError(
            f"no file in {folder} is named after split {split!r}; it holds {_listed(files, folder)}; name another "
            f"split, or one file as local"
        )
    places = sorted({_above(file.relative_to(folder), split) for file in found})
    if len(places) > 1:
        raise UsageError(
            f"split {split!r} lies in several folders of {folder}: {', '.join(places)}; name one as config or local"
        )
    return found


def _splits(path: Path, wanted: str) -> set[str]:
    """Return the splits that a path names, the common ones by one word each."""
    return {split for part in path.parts for split in _of_part(part, wanted)}


def _of_part(part: str, wanted: str) -> set[str]:
    stem = Path(part).stem
    if shard := _SHARD.match(stem):
        return {_CANONICAL.get(shard[1], shard[1])}
    if stem == wanted:
        return {_CANONICAL.get(wanted, wanted)}
    return {_CANONICAL[word.lower()] for word in _WORDS.findall(stem) if word.lower() in _CANONICAL}


def _may_say_splits(files: list[Path], folder: Path) -> bool:
    """Return whether names begin or end with words of two splits.

    A short word counts only where its rest is the rest of another split, as in ``valrows`` and ``trainrows``.
    """
    splits: dict[str, set[str]] = {}
    for part in {part for file in files for part in file.relative_to(folder).with_suffix("").parts}:
        name = part.lower().rstrip("-_. 0123456789")
        for word, split in _GLUED.items():
            for rest in {name.removeprefix(word), name.removesuffix(word)} - {name}:
                for key in (rest, "any") if len(word) >= _LONG else (rest,):
                    splits.setdefault(key, set()).add(split)
    return any(len(found) > 1 for found in splits.values())


def _names(path: Path, config: str) -> bool:
    """Return whether a configuration stands in a path as a word, in any case."""
    pattern = rf"(?<![A-Za-z0-9]){re.escape(config)}(?![A-Za-z0-9])"
    return re.search(pattern, path.as_posix(), re.IGNORECASE) is not None


def _check_shards(files: list[Path], folder: Path) -> None:
    """Refuse a set of numbered shards of which one is missing, and two sets of one name."""
    shards: dict[Path, dict[int, set[int]]] = {}
    for file in files:
        if shard := _SHARD.match(file.stem):
            totals = shards.setdefault(file.parent / shard[1], {})
            totals.setdefault(int(shard[3]), set()).add(int(shard[2]))
    for name, totals in shards.items():
        shown = name.relative_to(folder).as_posix()
        if len(totals) > 1:
            sizes = " and of ".join(map(str, sorted(totals)))
            raise UsageError(f"{folder} holds sets of {sizes} shards of {shown}; remove all sets but one")
        ((total, numbers),) = totals.items()
        if missing := sorted({*range(total)} - numbers):
            raise UsageError(
                f"{folder} holds {total - len(missing)} of {total} shards of {shown}, and shard {missing[0]:05d} is "
                f"missing; fetch the rest, or rename the files to read these alone"
            )


def _check_copies(files: list[Path], folder: Path) -> None:
    """Refuse two files of the same content, whose rows would count twice."""
    sizes = Counter(file.stat().st_size for file in files)
    first: dict[str, Path] = {}
    for file in files:
        size = file.stat().st_size
        if size and sizes[size] > 1:
            other = first.setdefault(file_sha256(file), file)
            if other is not file:
                raise UsageError(
                    f"{_listed([other, file], folder)} in {folder} have the same content, so that each row would count "
                    f"twice; remove one"
                )


def _above(path: Path, wanted: str) -> str:
    """Return the folders above the part of the path that names the split."""
    depth = next(depth for depth, part in enumerate(path.parts) if _of_part(part, wanted))
    return Path(*path.parts[:depth]).as_posix()


def _listed(files: list[Path], folder: Path) -> str:
    names = [file.relative_to(folder).as_posix() for file in files]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
