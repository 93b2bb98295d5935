"""Rows of a data set: instruction, response and id under our names of columns.

The steps run in this order: ``where``, named filters, ``shuffle_seed``, ``offset``, ``limit``. Shuffling gives the
order of ``datasets.Dataset.shuffle`` with the same seed, so that published recipes can be followed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmark.errors import InputsMissingError, UsageError, first_line
from tasks.base import DataKind, Example
from tasks.hub.columns import COLUMNS, Reader
from tasks.hub.fetching import Say, silent
from tasks.hub.files import SUFFIXES, Records, data_digest, open_records
from tasks.hub.github import cached_file, check_content, check_github_file, obtain_github_file
from tasks.hub.hub import check_reachable, explained, resolve_commit
from tasks.hub.roots import data_root
from tasks.hub.settings import DatasetSource, GithubFile
from tasks.hub.sieve import Sieve, Steps
from tasks.hub.text import prompt_hashes

_BATCH: Final = 1024
_SCHEMA: Final = pa.schema([(name, pa.large_string()) for name in COLUMNS])
_UNORDERED: Final = {"shuffle_seed": None, "offset": 0, "limit": None, "kind": "normal", "gated": False, "licence": ""}


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a source after all steps, as one Arrow table of text.

    Attributes:
        source: Settings of the source.
        name: File or repository, for messages.
        identity: Commit, or ``sha256:…`` of the local file.
        table: Columns ``id``, ``instruction``, ``response``, ``label``, ``alone`` and ``target``. ``alone`` is the
            instruction without its input, and empty without an input. ``label`` and ``target`` are empty if no column
            is mapped to them.
        steps: Number of rows read, and number of rows after each step.
        notes: Counts of what a reader of results may ask about: files left out and placeholders. Zeros are left out.
    """

    source: DatasetSource
    name: str
    identity: str
    table: pa.Table
    steps: Steps
    notes: Steps = ()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """Hash of each row's normalised instruction, with its input."""
        return prompt_hashes(self.table["instruction"].to_pylist())

    @cached_property
    def hashes_alone(self) -> npt.NDArray[np.uint64]:
        """Hash of each row's normalised instruction without its input, if it has one."""
        texts = self.table["alone"].to_pylist()
        inputs = [place for place, text in enumerate(texts) if text]
        hashes = self.hashes.copy()
        hashes[inputs] = prompt_hashes(texts[place] for place in inputs)
        return hashes

    def examples(self, indices: Sequence[int], task: str) -> list[Example]:
        """Return the rows at ``indices``, in that order. Rows without a label have the task type ``task``."""
        kind = DataKind(self.source.kind)
        rows = self.table.take(pa.array(indices, pa.int64())).to_pylist()
        return [Example(row["instruction"], row["response"], kind, row["label"] or task) for row in rows]


def load_rows(source: DatasetSource) -> Rows:
    """Return the rows of ``source``, read once in a process from the data root or, without one, from hub or GitHub.

    Raises:
        InputsMissingError: The data set is missing: no such file, gated, no such revision, offline, or not the pinned
            content.
        UsageError: A column, split, configuration or filter is unknown, or no row remains.
        FedSafetyError: A remaining row has no text, or a file's content does not match its suffix.
    """
    path = local_path(source) if source.github is None else _github_path(source, source.github, silent)
    return _loaded(source.model_dump_json(), str(path or ""), data_identity(source))


def data_identity(source: DatasetSource) -> str:
    """Return the identity of the data: a commit id of the hub, or ``sha256:…`` of the file below the data root.

    A full commit id in the source is returned unchanged, without a request to the hub. A file of GitHub has its pinned
    SHA-256 as identity, wherever its copy lies; its content is compared when it is read.

    Raises:
        InputsMissingError: The hub cannot resolve the revision, or the file is missing.
    """
    if source.github is not None:
        return f"sha256:{source.github.sha256}"
    path = local_path(source)
    if path is None:
        return resolve_commit("dataset", source.repository, source.revision)
    return f"sha256:{data_digest(path, source.split, source.config)}"


