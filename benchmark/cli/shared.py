"""Options, consoles and helpers that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

import typer
from typer.core import TyperCommand

from benchmark.errors import UsageError
from benchmark.screen import Screen
from benchmark.stop import check_stop, stop_status

if TYPE_CHECKING:
    from benchmark.generation.select import EngineChoice

_Function = TypeVar("_Function", bound=Callable[..., Any])

console = Screen()
errors = Screen(stderr=True)

SuiteOption = Annotated[
    str,
    typer.Option(
        "--suite",
        help="A bundled suite's id or its tier's (paper_lite), or a suite YAML file (mine.yaml, mine.yaml:lite).",
    ),
]
RunsOption = Annotated[
    Path, typer.Option("--runs", envvar="FEDSAFETY_RUNS", help="Folder of your own runs; made if missing.")
]
EngineOption = Annotated[str, typer.Option("--engine", help="Generation engine: auto, vllm or transformers.")]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        envvar="FEDSAFETY_DATA_ROOT",
        help="Folder of local files that take the place of the suite's data sets on the hub and on GitHub.",
    ),
]
ModelRootOption = Annotated[
    Path | None,
    typer.Option(
        "--model-root",
        envvar="FEDSAFETY_MODEL_ROOT",
        help="Folder of local checkpoints that take the place of the suite's models on the hub and in packages.",
    ),
]


class _Command(TyperCommand):
    """A command that refuses an empty path, which a shell gives for an unset variable and Python reads as ``.``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Return the arguments that are left over; the values of the others are in ``ctx``.

        Raises:
            UsageError: A path is empty.
        """
        paths = {name: name for each in self.params if _is_path(each) for name in each.opts}
        options = {name for each in self.params for name in each.opts if name.startswith("-")}
        place = next((name.upper() for name in paths if name not in options), "")
        for before, word in zip(["", *args], args, strict=False):
            name = paths.get(before, "" if before in options else place) if word == "" else ""
            if word.endswith("="):
                name = paths.get(word.removesuffix("="), "")
            if name:
                raise UsageError(f"{name} is empty; name a file or folder, for example . for the current folder")
        return super().parse_args(ctx, args)


def _is_path(parameter: Any) -> bool:
    """Return whether the values of a parameter are paths."""
    annotation = parameter.type_descriptor.annotation
    return Path in (annotation, *get_args(annotation))


class Program(typer.Typer):
    """A command line all of whose commands refuse empty paths."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[_Function], _Function]:
        """Return a decorator that adds a command, as the base class does."""
        return super().command(name, **{"cls": _Command, **settings})


@dataclass(frozen=True)
class Roots:
    """Folders of local files that take the place of the hub; ``None`` for a folder that no option names."""

    data: Path | None = None
    model: Path | None = None

    def use(self) -> None:
        """Set the environment variables of the roots, for this process and the worker processes that it starts.

        Raises:
            UsageError: A root is not a folder.
        """
        from tasks.hub.roots import DATA_ROOT, MODEL_ROOT

        for variable, root in ((DATA_ROOT, self.data), (MODEL_ROOT, self.model)):
            if root is None:
                continue
            if not root.is_dir():
                raise UsageError(f"{root} is no folder; give one that holds the files, or leave the option out")
            os.environ[variable] = str(root.resolve())


@contextmanager
def resumable(note: str = "what is finished is kept, and the same command resumes") -> Iterator[None]:
    """Answer a stop of long work, also one that no safe point has seen, with a note.

    Args:
        note: What becomes of the work.
    """
    try:
        yield
        check_stop()
    except KeyboardInterrupt:
        errors.say(f"stopped; {note}", "yellow")
        raise typer.Exit(stop_status() or 130) from None


def choose_engine(name: str) -> EngineChoice:
    """Return the generation engine of a name, which may be ``auto``."""
    from benchmark.generation.select import choose_engine as choose

    return choose(name)
