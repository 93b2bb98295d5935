"""The command ``fedsafety align``: make the aligned start of a suite as a file that the suite can ship."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.shared import DataRootOption, ModelRootOption, Roots, console, resumable
from benchmark.errors import FedSafetyError, UsageError


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("align")(align)


def align(
    suite: Annotated[str, typer.Option("--suite", help="A bundled suite's id, or the path of a suite YAML file.")],
    output: Annotated[
        Path | None, typer.Option("--output", help="File to write. Default: <suite>_alignment.safetensors.")
    ] = None,
    data_root: DataRootOption = None,
    model_root: ModelRootOption = None,
) -> None:
    """Train the aligned start of a suite by its settings, and write the adapter with its digest.

    The same settings, data and processor give the same bytes. The suite names the file and its digest under
    alignment.adapter, and runs then load the file instead of training. A suite without an adapter needs no file: its
    first run trains the start.
    """
    from functools import partial

    from benchmark.execution.alignment import check_refusals, make_start, settings_of
    from benchmark.execution.readiness import fetch_sources
    from benchmark.execution.worker import Workers
    from benchmark.progress import Reporter
    from benchmark.sandbox.adopt import Strangers
    from benchmark.suites.suite import find_suite

    Roots(data_root, model_root).use()
    chosen = find_suite(suite)
    settings = settings_of(chosen)
    path = (output or Path(f"{chosen.id}_alignment.safetensors")).absolute()
    if path.exists():
        raise UsageError(f"{path} exists; move it away, or name another file with --output")
    task = partial(make_start, chosen, path)
    reporter = Reporter(console)
    console.say(f"alignment of {chosen.id}: {', '.join(f'{name} {value}' for name, value in settings.recipe.items())}")
    assert chosen.data is not None, "the suite's own check"
    with resumable():
        pools = (chosen.data.pools[pool] for pool in settings.data)
        data = [*(probe.source for probe in chosen.data.probes), *chosen.data.development.values(), *pools]
        fetch_sources([chosen.models[settings.start]], data, reporter)
    with (
        resumable("nothing was written"),
        Workers(1, Strangers()) as workers,
        reporter.step("alignment of the start model", 1) as step,
    ):
        (result,) = workers.run({"the alignment of the start model": task})
        step.advance()
    console.say(f"base model: {result.base}")
    for name, share in result.refused.items():
        console.say(f"refused prompts of {name}: {share:.0%}")
    if settings.expects:
        try:
            check_refusals(settings.expects, result.refused)
        except FedSafetyError as error:
            console.say(f"warning: runs will be refused: {error}", "yellow")
    console.say(f"{path.stat().st_size:,} bytes in {path}")
    console.say(f"sha256: {result.sha256}")
    if settings.adapter:
        same = result.sha256 == settings.adapter.sha256
        differs = "is another one; values may differ in their last bits on another processor"
        console.say(f"the suite's adapter {'has the same bytes' if same else differs}")