def check_data(source: DatasetSource) -> None:
    """Check that a data set is on this machine, or on the hub and open to this user, without reading rows.

    Raises:
        NotFetchedError: A file of GitHub is not on this machine, and GitHub has its path.
        InputsMissingError: The data set is missing, as for :func:`load_rows`.
        UsageError: The package that reads data sets of the hub is missing.
    """
    if source.github is not None:
        if data_root() is None:
            check_github_file(source.github)
        else:
            _github_path(source, source.github, silent)
        return
    if local_path(source) is not None:
        return
    commit = resolve_commit("dataset", source.repository, source.revision)
    if _cached_builder(source, commit) is None:
        check_reachable("dataset", source.repository, commit)


def fetch_data(source: DatasetSource, say: Say) -> None:
    """Fetch a file of GitHub unless the cache or the data root holds it; data sets of the hub are left to reading.

    Raises:
        InputsMissingError: GitHub cannot be reached, lacks the file, or sends another content.
        StorageError: The cache cannot be written.
    """
    if source.github is not None:
        _github_path(source, source.github, say)


def is_here(source: DatasetSource) -> bool:
    """Return whether reading a file of GitHub needs no network; true for data sets of the hub."""
    return source.github is None or data_root() is not None or cached_file(source.github) is not None


def _github_path(source: DatasetSource, file: GithubFile, say: Say) -> Path:
    """Return the copy of a file of GitHub below the data root or, without a data root, in the cache."""
    root = data_root()
    if root is None:
        return obtain_github_file(file, say)
    path = root / (source.local or f"{file.repository}/{file.path}")
    if not path.is_file():
        raise InputsMissingError(
            f"data file {file} is not below the data root: there is no file {path}; put it there, or leave out "
            f"--data-root to fetch it from GitHub"
        )
    try:
        check_content(file, path, "replace it by the pinned file, or leave out --data-root to fetch that from GitHub")
    except OSError as error:
        raise InputsMissingError(f"{path} cannot be read: {first_line(error)}; mend or replace it") from error
    return path


def local_path(source: DatasetSource) -> Path | None:
    """Return the file or folder below the data root that replaces a data set of the hub; ``None`` without a data root.

    Raises:
        InputsMissingError: The file does not exist.
        UsageError: Files of several endings lie there.
    """
    root = data_root()
    if root is None:
        return None
    named = root / (source.local or source.repository)
    places = [named] if source.local else [named.with_name(named.name + suffix) for suffix in SUFFIXES] + [named]
    existing = [path for path in places if path.is_file() or path.is_dir()]
    if len(existing) > 1:
        raise UsageError(
            f"data set {source.repository} lies below the data root as {', '.join(path.name for path in existing)}; "
            f"remove all but one, or name one as local"
        )
    if not existing:
        what = named if source.local else f"{named} with one of the endings {', '.join(SUFFIXES)}"
        raise InputsMissingError(
            f"data set {source.repository} is not below the data root: there is no {what}; put it there, or leave out "
            f"--data-root to use the hub"
        )
    return existing[0]


@lru_cache(maxsize=64)
def _loaded(source_json: str, path: str, identity: str) -> Rows:
    source = DatasetSource.model_validate_json(source_json)
    filtered = source.model_copy(update=_UNORDERED)
    name, table, steps, notes = _filtered(filtered.model_dump_json(), path, identity)
    table, steps = _ordered(source, table, steps)
    if not table.num_rows:
        raise UsageError(nothing_left(source, name, steps))
    return Rows(source, name, identity, table, steps, notes)


@lru_cache(maxsize=4)
def _filtered(source_json: str, path: str, identity: str) -> tuple[str, pa.Table, Steps, Steps]:
    """Return name, rows, counts and notes after ``where`` and filters.

    Pools that differ only in order or slice share them.
    """
    source = DatasetSource.model_validate_json(source_json)
    records = local_records(source, Path(path)) if path else _hub_records(source, identity)
    sieve = Sieve(Reader(source, records))
    rows = sieve.rows()
    batches = [_batch(part) for part in iter(lambda: [*islice(rows, _BATCH)], [])]
    table = pa.Table.from_batches([*batches, _batch([])]).combine_chunks()
    return records.name, table, sieve.steps, notes(records, sieve)


def local_records(source: DatasetSource, path: Path) -> Records:
    """Return the rows of a local file or folder that replaces ``source``.

    Raises:
        FedSafetyError: As for :func:`tasks.hub.files.open_records`.
    """
    text_column = source.columns.get("instruction", "instruction").split("|")[0]
    return open_records(path, text_column, source.split, source.config)


