"""Formats of a board's numbers, on the page and in the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from leaderboard.scores.stats import EXACT, Difference, Estimate

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
_COSTS = (
    ("owned_aligned", "owned aligned pair", "owned aligned pairs"),
    ("owned_normal", "owned normal pair", "owned normal pairs"),
    ("generated_pairs", "generated pair", "generated pairs"),
    ("generated_tokens", "generated token", "generated tokens"),
    ("finetune_steps", "fine-tuning step", "fine-tuning steps"),
    ("extra_models", "extra model", "extra models"),
)
"""Cost metrics besides seconds and bytes, with their name for one and for several."""


def percent(value: float | Estimate | Difference | None, digits: int = 1) -> str:
    """Return a share in percent, without the sign; a dash for what was not measured."""
    mean = value.mean if isinstance(value, Estimate | Difference) else value
    if mean is None or math.isnan(mean):
        return DASH
    text = f"{100 * mean:.{digits}f}"
    return text.replace("-", MINUS) if float(text) else text.lstrip("-")


def spread(value: Estimate | None, digits: int = 1) -> str:
    """Return the standard deviation over seeds in percent points as ``±1.2``; empty if there is none."""
    return "" if value is None or math.isnan(value.sd) else f"±{100 * value.sd:.{digits}f}"


def interval(value: Estimate | Difference | None, digits: int = 1) -> str:
    """Return the 95 % interval in percent as ``[95.1, 99.0]``; empty where there is none."""
    if value is None or math.isnan(value.low):
        return ""
    return f"[{percent(value.low, digits)}, {percent(value.high, digits)}]"


def is_exact(value: Estimate | Difference | None) -> bool:
    """Return whether the interval is that of the probes, because the seeds do not vary."""
    return value is not None and value.method == EXACT


def number(value: Estimate | None) -> str:
    """Return a cost: decimals only below ten and only for fractions; a dash for what was not measured."""
    if value is None or math.isnan(value.mean):
        return DASH
    if value.mean < 10 and not value.mean.is_integer():
        return f"{value.mean:.2f}" if value.mean < 1 else f"{value.mean:.1f}"
    return f"{value.mean:,.0f}".replace(",", "\N{THIN SPACE}")


def bill(metrics: Mapping[str, Estimate]) -> str:
    """Return in words what a defense costs the server in a run, of each kind; zero costs are left out."""
    if "server_seconds" not in metrics:
        return ""
    parts = [f"{number(metrics['server_seconds'])} s"]
    for metric, one, many in _COSTS:
        value = metrics.get(metric)
        if value is not None and value.mean > 0:
            parts.append(f"{number(value)} {one if value.mean == 1 else many}")
    sent = metrics.get("upload_bytes")
    if sent is not None and sent.mean > 0:
        parts.append(f"{number(replace(sent, mean=sent.mean / 1e6))} MB sent by clients")
    return ", ".join(parts)


def signed(value: float | Difference | None) -> str:
    """Return a difference of shares in points with its sign."""
    text = percent(value)
    return text if text.startswith(MINUS) or not text.strip("0.") or text == DASH else f"+{text}"


def shade(value: Estimate) -> int:
    """Return the heat-map class, 0 to 10, of a share."""
    return min(10, max(0, round(10 * value.mean)))


def worth(value: float | Estimate | None) -> str:
    """Return the sort key of a cell; empty for what was not measured."""
    mean = value.mean if isinstance(value, Estimate) else value
    return "" if mean is None or math.isnan(mean) else f"{mean:.6g}"


def place(share: float) -> str:
    """Return a share as the position of a mark on a drawn scale from 0 to 100 %."""
    return f"{100 * min(1.0, max(0.0, share)):.1f}%"


def fragment(kind: str, id_: str) -> str:
    """Return the address, after ``#``, of the view of one ``defense`` or ``scenario``; any id is safe in it.

    The same text, decoded, is the view's element id, so that the link is a plain anchor where scripts are off.
    """
    return f"{kind}={quote(id_, safe='+')}"


def unscored(text: str) -> list[tuple[str, str]]:
    """Return id and reason of each defense that a suite's settings leave out; none in text of another form."""
    try:
        loaded = json.loads(text or "{}")
    except json.JSONDecodeError:
        return []
    left_out = loaded.get("unscored") if isinstance(loaded, dict) else None
    return sorted((str(name), str(reason)) for name, reason in left_out.items()) if isinstance(left_out, dict) else []


def settings(text: str) -> list[tuple[str, str]]:
    """Return a catalog row's settings as (name, value) pairs, nested names joined by dots."""
    if not text:
        return []
    try:
        loaded = json.loads(text)
    except json.JSONDecodeError:
        return [("settings", text)]

    def flat(value: Any, path: str) -> list[tuple[str, str]]:
        if isinstance(value, Mapping) and value:
            return [pair for key in value for pair in flat(value[key], f"{path}.{key}" if path else str(key))]
        return [(path or "settings", value if isinstance(value, str) else json.dumps(value))]

    return flat(loaded, "")


def first_sentence(text: str) -> str:
    """Return a text up to its first full stop before a blank, or all of it.

    >>> first_sentence("Version 1.0 of a world. It is small.")
    'Version 1.0 of a world.'
    """
    head, stop, _ = " ".join(text.split()).partition(". ")
    return head + stop.rstrip()
