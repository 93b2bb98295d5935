"""Tasks of lm-evaluation-harness by name: tasks of the benchmark, of the harness and of further folders.

A task is identified by its questions and by its scoring, so that a score never stands for another task. The identity of
the questions is lm-evaluation-harness' own task hash, over the evaluated documents, their prompts and their targets.
The identity of the scoring is a digest of the resolved settings, in which a function counts by its source.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import tqdm
from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import handle_non_serializable, hash_string
from torch.random import fork_rng
from transformers import set_seed

import tasks as own
from benchmark.errors import FedSafetyError, UsageError, unknown_name
from benchmark.harness.model import render
from benchmark.keys import content_key, normalised_source, source_digest
from benchmark.models.chat import ChatFormat

HARNESS_VERSION = version("lm_eval")
"""Version of lm-evaluation-harness; part of every score's identity."""

_SHOT_SEED = 1234
"""Seed of the examples in prompts; lm-evaluation-harness' own default."""

_DATA_PLACE = ("dataset_path", "dataset_name", "dataset_kwargs")
"""Settings that name the place of documents. The task hash covers the documents, so a moved file changes nothing."""


@dataclass(frozen=True)
class Identity:
    """Identity of a task or group, on which its scores depend.

    Attributes:
        version: The version that its YAML file gives, else ``Yaml`` for a task and ``N/A`` for a group, as in
            lm-evaluation-harness.
        task_hash: lm-evaluation-harness' task hash (SHA-256 over documents, prompts and targets in their order); of a
            group, the digest of its members' hashes.
        config_hash: Digest of the resolved settings without the place of the data; of a group, with its members'.
    """

    version: str
    task_hash: str
    config_hash: str


@dataclass(frozen=True)
class Probe:
    """A name that a user gave, and its tasks: a task, a group of tasks, or all tasks of a tag.

    Attributes:
        name: The name.
        tasks: Its tasks by name.
        groups: The groups among it by name.
    """

    name: str
    tasks: Mapping[str, Task]
    groups: Mapping[str, Group]

    def identities(self, chat: ChatFormat, limit: int | None) -> dict[str, Identity]:
        """Return the identity of every task and group in a chat format.

        Args:
            chat: The chat format of prompts.
            limit: Number of documents of each task, from the first; all if ``None``.
        """
        identities = {}
        with quiet():
            self.rewind()
            for name, task in self.tasks.items():
                task.build_all_requests(
                    limit=limit,
                    apply_chat_template=True,
                    fewshot_as_multiturn=True,
                    chat_template=functools.partial(render, chat),
                    tokenizer_name=chat.digest,
                )
                identities[name] = Identity(str(task.VERSION), _task_hash(task), _config_hash(task))
        for name, group in self.groups.items():
            members = [identities[member.task_name] for member in group.get_all_tasks()]
            settings = _without_places({**(group.to_dict() or {}), "task": None})
            identities[name] = Identity(
                group.version,
                content_key(sorted(member.task_hash for member in members)),
                content_key([_plain(settings), sorted(member.config_hash for member in members)]),
            )
        return identities

    def rewind(self) -> None:
        """Restart the draw of examples in prompts, so that every adapter gets the same examples."""
        for task in self.tasks.values():
            task.set_fewshot_seed(seed=_SHOT_SEED)


def find_tasks(names: Sequence[str], folders: Sequence[Path] = ()) -> tuple[list[Probe], dict[str, str]]:
    """Return the tasks of these names, and the reason for each name whose task cannot be loaded.

    Args:
        names: Tasks, groups or tags.
        folders: Folders of further YAML tasks, which replace tasks of the same name.

    Raises:
        UsageError: A name is unknown, or a folder holds no readable YAML task.
    """
    for folder in folders:
        _check_folder(folder)
    manager = _manager(list(dict.fromkeys(names)), folders)
    probes, failures = [], {}
    for name in dict.fromkeys(names):
        try:
            probes.append(_load(manager, name))
        # A task is a separate program: it may need data, packages or services that are not available.
        except Exception as error:
            failures[name] = _why_not(name, error)
    return probes, failures


def _manager(names: Sequence[str], folders: Sequence[Path]) -> TaskManager:
    """Return a task manager for ``names``; it includes the tasks of lm-evaluation-harness only if they are needed."""
    places: list[str | Path] = [*(Path(place) for place in own.__path__), *folders]
    for with_theirs in (False, True):
        with quiet():
            manager = TaskManager(include_path=places, include_defaults=with_theirs)
        missing = [name for name in names if name not in manager.task_index]
        if not missing and (with_theirs or _is_closed(manager, names)):
            return manager
    raise unknown_name("lm-evaluation-harness task", missing[0], manager.all_tasks)


