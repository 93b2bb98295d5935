"""Whether all that a plan needs from outside is here or can be had, before anything is trained for it.

Nothing is fetched: local files are read, and the hub is asked once a repository. A model that it shows and does not
give, or that has no safetensors, is found here and not after days of training.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmark.errors import FedSafetyError, InputsMissingError
from benchmark.execution.judging import check_judges
from benchmark.execution.plan import Plan
from benchmark.execution.roles import generating_roles, judge_source
from tasks.hub.datasets import check_data, load_rows
from tasks.hub.models import check_model
from tasks.hub.roots import data_root
from tasks.hub.settings import DatasetSource, ModelSource


def check_inputs(plan: Plan) -> None:
    """Check that every model and data set of a plan, those of its judges among them, is here or can be had.

    Raises:
        InputsMissingError: Several are not; the text tells of all of them.
        FedSafetyError: One is not, or cannot be read as the suite says.
    """
    missing = _errors(plan)
    if len(missing) == 1:
        raise missing[0]
    if missing:
        listed = "\n".join(f"  {error}" for error in missing)
        raise InputsMissingError(
            f"{len(missing)} things that this run needs are not here, or not as the suite says:\n{listed}"
        )


def missing_inputs(plan: Plan) -> list[str]:
    """Return the reasons that :func:`check_inputs` would raise, each once; empty if it would not."""
    return [str(error) for error in _errors(plan)]


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
    # What lies in local files costs little to read: a misspelt column or an empty choice is found here, too.
    read = check_data if data_root() is None else load_rows
    return [*models, *(partial(read, source) for source in _data(plan)), *judging]


def _models(plan: Plan) -> list[ModelSource]:
    """Return the models that trainings start from or ask for data, and those of judges."""
    suite = plan.suite
    roles = dict.fromkeys(job.scenario.start for job in plan.jobs)
    roles |= {role: None for job in plan.jobs for role in sorted(generating_roles(job, plan.world))}
    sources = [suite.models.get(role) for role in roles]
    judges = (suite.models.get(judge) or judge_source(suite, judge) for judge in suite.judges)
    return [*filter(None, [*sources, *judges])]


def _data(plan: Plan) -> list[DatasetSource]:
    """Return the probe sets, and the pools of the scenarios that are run."""
    data = plan.suite.data
    if data is None:
        return []
    choices = [job.scenario.data for job in plan.jobs]
    pools = dict.fromkeys(pool for choice in choices if choice is not None for pool in choice.pools.values())
    return [*(probe.source for probe in data.probes), *(data.pools[pool] for pool in pools)]
