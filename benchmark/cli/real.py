"""Commands and checks for suites on real models and data: cost, memory, shared prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.shared import DataRootOption, Roots, console, errors
from benchmark.errors import UsageError
from benchmark.screen import Screen

if TYPE_CHECKING:
    from benchmark.execution.plan import Plan
    from benchmark.generation.needs import Device
    from benchmark.prediction.forecast import Forecast


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("overlaps")(overlaps)


def overlaps(
    suite: Annotated[str, typer.Option("--suite", help="A bundled suite's id, or the path of a suite YAML file.")],
    scenario: Annotated[list[str] | None, typer.Option(help="Scenario id; repeatable. Default: all.")] = None,
    data_root: DataRootOption = None,
) -> None:
    """Report which prompts the data sets of a suite share, and what is left out of whom for it."""
    from benchmark.suites.suite import find_suite
    from tasks.hub.overlaps import suite_overlaps

    Roots(data=data_root).use()
    chosen = find_suite(suite)
    if chosen.data is None:
        raise UsageError(f"suite {chosen.id!r} reads no data sets; its world makes its rows, disjoint by construction")
    scenarios = [chosen.scenario(name) for name in scenario] if scenario else chosen.scenarios
    choices = {each.id: each.data for each in scenarios if each.data is not None}
    aligned = {each.id: tuple(settings.data) for each in scenarios if (settings := chosen.aligned(each))}
    console.say(str(suite_overlaps(chosen.data, choices, aligned)))


def print_forecast(plan: Plan, screen: Screen, workers: int = 0, remembered_bytes: int | None = None) -> list[str]:
    """Print settings and cost of a plan on real models, and what keeps any plan from running here; return the latter.

    The progress of reading data goes to standard error.

    The cost of worlds that bring their own models is measured on samples instead; see
    :mod:`benchmark.prediction.measured`.

    Args:
        plan: The plan.
        screen: Where the lines go.
        workers: Training processes at once; 0 for the default.
        remembered_bytes: Disk that remembered rounds may take; ``None`` for the default.
    """
    from benchmark.execution.readiness import data_notes, input_state
    from benchmark.generation.needs import this_device
    from benchmark.prediction.device import measure_rate
    from benchmark.prediction.forecast import predict
    from benchmark.prediction.lengths import measure_lengths
    from benchmark.prediction.text import forecast_lines, settings_lines
    from benchmark.progress import Reporter
    from benchmark.records.remembered import REMEMBERED_BYTES
    from tasks.hub.fetching import without_fetching

    if plan.world.models_are_large:
        device, suite = this_device(), plan.suite
        start = next((cell.scenario.start for cell in plan.cells), "")
        dtype = suite.models[start].dtype if start in suite.models else "float32"
        limit = REMEMBERED_BYTES if remembered_bytes is None else remembered_bytes
        with without_fetching():
            lengths = measure_lengths(plan, Reporter(errors))
            forecast = predict(plan, device, measure_rate(dtype, device), limit, lengths)
        forecast = replace(forecast, processes=_at_once(plan, forecast, workers, device))
        for line in [*settings_lines(suite), *forecast_lines(forecast)]:
            screen.say(line)
    with without_fetching():
        state = input_state(plan)
    problems = list(dict.fromkeys([*plan.missing, *state.missing]))
    for sentence in state.to_fetch:
        screen.say(f"to fetch: {sentence}")
    for line in data_notes(plan):
        screen.say(f"data: {line}")
    for reason in problems:
        screen.say(f"not here: {reason}", "yellow")
    try:
        workers_for(plan, workers, screen)
    except UsageError as error:
        problems.append(str(error))
        screen.say(f"would be refused: {error}", "red")
    return problems


def workers_for(plan: Plan, workers: int, screen: Screen | None = None) -> int:
    """Return the number of training processes at once, and print the reason where memory sets it.

    Args:
        plan: The plan.
        workers: The number that the user chose; 0 for one for each processor, or as many as memory holds.
        screen: Where the reason and warnings of judges that do not fit go; by default standard error.

    Raises:
        UsageError: The plan is on real models that do not fit into this machine's memory; gives the numbers and the
            way out.
    """
    from benchmark.execution.run import default_workers, usable_cores
    from benchmark.generation.needs import available_memory, this_device
    from benchmark.models.sizes import gib
    from benchmark.prediction.forecast import check_fits, predict

    if not plan.world.models_are_large:
        return workers or default_workers()
    screen, device = screen or errors, this_device()
    forecast = predict(plan, device)
    jobs, largest = max(1, len(plan.jobs)), _largest_process(forecast, device)
    at_once = _at_once(plan, forecast, workers, device)
    for warning in check_fits(plan.suite, forecast, device, at_once):
        screen.say(f"warning: {warning}", "yellow")
    if not workers and device.kind == "cpu" and at_once < min(usable_cores(), jobs):
        screen.say(
            f"training processes at once: {at_once} on {usable_cores()} processors, because each needs "
            f"{gib(largest)} and {gib(available_memory())} of memory are free",
        )
    return at_once


def _at_once(plan: Plan, forecast: Forecast, workers: int, device: Device) -> int:
    """Return the training processes at once: the user's number, or as many as processors and memory allow."""
    from benchmark.execution.run import default_workers

    return min(workers or default_workers(_largest_process(forecast, device)), max(1, len(plan.jobs)))


def _largest_process(forecast: Forecast, device: Device) -> int:
    from benchmark.execution.run import SMALL_PROCESS_BYTES

    residents = [memory.resident(device) for memory in forecast.training_memory.values()]
    return max(residents, default=SMALL_PROCESS_BYTES)


def examine_suite(name: str, engine: str, screen: Screen) -> list[str]:
    """Print what a suite needs; return what keeps it from running here."""
    from benchmark.execution.plan import make_plan
    from benchmark.execution.prompts import check_prompts
    from benchmark.execution.readiness import chat_notes
    from benchmark.suites.suite import find_suite

    plan = make_plan(find_suite(name), engine, unresolved=True)
    problems = print_forecast(plan, screen)
    if not plan.missing and not plan.unfetched:
        try:
            check_prompts(plan)
        except UsageError as error:
            problems.append(str(error))
            screen.say(f"would be refused: {error}", "red")
        for line in chat_notes(plan):
            screen.say(f"thinking: {line}", "yellow")
    # All of them are printed above; an error is one line.
    return [f"{len(problems)} things keep suite {plan.suite.id!r} from running here; see above"] if problems else []
