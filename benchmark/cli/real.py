"""Commands and checks for suites on real models and data: cost, memory, shared prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from benchmark.cli.shared import DataRootOption, Roots
from benchmark.errors import UsageError

if TYPE_CHECKING:
    from benchmark.execution.plan import Plan


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
    _print(Console(), suite_overlaps(chosen.data, choices))


def print_forecast(plan: Plan, console: Console, workers: int = 0) -> list[str]:
    """Print settings and cost of a plan on real models, and what keeps any plan from running here; return the latter.

    The cost of worlds that bring their own models is measured on samples instead; see
    :mod:`benchmark.prediction.measured`.
    """
    from benchmark.execution.readiness import missing_inputs
    from benchmark.generation.needs import this_device
    from benchmark.prediction.device import measure_rate
    from benchmark.prediction.forecast import predict
    from benchmark.prediction.text import forecast_lines, settings_lines

    if plan.world.models_are_large:
        device, suite = this_device(), plan.suite
        start = next((cell.scenario.start for cell in plan.cells), "")
        dtype = suite.models[start].dtype if start in suite.models else "float32"
        for line in [*settings_lines(suite), *forecast_lines(predict(plan, device, measure_rate(dtype, device)))]:
            _print(console, line)
    problems = list(dict.fromkeys([*plan.missing, *missing_inputs(plan)]))
    for reason in problems:
        _print(console, f"not here: {reason}", style="yellow")
    try:
        refuse_if_too_large(plan, workers, console)
    except UsageError as error:
        problems.append(str(error))
        _print(console, f"would be refused: {error}", style="red")
    return problems


def refuse_if_too_large(plan: Plan, workers: int, console: Console | None = None) -> None:
    """Refuse a plan on real models that cannot fit into this machine's memory; warn of judges that cannot.

    Args:
        plan: The plan.
        workers: Training processes at once; 0 for the default.
        console: Where warnings go; by default standard error.

    Raises:
        UsageError: It cannot; gives the numbers and the way out.
    """
    from benchmark.execution.run import default_workers
    from benchmark.generation.needs import this_device
    from benchmark.prediction.forecast import check_fits, predict

    if plan.world.models_are_large:
        device = this_device()
        at_once = min(workers or default_workers(), max(1, len(plan.jobs)))
        for warning in check_fits(plan.suite, predict(plan, device), device, at_once):
            _print(console or Console(stderr=True), f"warning: {warning}", style="yellow")


def examine_suite(name: str, engine: str, console: Console) -> list[str]:
    """Print what a suite needs; return what keeps it from running here."""
    from benchmark.execution.plan import make_plan
    from benchmark.execution.prompts import check_prompts
    from benchmark.suites.suite import find_suite

    plan = make_plan(find_suite(name), engine, unresolved=True)
    problems = print_forecast(plan, console)
    if not plan.missing:
        try:
            check_prompts(plan)
        except UsageError as error:
            problems.append(str(error))
            _print(console, f"would be refused: {error}", style="red")
    # All of them are printed above; an error is one line.
    return [f"{len(problems)} things keep suite {plan.suite.id!r} from running here; see above"] if problems else []


def _print(console: Console, line: str, style: str | None = None) -> None:
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