def notes(records: Records, sieve: Sieve) -> Steps:
    """Return the counts, beside rows, of what was read: files left out by reason, and cells with placeholders."""
    left_out = records.files.left_out if records.files else ()
    counts = Counter(f"files left out ({reason})" for _, reason in left_out)
    for (column, _, is_emptied), cells in sieve.placeholders.items():
        counts[f"{column} placeholders {'read as empty' if is_emptied else 'kept as text'}"] += cells
    return tuple(sorted(counts.items()))


def _batch(rows: Sequence[tuple[str, ...]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else ([] for _ in _SCHEMA)
    return pa.record_batch([pa.array(values, pa.large_string()) for values in columns], schema=_SCHEMA)


def _ordered(source: DatasetSource, table: pa.Table, steps: Steps) -> tuple[pa.Table, Steps]:
    order = np.arange(table.num_rows)
    if source.shuffle_seed is not None:
        order = np.random.default_rng(source.shuffle_seed).permutation(table.num_rows)
    order = order[source.offset :]
    if source.offset:
        steps = (*steps, (f"offset {source.offset}", len(order)))
    if source.limit is not None:
        order = order[: source.limit]
        steps = (*steps, (f"limit {source.limit}", len(order)))
    return table.take(pa.array(order)), steps


def nothing_left(source: DatasetSource, name: str, steps: Steps) -> str:
    """Return the message for a source of which no row remains, with the number of rows after each step."""
    (_, read), *others = steps
    if not read:
        return f"{name} (split {source.split!r}) holds no rows; name a file or a split that holds some"
    story = "".join(f", {step} left {count}" for step, count in others)
    return (
        f"no row of {name} (split {source.split!r}) is left: {read} read{story}; mend where, filters or offset, or "
        f"name another split"
    )


def _hub_records(source: DatasetSource, commit: str) -> Records:
    """Open a split of a data set of the hub. ``datasets`` runs no code of a data set.

    A split prepared earlier from this commit needs no network. It is looked up by commit, because ``datasets`` itself
    would use the last prepared commit when it is offline.
    """
    datasets = _datasets(source)
    builder = _cached_builder(source, commit)
    if builder is None:
        check_reachable("dataset", source.repository, commit)
    try:
        with explained("dataset", source.repository, source.revision):
            if builder is not None:
                split = builder.as_dataset(split=source.split)
            else:
                split = datasets.load_dataset(
                    source.repository, source.config or None, split=source.split, revision=commit
                )
    except (ValueError, datasets.exceptions.DatasetsError) as error:
        raise UsageError(
            f"data set {source.repository} (configuration {source.config or 'default'!r}, split {source.split!r}): "
            f"{first_line(error)}; mend config, split or revision"
        ) from error

    def read(columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        selected = split.select_columns([name for name in split.column_names if name in columns])
        for batch in selected.iter(_BATCH):
            yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))

    return Records(f"data set {source.repository}", tuple(split.column_names), read)


def _cached_builder(source: DatasetSource, commit: str) -> Any | None:
    """Return the builder of the splits that ``datasets`` prepared on this machine from ``commit``, or ``None``."""
    datasets = _datasets(source)
    from datasets.naming import camelcase_to_snakecase
    from datasets.packaged_modules.cache.cache import Cache

    owner, _, name = source.repository.rpartition("/")
    prepared = Path(datasets.config.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(name)}"
    folders = [path.parent for path in prepared.glob(f"*/*/{commit}/dataset_info.json")]
    named = [path for path in folders if path.parts[-3] == (source.config or "default")]
    matching = named or ([] if source.config else folders)
    if len(matching) != 1:
        return None
    config, version = matching[0].parts[-3:-1]
    return Cache(
        dataset_name=name,
        repo_id=source.repository,
        config_name=config,
        version=version,
        hash=commit,
        cache_dir=str(datasets.config.HF_DATASETS_CACHE),
    )


def _datasets(source: DatasetSource) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"data set {source.repository} comes from the hub, which takes the package datasets; install "
            f"'fedsafetybench[hub]', or put the data under a folder named by --data-root"
        ) from error
    return datasets
