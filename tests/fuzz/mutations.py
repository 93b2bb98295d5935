"""Random damage to documents, and the rule that every reader keeps: a value or one clear error."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from benchmark.errors import FedSafetyError

_TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", " ", "no", "null", "nan", "-1", "1e400", "[bold]", "../x", "\x1b[31m", "\ud800", "{{ x }}", "a\nb", "\0"]
    ),
)
ODD = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 12),
        st.integers(-(2**80), 2**80),
        st.floats(),
        _TEXTS,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXTS, inner, max_size=3)),
    max_leaves=6,
)
"""Values that a JSON or YAML file may hold where another one is expected."""


@st.composite
def damaged(draw: st.DrawFn, document: Any) -> Any:
    """Return a copy of a nested document with one to three nodes replaced, removed, wrapped or renamed."""
    result = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(result)
        if not places:
            return draw(ODD)
        owner, key = places[draw(st.integers(0, len(places) - 1))]
        match draw(st.sampled_from(["replace", "remove", "wrap", "text", "rename"])):
            case "replace":
                owner[key] = draw(ODD)
            case "remove":
                del owner[key]
            case "wrap":
                owner[key] = draw(st.sampled_from([[owner[key]], {"value": owner[key]}, [owner[key], owner[key]]]))
            case "text":
                owner[key] = str(owner[key])
            case "rename" if isinstance(owner, dict):
                owner[draw(_TEXTS)] = owner.pop(key)
    return result


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a nested document."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    found: list[tuple[Any, Any]] = []
    for key, value in items:
        found += [(node, key), *_places(value)]
    return found


def returns_or_explains(call: Callable[[], Any]) -> Any:
    """Return the result of ``call``, or ``None`` if it raises a clear error; any other exception passes through."""
    try:
        return call()
    except FedSafetyError as error:
        message = str(error)
        assert message.strip()
        assert "Traceback" not in message
        assert len(message) < 2_000, f"a message of {len(message)} characters"
        return None
