"""New names of modules that moved, and the message for an import that names an old one.

For example, ``from benchmark.lora import LoraSettings`` in a plug-in fails since protocol 2.0. The message says that
the module is ``benchmark.models.lora`` now.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmark.errors import unknown_name

MOVED: Final[dict[str, str]] = {
    "benchmark.catalog": "benchmark.execution.catalog",
    "benchmark.chat": "benchmark.models.chat",
    "benchmark.cli": "benchmark.cli.main",
    "benchmark.clients": "benchmark.training.clients",
    "benchmark.commands_real": "benchmark.cli.real",
    "benchmark.dropout": "benchmark.training.dropout",
    "benchmark.environment": "benchmark.records.environment",
    "benchmark.estimate": "benchmark.prediction.measured",
    "benchmark.evaluation": "benchmark.execution.answering",
    "benchmark.federation": "benchmark.training.federation",
    "benchmark.gpu_benchmark": "benchmark.speed.gpu_benchmark",
    "benchmark.gpu_trainers": "benchmark.speed.gpu_trainers",
    "benchmark.judging": "benchmark.execution.judging",
    "benchmark.loading": "benchmark.models.loading",
    "benchmark.lora": "benchmark.models.lora",
    "benchmark.microbatches": "benchmark.training.microbatches",
    "benchmark.peft_config": "benchmark.models.peft",
    "benchmark.pipeline": "benchmark.methods.pipeline",
    "benchmark.plan": "benchmark.execution.plan",
    "benchmark.plumbing": "benchmark.proof",
    "benchmark.plumbing.check": "benchmark.proof.check",
    "benchmark.plumbing.findings": "benchmark.proof.findings",
    "benchmark.plumbing.model": "benchmark.proof.model",
    "benchmark.plumbing.proof": "benchmark.proof.proof",
    "benchmark.predict": "benchmark.prediction.forecast",
    "benchmark.predict_answers": "benchmark.prediction.answers",
    "benchmark.predict_device": "benchmark.prediction.device",
    "benchmark.predict_memory": "benchmark.prediction.memory",
    "benchmark.predict_model": "benchmark.models.sizes",
    "benchmark.predict_roles": "benchmark.prediction.roles",
    "benchmark.predict_step": "benchmark.prediction.step",
    "benchmark.predict_text": "benchmark.prediction.text",
    "benchmark.publish": "benchmark.records.publish",
    "benchmark.readiness": "benchmark.execution.readiness",
    "benchmark.run": "benchmark.execution.run",
    "benchmark.sampling": "benchmark.models.sampling",
    "benchmark.scenario": "benchmark.suites.scenario",
    "benchmark.schedule": "benchmark.training.schedule",
    "benchmark.sensitivity": "benchmark.suites.sensitivity",
    "benchmark.sequential": "benchmark.training.sequential",
    "benchmark.server": "benchmark.training.server",
    "benchmark.stacked": "benchmark.training.stacked",
    "benchmark.stacked_layers": "benchmark.training.layers",
    "benchmark.step_memory": "benchmark.training.memory",
    "benchmark.submission.adopt": "benchmark.sandbox.adopt",
    "benchmark.submission.archive": "benchmark.submission.bundle.archive",
    "benchmark.submission.bundle": "benchmark.submission.bundle.bundle",
    "benchmark.submission.check": "benchmark.submission.contract.check",
    "benchmark.submission.claim": "benchmark.submission.bundle.claim",
    "benchmark.submission.commands_check": "benchmark.cli.check",
    "benchmark.submission.commands_verify": "benchmark.cli.verify",
    "benchmark.submission.consistency": "benchmark.submission.verify.consistency",
    "benchmark.submission.contract": "benchmark.submission.contract.base",
    "benchmark.submission.contract_aggregate": "benchmark.submission.contract.aggregate",
    "benchmark.submission.contract_attack": "benchmark.submission.contract.attack",
    "benchmark.submission.contract_hooks": "benchmark.submission.contract.hooks",
    "benchmark.submission.examination": "benchmark.submission.contract.examination",
    "benchmark.submission.inputs": "benchmark.submission.contract.inputs",
    "benchmark.submission.memory": "benchmark.submission.contract.memory",
    "benchmark.submission.metadata": "benchmark.submission.contract.metadata",
    "benchmark.submission.printing": "benchmark.submission.contract.printing",
    "benchmark.submission.report": "benchmark.submission.contract.report",
    "benchmark.submission.robustness": "benchmark.submission.contract.robustness",
    "benchmark.submission.rounds": "benchmark.submission.contract.rounds",
    "benchmark.submission.scenario": "benchmark.suites.attacked",
    "benchmark.submission.smoke": "benchmark.submission.contract.smoke",
    "benchmark.submission.source": "benchmark.methods.source",
    "benchmark.submission.submit": "benchmark.submission.bundle.submit",
    "benchmark.submission.verify": "benchmark.submission.verify.verify",
    "benchmark.submission.verify_identity": "benchmark.submission.verify.identity",
    "benchmark.submission.verify_output": "benchmark.submission.verify.output",
    "benchmark.submission.verify_report": "benchmark.submission.verify.report",
    "benchmark.submission.verify_rerun": "benchmark.submission.verify.rerun",
    "benchmark.submission.verify_rows": "benchmark.submission.verify.rows",
    "benchmark.submission.verify_scores": "benchmark.submission.verify.scores",
    "benchmark.submission.verify_verdicts": "benchmark.submission.verify.verdicts",
    "benchmark.suite": "benchmark.suites.suite",
    "benchmark.token_loss": "benchmark.models.head",
    "benchmark.worker": "benchmark.execution.worker",
    "benchmark.worlds": "benchmark.execution.worlds",
    "leaderboard.agreement": "leaderboard.views.agreement",
    "leaderboard.answers": "leaderboard.page.answers",
    "leaderboard.best_known": "leaderboard.views.best_known",
    "leaderboard.bibtex": "leaderboard.citation.bibtex",
    "leaderboard.board": "leaderboard.ranking.board",
    "leaderboard.canonical": "leaderboard.rows.canonical",
    "leaderboard.catalog": "leaderboard.rows.catalog",
    "leaderboard.cite": "leaderboard.citation.cite",
    "leaderboard.coefficients": "leaderboard.scores.coefficients",
    "leaderboard.curves": "leaderboard.page.curves",
    "leaderboard.detection": "leaderboard.views.detection",
    "leaderboard.download": "leaderboard.page.download",
    "leaderboard.formats": "leaderboard.page.formats",
    "leaderboard.joint_verdicts": "leaderboard.views.joint_verdicts",
    "leaderboard.kind_judges": "leaderboard.scores.kind_judges",
    "leaderboard.page": "leaderboard.page.render",
    "leaderboard.page_cite": "leaderboard.page.citations",
    "leaderboard.page_data": "leaderboard.page.data",
    "leaderboard.page_views": "leaderboard.page.views",
    "leaderboard.plots": "leaderboard.page.plots",
    "leaderboard.published": "leaderboard.citation.published",
    "leaderboard.rank_agreement": "leaderboard.views.rank_agreement",
    "leaderboard.ranking": "leaderboard.ranking.boards",
    "leaderboard.retractions": "leaderboard.rows.retractions",
    "leaderboard.rows": "leaderboard.rows.rows",
    "leaderboard.rungs": "leaderboard.rows.rungs",
    "leaderboard.sensitivity": "leaderboard.views.sensitivity",
    "leaderboard.simulation": "leaderboard.scores.simulation",
    "leaderboard.site": "leaderboard.page.site",
    "leaderboard.sources": "leaderboard.ranking.sources",
    "leaderboard.stats": "leaderboard.scores.stats",
    "leaderboard.submitted": "leaderboard.rows.submitted",
    "leaderboard.tables": "leaderboard.scores.cells",
    "leaderboard.tallies": "leaderboard.scores.tallies",
    "leaderboard.views": "leaderboard.view_table",
    "tasks.micro_fresh": "tasks.micro.fresh",
}
"""Old dotted name -> new dotted name."""

_PACKAGES = ("attacks", "benchmark", "defenses", "leaderboard", "tasks")
_NO_NAME = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")


def import_problem(error: BaseException) -> str:
    """Return what is wrong with an import of a module of this project, beginning with ``imports``.

    Args:
        error: The error that the import raised.

    Returns:
        For a moved module its new name, for an unknown module the nearest name, else an empty text.
    """
    for name in _named(error):
        if name in MOVED:
            return _moved(name, MOVED[name])
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _PACKAGES:
        return f"imports a module that is not here: {unknown_name('module', str(error.name), _modules())}"
    return ""


def _named(error: BaseException) -> list[str]:
    """Return the modules that a failed import may have meant, the most precise name first."""
    if isinstance(error, ModuleNotFoundError):
        return [error.name or ""]
    match = _NO_NAME.match(str(error)) if isinstance(error, ImportError) else None
    return [f"{match[2]}.{match[1]}", match[2]] if match else []


def _moved(old: str, new: str) -> str:
    renamed = f"imports {old}, which is {new} since protocol 2.0"
    if new in _modules():
        return f"{renamed}; change the import"
    return f"{renamed} and cannot be imported in the sandbox; use what the files of `fedsafety new` import"


def _modules() -> set[str]:
    """Return the modules of this project that this process can import; none of them is imported for it."""
    return {module for package in _PACKAGES for module in _modules_of(package)}


def _modules_of(package: str) -> Iterator[str]:
    spec = importlib.util.find_spec(package)
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in Path(folder).rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])
