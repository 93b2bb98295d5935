"""The command ``fedsafety doctor``: the state of this installation and of this machine."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from benchmark.cli.data import (
    AnswerOption,
    ColumnOption,
    ConfigOption,
    DataOption,
    FilterOption,
    FormatOption,
    JsonOption,
    PromptOption,
    SplitOption,
    WhereOption,
    data_source,
    show_data,
)
from benchmark.cli.real import examine_suite
from benchmark.cli.shared import DataRootOption, EngineOption, ModelRootOption, Roots, choose_engine, console
from benchmark.errors import FedSafetyError, SandboxUnavailableError, UsageError
from benchmark.screen import Screen


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("doctor")(doctor)


def doctor(
    context: typer.Context,
    engine: EngineOption = "auto",
    suite: Annotated[
        str, typer.Option("--suite", help="Also tell what a suite's models and data need here: time, memory, consent.")
    ] = "",
    data_root: DataRootOption = None,
    model_root: ModelRootOption = None,
    data: DataOption = None,
    form: FormatOption = "pairs",
    column: ColumnOption = None,
    prompt: PromptOption = "",
    answer: AnswerOption = None,
    split: SplitOption = "train",
    config: ConfigOption = "",
    where: WhereOption = None,
    filters: FilterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what is installed, which generation engine will be used, and why; or show how data are read (--data)."""
    if data is not None:
        _check_data_alone(context)
        source = data_source(form, column or (), where or (), filters or (), split, config, prompt, answer or ())
        show_data(data, source, Screen(), as_json=as_json)
        return
    chosen = column or prompt or answer or where or filters or as_json or config
    if chosen or (form, split) != ("pairs", "train"):
        raise UsageError(
            "--format, --column, --prompt, --answer, --split, --config, --where, --filter and --json belong to --data; "
            "add --data PATH, or leave them out"
        )
    import shutil

    from benchmark.records.environment import environment
    from tasks.base import task_worlds

    Roots(data_root, model_root).use()
    facts: dict[str, Any] = json.loads(environment())
    packages = facts.pop("packages")
    problems: list[str] = []
    try:
        choice = choose_engine(engine)
        chosen = f"generation engine: {choice.name}. {choice.reason}"
    except UsageError:
        raise
    except FedSafetyError as error:
        chosen = "generation engine: none"
        problems.append(str(error))
    table = Table(show_header=False, box=None)
    for key, value in {**facts, **packages}.items():
        table.add_row(key.replace("_", " "), str(value) or "unknown")
    console.print(table)
    console.say(f"\n{chosen}")
    for name in task_worlds.names():
        world = task_worlds.get(name).create()
        for role in world.roles:
            try:
                world.model_path(role)
            except FedSafetyError as error:
                problems.append(str(error))
    browser = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)
    console.say(f"browser for the page's tests: {browser or 'none found'}")
    console.say(f"isolation of submitted methods: {_isolation()}")
    console.say(f"models in bfloat16: {_bfloat16()}")
    if suite:
        problems += examine_suite(suite, engine, console)
    if problems:
        raise FedSafetyError("; ".join(problems))
    console.say("nothing that a run needs is missing", "green")


def _check_data_alone(context: typer.Context) -> None:
    """Refuse ``--data`` beside options that belong to the state of the machine."""
    used = [
        f"--{name.replace('_', '-')}"
        for name in ("suite", "engine", "data_root", "model_root")
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if used:
        raise UsageError(
            f"--data shows one file or folder and does not use {', '.join(used)}; leave out {' and '.join(used)} or "
            f"--data"
        )


def _bfloat16() -> str:
    """Return how the processor multiplies the numbers of models in bfloat16."""
    from benchmark.models.products import widens_bfloat16

    if widens_bfloat16():
        return "the processor has no instructions for their products; training takes these in float32, vLLM is slow"
    return "the processor has instructions for their products"


def _isolation() -> str:
    """Return the isolation of submitted methods on this machine, or the reason why there is none."""
    from benchmark.sandbox.isolation import find_isolation

    try:
        isolation = find_isolation()
    except SandboxUnavailableError as error:
        return f"none; {error}"
    return f"{isolation.name} {isolation.version}"
