"""Check of a plan's models and data before training: each must be on this machine or obtainable from the hub.

The check reads local files and sends the hub one request for each repository. It fetches nothing. For example, it finds
a gated model or a model without safetensors before days of training.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from benchmark.errors import FedSafetyError, InputsMissingError
from benchmark.execution.judging import check_judges
from benchmark.execution.plan import Plan
from benchmark.execution.roles import generating_roles, judge_source
from tasks.hub.datasets import check_data, load_rows
from tasks.hub.models import check_model
from tasks.hub.roots import data_root
from tasks.hub.settings import DatasetSource
from tasks.model_source import ModelSource


def check_inputs(plan: Plan) -> None:
    """Check every model and data set of a plan, including its judges' models.

    Raises:
        InputsMissingError: Several are missing or unreadable. The message lists all.
        FedSafetyError: One is missing or unreadable.
    """
    missing = _errors(plan)
    if len(missing) == 1:
        raise missing[0]
    if missing:
        listed = "\n".join(f"  {error}" for error in missing)
        raise InputsMissingError(
            f"{len(missing)} inputs of this run are missing, or differ from what the suite names:\n{listed}"
        )


def missing_inputs(plan: Plan) -> list[str]:
    """Return the reasons for which :func:`check_inputs` would raise, each once."""
    return [str(error) for error in _errors(plan)]


def data_notes(plan: Plan) -> list[str]:
    """Return a line for each local data set of a plan with files left out or placeholders; none for data of the hub.

    Data sets that cannot be read are left to :func:`missing_inputs`.
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


def _errors(plan: Plan) -> list[FedSafetyError]:
    missing: dict[str, FedSafetyError] = {}
    for check in _checks(plan):
        try:
            check()
        except FedSafetyError as error:
            missing.setdefault(str(error), error)
    return list(missing.values())


def _checks(plan: Plan) -> list[Callable[[], object]]:
    judging = [partial(check_judges, [judge], plan.world) for judge in plan.suite.judges]
    models = [partial(check_model, source) for source in _models(plan)]
    # Local files are read completely, because reading is cheap and finds misspelt columns and empty choices.
    read = check_data if data_root() is None else load_rows
    return [*models, *(partial(read, source) for source in _data(plan)), *judging]


def _models(plan: Plan) -> list[ModelSource]:
    """Return the models from which trainings start, the models that generate data, and the judges' models."""
    suite = plan.suite
    roles = dict.fromkeys(job.scenario.start for job in plan.jobs)
    roles |= {role: None for job in plan.jobs for role in sorted(generating_roles(job, plan.world))}
    sources = [suite.models.get(role) for role in roles]
    judges = (suite.models.get(judge) or judge_source(suite, judge) for judge in suite.judges)
    return [*filter(None, [*sources, *judges])]


def _data(plan: Plan) -> list[DatasetSource]:
    """Return the probe sets and the pools of the plan's scenarios."""
    data = plan.suite.data
    if data is None:
        return []
    choices = [job.scenario.data for job in plan.jobs]
    pools = dict.fromkeys(pool for choice in choices if choice is not None for pool in choice.pools.values())
    return [*(probe.source for probe in data.probes), *(data.pools[pool] for pool in pools)]
