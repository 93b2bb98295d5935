"""Rules on the pools that may serve the roles of a scenario."""

from __future__ import annotations

from typing import Final

from benchmark.errors import UsageError, unknown_name
from tasks.hub.overlaps import OWNERS, Owner
from tasks.hub.settings import DataChoice, HubData

_KINDS: Final = {
    "unaligned": "unaligned",
    "refusals": "aligned",
    "aligned": "aligned",
    "normal": "normal",
    "contrast": "normal",
}
"""Role → data type that its pool must have. Honest clients' pools may be normal or aligned."""


def check_choice(data: HubData, choice: DataChoice) -> None:
    """Check that every role of ``choice`` has a pool that can serve it.

    Raises:
        UsageError: A pool is unknown, has another data type or no answers, or serves two roles of different owners.
    """
    owners: dict[str, tuple[str, Owner]] = {}
    for role, pool in choice.pools.items():
        if pool not in data.pools:
            raise unknown_name("data pool", pool, data.pools)
        kind = data.pools[pool].kind
        required = _KINDS.get(role)
        if kind != required if required else kind == "unaligned":
            raise UsageError(
                f"pool {pool!r} has kind {kind!r} and cannot serve as {role}, which needs "
                f"{required or 'normal or aligned'}"
            )
        if data.pools[pool].format == "prompts" and not (
            data.pools[pool].response or "response" in data.pools[pool].columns
        ):
            raise UsageError(f"pool {pool!r} has prompts and no answers; give it a response, or map a column to it")
        owner = OWNERS.get(role, Owner.CLIENTS)
        other, first_owner = owners.setdefault(pool, (role, owner))
        shared_by_server = first_owner is owner is Owner.DEFENDER
        if other != role and not shared_by_server and data.overlaps != "report":
            raise UsageError(
                f"pool {pool!r} serves both {other} and {role}; make two pools of it with offset and limit, or set "
                f"overlaps to report"
            )
