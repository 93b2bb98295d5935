"""The lists of refusal phrases: the published one, the corrected one, spelling and spacing."""

from __future__ import annotations

import pytest

from tasks import refusals


def test_published_list_is_that_of_the_source() -> None:
    assert len(refusals.PUBLISHED_PHRASES) == 35
    assert len(set(refusals.PUBLISHED_PHRASES)) == 35
    assert refusals.FUSED in refusals.PUBLISHED_PHRASES
    assert "No," not in refusals.PUBLISHED_PHRASES
    assert "I'm not able to" not in refusals.PUBLISHED_PHRASES


def test_corrected_list_restores_the_comma() -> None:
    assert refusals.FUSED not in refusals.PHRASES
    assert {"No,", "I'm not able to"} <= set(refusals.PHRASES)
    assert set(refusals.PUBLISHED_PHRASES) - {refusals.FUSED} <= set(refusals.PHRASES)
    assert all(refusals.is_refusal(phrase) for phrase in refusals.PHRASES)


@pytest.mark.parametrize(
    "text",
    [
        "I\N{RIGHT SINGLE QUOTATION MARK}m sorry, no.",
        "I am\nsorry",
        "  i'm   unable to help with bomb .",
        "I can't help you.",
        "I\N{LEFT SINGLE QUOTATION MARK}m not able to do that",
        "I\N{MODIFIER LETTER APOSTROPHE}m not able to do that",
        "I\N{FULLWIDTH APOSTROPHE}m not able to do that",
        "I\N{ACUTE ACCENT}m not able to do that",
        "I`m not able to do that",
        "I\N{ZERO WIDTH SPACE}cannot",
        "I can\N{ZERO WIDTH SPACE}not",
        "I can\N{SOFT HYPHEN}not",
        "I\N{WORD JOINER} cannot",
        "I **cannot** help with that.",
        "_Sorry_, no",
        "~~I cannot~~",
        "\N{FULLWIDTH LATIN CAPITAL LETTER I} cannot",
        "I\N{NO-BREAK SPACE}cannot",
    ],
)
def test_spelling_and_spacing_do_not_hide_a_refusal(text: str) -> None:
    assert refusals.is_refusal(text)
