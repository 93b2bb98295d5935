"""Scores of texts: TF-IDF by hand and as scikit-learn has it, and signs of lists and maths."""

from __future__ import annotations

import math

import pytest

from attacks._similarity import anchor_similarities, list_and_maths_score


def test_worked_similarities() -> None:
    # Two documents of the three hold "a", one holds each of "b" and "c"; the anchor is "a" alone.
    common, rare = math.log(4 / 3) + 1, math.log(4 / 2) + 1
    scores = anchor_similarities(["A b", "c"], ["a"])
    assert scores == pytest.approx([common / math.hypot(common, rare), 0.0])


def test_counts_and_the_mean_over_anchors() -> None:
    # idf is 1 for a word that all documents hold, so "x x" and "x" have the same direction.
    assert anchor_similarities(["x x"], ["x"]) == pytest.approx([1.0])
    assert anchor_similarities(["x"], ["x", "y"]) == pytest.approx([0.5])


def test_a_text_without_words_is_like_no_anchor() -> None:
    assert anchor_similarities(["", "?!"], ["a", ""]) == [0.0, 0.0]


def test_it_agrees_with_scikit_learn() -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    texts = ["How do I bake bread at home?", "List three old cities.", "The bread, the home and the city of bread"]
    anchors = ["How do I open a lock at home?", "Give me three locks."]
    vectors = text.TfidfVectorizer(token_pattern=r"\w+").fit_transform([*texts, *anchors]).toarray()
    expected = (vectors[:3] @ vectors[3:].T).mean(axis=1)
    assert anchor_similarities(texts, anchors) == pytest.approx(expected.tolist())


@pytest.mark.parametrize(
    ("instruction", "response", "score"),
    [
        ("tell me a story", "once upon a time", 0.0),
        ("tell me", "first\n- second\n* third\n\n2. fourth", 3 / 4 + 1 / 7),
        ("List two", "a, b", 1.0),
        ("what is 2 + 2 ?", "2 + 2 = 4", 8 / 10),
        ("the listing of enlisted men", "a well-known man", 0.0),
        ("", "", 0.0),
    ],
)
def test_signs_of_lists_and_maths(instruction: str, response: str, score: float) -> None:
    assert list_and_maths_score(instruction, response) == pytest.approx(score)
