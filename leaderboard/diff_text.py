"""A board's differences in words: plain text for a terminal, and Markdown short enough for a pull-request comment.

Names and reasons come from rows, so other people write them. In Markdown all of them are code: nothing in code is a
link, a mention, markup or HTML, and no name can end the code that holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from leaderboard.diff import AttackLine, BoardDiff, Changed, Line, Lowered, Tie, ViewDiff
from leaderboard.page.formats import interval, percent
from leaderboard.ranking.board import GROUPS
from leaderboard.scores.summaries import OVERALL

LONGEST_COMMENT = 60_000
"""Characters of a comment; GitHub takes 65,536."""
_LONGEST_NAME = 160
_LISTED = 12
_NOTHING = "Nothing changes on the board."

_Name = Callable[[str], str]


def as_text(diffs: Sequence[BoardDiff]) -> str:
    """Return the differences for a terminal."""
    parts = [_text(diff) for diff in diffs if not diff.empty or diff.methods or diff.notices]
    if all(diff.empty for diff in diffs):
        parts.insert(0, _NOTHING)
    return "\n\n".join(parts)


def as_markdown(diffs: Sequence[BoardDiff], *, limit: int = LONGEST_COMMENT) -> str:
    """Return the differences as Markdown of at most ``limit`` characters; omissions are counted."""
    head = "### What would change on the board"
    if all(diff.empty for diff in diffs):
        head += f"\n\n{_NOTHING}"
    blocks = [block for diff in diffs if not diff.empty or diff.methods or diff.notices for block in _markdown(diff)]
    closing = "\n\n_{count} more parts are left out here; `fedsafety leaderboard --diff` prints all of it._"
    text, room = head, limit - len(closing) - 10
    for index, block in enumerate(blocks):
        if len(text) + len(block) + 2 > room:
            return text + closing.format(count=len(blocks) - index)
        text += f"\n\n{block}"
    return text


def _text(diff: BoardDiff) -> str:
    lines = [f"suite {_plain(diff.suite)}{', a new board' if diff.new else ''}{_previewed(diff, _plain)}"]
    for heading, items in _common(diff, _plain):
        lines += ["", heading, *(f"  {item}" for item in items)]
    for view in diff.views:
        if not view.empty:
            lines += ["", _heading(view, diff, _plain), *(f"  {item}" for item in _items(view, _plain))]
    same = [_plain(view.view) for view in diff.views if view.empty and view.view != OVERALL]
    if same and not diff.empty:
        lines += ["", f"No change in: {', '.join(same)}."]
    for heading, items in _remarks(diff, _plain):
        lines += ["", heading, *(f"  {item}" for item in items)]
    return "\n".join(lines)


def _markdown(diff: BoardDiff) -> list[str]:
    """Return blocks, each whole in itself, the most important first."""
    blocks = [f"**Suite {_code(diff.suite)}**{', a new board' if diff.new else ''}{_previewed(diff, _code)}"]
    blocks += [_bullets(f"**{heading}**", items) for heading, items in _common(diff, _code)]
    overall = [view for view in diff.views if view.view == OVERALL and not view.empty]
    blocks += [_bullets(f"**{_heading(view, diff, _code)}**", _items(view, _code)) for view in overall]
    blocks += [_bullets(f"**{heading}**", items) for heading, items in _remarks(diff, _code)]
    for view in diff.views:
        if view.view != OVERALL and not view.empty:
            items = "\n".join(f"- {item}" for item in _items(view, _code))
            # A blank line before Markdown inside HTML, or it would be shown as it is written.
            blocks.append(f"<details><summary>{_html(view)}</summary>\n\n{items}\n\n</details>")
    same = [_code(view.view) for view in diff.views if view.empty and view.view != OVERALL]
    if same and not diff.empty:
        blocks.append(f"No change in: {', '.join(same)}.")
    return blocks


def _bullets(heading: str, items: Iterable[str]) -> str:
    return "\n".join([heading, "", *(f"- {item}" for item in items)])


def _previewed(diff: BoardDiff, name: _Name) -> str:
    if not diff.methods:
        return ""
    own = [name(id_) for id_, what in diff.methods.items() if what == "local"]
    verified = [f"{name(id_)} ({what} so far)" for id_, what in diff.methods.items() if what != "local"]
    sources = [f"your own rows of {', '.join(own)}"] if own else []
    return f": if {' and '.join([*sources, *verified])} were published as reproduced"


def _heading(view: ViewDiff, diff: BoardDiff, name: _Name) -> str:
    if view.view != OVERALL:
        return f"Scenario {name(view.view)}"
    count = len(diff.compared[1])
    return f"Mean over {count} scenario{'s' if count != 1 else ''}"


def _html(view: ViewDiff) -> str:
    text = _plain(view.view)
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("@", "&#64;&#8203;"), ("#", "&#35;")):
        text = text.replace(character, entity)
    parts = {"new": view.added, "changed": view.changed, "ties": view.ties, "best known": view.lowered}
    counts = ", ".join(f"{len(items)} {what}" for what, items in parts.items() if items)
    return f"Scenario <code>{text}</code>: {counts or 'lines gone'}"


def _common(diff: BoardDiff, name: _Name) -> list[tuple[str, list[str]]]:
    """Return what concerns all views: the scenarios of the mean, and submitted attacks."""
    before, after = diff.compared
    items = [f"{name(each)} enters the mean" for each in after if each not in before and not diff.new]
    items += [f"{name(each)} leaves the mean" for each in before if each not in after]
    items += [f"{name(each)} is not in the mean, {name(why)}" for each, why in diff.excluded.items()]
    found = [("Scenarios of the mean", items)] if items else []
    if diff.attacks:
        found.append(("Submitted attacks", [_attack(attack, name) for attack in diff.attacks]))
    return found


def _remarks(diff: BoardDiff, name: _Name) -> list[tuple[str, list[str]]]:
    found = []
    if diff.missing:
        items = [f"{name(id_)}: {'; '.join(map(name, lacking))}" for id_, lacking in diff.missing.items()]
        found.append(("Missing for a rank", items))
    if diff.notices:
        found.append(("Notices", [name(notice) for notice in diff.notices]))
    return found


def _attack(attack: AttackLine, name: _Name) -> str:
    text = f"{name(attack.id)} on {name(attack.base)}, {attack.rung}: on all seeds against "
    text += _names(attack.attacked, name)
    return f"{text}; not on all of them against {_names(attack.spared, name)}" if attack.spared else text


def _items(view: ViewDiff, name: _Name) -> list[str]:
    shifted = [each for each in view.changed if _only_rank(each)]
    ranks = ", ".join(f"{name(each.after.defense)} {each.before.rank} → {each.after.rank}" for each in shifted)
    return [
        *(_added(line, name) for line in view.added),
        *(_changed(each, name) for each in view.changed if each not in shifted),
        *([f"ranks: {ranks}"] if ranks else []),
        *(f"{name(each)} is no longer listed" for each in view.removed),
        *(_tie(tie, name) for tie in view.ties),
        *(_lowered(each, name) for each in view.lowered),
    ]


def _only_rank(each: Changed) -> bool:
    before, after = each.before, each.after
    return bool(before.rank and after.rank) and (before.rung, _safety(before)) == (after.rung, _safety(after))


def _added(line: Line, name: _Name) -> str:
    parts = [f"new: {name(line.defense)}, {_place(line)}, {_safety(line)}"]
    if line.rank:
        parts.append(f"tied with {_names(line.tied, name)}")
        parts += [f"less safe than {_names(line.better, name)}"] if line.better else []
        parts += [f"safer than {_names(line.worse, name)}"] if line.worse else []
    elif line.notes:
        parts.append(name(_why(line)))
    return "; ".join(parts)


def _changed(each: Changed, name: _Name) -> str:
    before, after = each.before, each.after
    parts = []
    if before.rung != after.rung:
        parts.append(f"{before.rung or 'own rows'} → {after.rung or 'own rows'}")
    if (before.group, before.rank) != (after.group, after.rank):
        parts.append(f"{_place(before)} → {_place(after)}")
    if _safety(before) != _safety(after):
        parts.append(f"{_safety(before)} → {_safety(after).removeprefix('safety ')}")
    if not before.rank and after.rank:
        parts.append(f"tied with {_names(after.tied, name)}")
    elif before.notes != after.notes and after.notes:
        parts.append(name(_why(after)))
    return f"{name(after.defense)}: {', '.join(parts) or 'its reasons for having no rank are gone'}"


def _why(line: Line) -> str:
    """Return why a line has no rank: the first reason without its way out, and how many more there are."""
    more = f", and {len(line.notes) - 1} more" if len(line.notes) > 1 else ""
    return f"{line.notes[0].partition(';')[0]}{more}"


def _tie(tie: Tie, name: _Name) -> str:
    words = "were separated, become tied" if tie.tied else "were tied, become separated"
    return f"{name(tie.one)} and {name(tie.other)} {words}"


def _lowered(each: Lowered, name: _Name) -> str:
    by = f" by {name(each.attack)}" if each.attack else ""
    where = f" on {name(each.scenario)}" if each.scenario else ""
    return f"best known of {name(each.defense)}: {percent(each.before)} → {percent(each.after)} %{by}{where}"


def _place(line: Line) -> str:
    return f"rank {line.rank}" if line.rank else GROUPS[line.group].reason


def _safety(line: Line) -> str:
    if line.safety is None:
        return "no score"
    return f"safety {percent(line.safety)} % {interval(line.safety)}".rstrip()


def _names(ids: Sequence[str], name: _Name) -> str:
    shown = ", ".join(name(id_) for id_ in ids[:_LISTED]) or "none"
    return f"{shown} and {len(ids) - _LISTED} more" if len(ids) > _LISTED else shown


def _plain(text: str) -> str:
    """Return ``text`` on one line, without control characters, cut to a length that a line bears."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[: _LONGEST_NAME - 1]}…"


def _code(text: str) -> str:
    """Return ``text`` as code that it cannot end."""
    return f"`{_plain(text).replace('`', chr(39)) or ' '}`"
