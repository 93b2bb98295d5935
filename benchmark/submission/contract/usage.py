"""Use of the server's tools by a hook, as counts to compare, to record and to print."""

from __future__ import annotations

from dataclasses import asdict

from benchmark.records.adapters import Usage


def counted(usage: Usage) -> dict[str, float]:
    """Return the counts of a usage without its seconds, which differ from call to call."""
    counts = asdict(usage)
    counts.pop("server_seconds")
    return counts


def in_words(usage: Usage) -> str:
    """Return the amounts that are not 0, and the seconds."""
    amounts = [f"{value:,.0f} {name.replace('_', ' ')}" for name, value in counted(usage).items() if value]
    return f"{', '.join(amounts) or 'nothing of the server'}, {usage.server_seconds:.2g} s"


def meter(metered: dict[str, float], usage: Usage) -> None:
    """Add a usage to the amounts by name, in place."""
    for name, value in asdict(usage).items():
        metered[name] = metered.get(name, 0.0) + value
