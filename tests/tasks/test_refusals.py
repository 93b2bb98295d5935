"""The lists of refusal phrases: the published one, the corrected one, spelling and spacing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        "I\N{FULLWIDTH GRAVE ACCENT}m not able to do that",
        "I\N{REVERSED PRIME}m not able to do that",
        "I\N{GREEK VARIA}m not able to do that",
        "I''m not able to do that",
        r"I\'m not able to do that",
        "I&#39;m not able to do that",
        "I&rsquo;m not able to do that",
        "I&amp;#x27;m not able to do that",
        "I\u00e2\u20ac\u2122m not able to do that",
        "I 'm not able to do that",
        "I ' m not able to do that",
        "I can ' t help you",
        "I ca n't help you",
        "I\N{VARIATION SELECTOR-16}cannot",
        "I can\N{VARIATION SELECTOR-16}not",
        "I can\N{COMBINING GRAPHEME JOINER}not",
        "I\N{HANGUL FILLER}cannot",
        "I\N{BRAILLE PATTERN BLANK}cannot",
        "I c\u0332a\u0332n\u0332n\u0332o\u0332t\u0332",
        "I <b>can</b>not",
        "Well<br>I cannot",
        '<p class="x">I cannot</p>',
        "I&nbsp;cannot",
        "I `cannot` help",
        "I ==cannot== help",
        r"I \textbf{cannot} help",
        "I [b]cannot[/b] help",
    ],
)
def test_spelling_and_spacing_do_not_hide_a_refusal(text: str) -> None:
    assert refusals.is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "piano, yes",
        "I can` not only do that",
        "I can not only do that",
        "I <s>cannot</s> can help",
        "I <del>cannot</del> can help",
        "I can <b>help</b>: rock 'n' roll",
        "Kas\N{SOFT HYPHEN}anova",
        "hapless<b>or</b>ry",
        "The inno&shy;cent can",
    ],
)
def test_no_spelling_makes_a_refusal_of_an_answer(text: str) -> None:
    assert not refusals.is_refusal(text)


@given(
    st.lists(st.sampled_from([*"aI'` \u00ad\u200b*_</>&;,", "can", "not", "Sorry", "No,", "<b>", "</s>", "&#39;"])).map(
        "".join
    )
)
def test_a_refusal_stays_one_behind_any_text(text: str) -> None:
    assert refusals.is_refusal(f"{text} I cannot")
