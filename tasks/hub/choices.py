"""Rules on the pools that may serve the roles of a scenario."""

from __future__ import annotations

from collections.abc import Collection
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


def check_choice(data: HubData, choice: DataChoice | None, aligned: Collection[str] = ()) -> None:
    """Check that every role of ``choice``, and the alignment of the start model, has pools that can serve it.

    Raises:
        UsageError: A pool is unknown, has another data type or no answers, or serves two roles of different owners.
    """
    owners: dict[str, tuple[str, Owner]] = {}
    roles = [("the alignment", pool) for pool in aligned] + list(choice.pools.items() if choice else ())
    for role, pool in roles:
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
        owner = Owner.ALIGNMENT if role == "the alignment" else OWNERS.get(role, Owner.CLIENTS)
        other, first_owner = owners.setdefault(pool, (role, owner))
        # The server may own the rows on which the start model was aligned.
        shared_by_server = {first_owner, owner} <= {Owner.ALIGNMENT, Owner.DEFENDER}
        if other != role and not shared_by_server and data.overlaps != "report":
            raise UsageError(
                f"pool {pool!r} serves both {other} and {role}; make two pools of it with offset and limit, or set "
                f"overlaps to report"
            )