def _is_closed(manager: TaskManager, names: Iterable[str]) -> bool:
    """Whether ``manager`` has all members of the groups called ``names``."""
    waiting, seen = list(names), set()
    while waiting:
        name = waiting.pop()
        entry = manager.task_index.get(name)
        if entry is None:
            return False
        members = (entry.cfg or {}).get("task") if name not in seen else None
        seen.add(name)
        for member in members if isinstance(members, list) else []:
            waiting.append(member if isinstance(member, str) else str(member.get("task") or member.get("group")))
    return True


def _load(manager: TaskManager, name: str) -> Probe:
    with quiet(), fork_rng(devices=[]):
        # Some tasks of lm-evaluation-harness draw from the global random state while they are read.
        set_seed(0)
        loaded = manager.load([name])
        for task in loaded["tasks"].values():
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            if getattr(task, "UNSAFE_CODE", False):
                raise FedSafetyError("it runs code that the model writes, which is not done here")
            if getattr(task, "MULTIMODAL", False):
                raise FedSafetyError("it shows images or sound, and the models here read text only")
    return Probe(name, loaded["tasks"], loaded.get("groups", {}))


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"--task-path {folder} is no folder; give one that holds YAML tasks of lm-evaluation-harness")
    files = sorted(folder.rglob("*.yaml"))
    if not files:
        raise UsageError(f"--task-path {folder} holds no .yaml file; give a folder of lm-evaluation-harness tasks")
    for file in files:
        try:
            load_yaml(file, resolve_func=False)
        except Exception as error:  # the reader passes on any error that the file provokes
            raise UsageError(
                f"{file} is no YAML task of lm-evaluation-harness: {str(error) or type(error).__name__}"
            ) from error


def _why_not(name: str, error: Exception) -> str:
    if isinstance(error, FedSafetyError):
        return f"task {name!r} is not run: {error}"
    reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0]}"
    if isinstance(error, ImportError):
        return f"task {name!r} cannot be loaded ({reason}); install what it needs"
    return (
        f"task {name!r} cannot be loaded ({reason}); if its data lie on the Hugging Face hub and there is no network, "
        f"load them once where there is one and name that cache with HF_HOME, or let a copy of its YAML file read a "
        f"local file (dataset_path: json, dataset_kwargs: data_files) and name the copy's folder with --task-path"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-evaluation-harness and the packages that it loads from writing into the progress display."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    begin = tqdm.tqdm.__init__
    tqdm.tqdm.__init__ = functools.partialmethod(begin, disable=True)
    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        tqdm.tqdm.__init__ = begin
        if shown:
            datasets.enable_progress_bars()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _task_hash(task: Task) -> str:
    """Return what lm-evaluation-harness writes as the task's hash, from the requests that it would send."""
    first: dict[Any, Any] = {}
    for instance in sorted(task.instances, key=lambda instance: instance.idx):
        first.setdefault(instance.doc_id, instance)
    hashes = []
    for number in sorted(first):
        document = json.dumps(first[number].doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
        prompt, target = first[number].arguments[0], str(task.doc_to_target(first[number].doc))
        hashes.append(hash_string(document) + hash_string(prompt) + hash_string(target))
    # It lists every document once for each of the task's filters.
    return str(hash_string("".join(hashes * len(task._filters))))


def _config_hash(task: Task) -> str:
    settings = _without_places(asdict(task.config))
    own_class = None if type(task).__module__.startswith("lm_eval.") else type(task)
    return content_key(_plain({**settings, "class": own_class}))


def _without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without empty ones and without where a file lies on this machine."""
    kept = {key: value for key, value in settings.items() if value is not None and key not in _DATA_PLACE}
    if isinstance(kept.get("metadata"), Mapping):
        kept["metadata"] = {key: value for key, value in kept["metadata"].items() if key != "config_source"}
    return kept


def _plain(value: Any) -> Any:
    """Return settings as JSON-like content, in which a function stands as its name and its source."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        items = [_plain(item) for item in value]
        return sorted(items, key=repr) if isinstance(value, set) else items
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, float):
        return repr(value)
    return _source(value) if callable(value) else str(value)


def _source(function: Callable[..., Any]) -> list[str]:
    """Return a function's name and the digest of its module: of an importable one with what it takes from its package.

    Modules of lm-evaluation-harness stand for themselves, since its version is part of a score's identity.
    """
    while isinstance(function, functools.partial):
        function = function.func
    module, name = getattr(function, "__module__", "") or "", getattr(function, "__qualname__", type(function).__name__)
    # A module that was read from beside its YAML file is called by its path, which differs between machines.
    is_package_member = all(part.isidentifier() for part in module.split("."))
    with contextlib.suppress(ImportError, ValueError):
        if is_package_member and not module.startswith(f"{lm_eval.__name__}."):
            spec = importlib.util.find_spec(module)
            if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
                return [name, source_digest(module)]
    try:
        file = inspect.getsourcefile(function)
    except TypeError:
        file = None
    return [name, content_key(normalised_source(Path(file).read_text(encoding="utf-8"))) if file else module]
