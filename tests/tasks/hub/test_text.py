"""Equality of prompts: loose in case, spacing and prose, strict in what carries meaning."""

from __future__ import annotations

import pytest

from tasks.hub.text import LOSSES, normalised


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Is it - E-mail?", "is it email"),
        ("\u201cDon\u2019t\u201d stop\u2026", "don't stop"),
        ("don\u00b4t", "don't"),
        ("I **cannot** say", "I cannot say"),
        ("# Title\n- one\n- two", "Title one two"),
        ("in\u200bvisi\u00adble", "invisible"),
        ("\uff28\uff45\uff4c\uff4c\uff4f\uff01", "hello"),
        ("Café", "Cafe\u0301"),
        ("¿Qué?", "qué"),
        ("Hello, world. How are you?", "hello world how are you"),
        ("COVID-19", "Covid 19"),
        ("2 * 2", "2*2"),
        ("a / b", "a/b"),
        ("❤️", "❤"),
    ],
)
def test_the_same_prompt(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("कि", "का"),
        ("ไม่", "ไม้"),
        ("Write a program in C", "Write a program in C++"),
        ("Write a program in C", "Write a program in C#"),
        ("What is 2+2?", "What is 2*2?"),
        ("What is 2-2?", "What is 2/2?"),
        ("3.14", "314"),
        ("3 14", "314"),
        ("add 1, 2", "add 12"),
        ("10:30", "1030"),
        ("What is -5 squared", "What is 5 squared"),
        ("x - 1", "x 1"),
        ("10 - x", "10 x"),
        ("(a+b)*c", "a+(b*c)"),
        ("a*b", "a/b"),
        ("a != b", "a = b"),
        ("x > y", "x < y"),
        ("5 €", "5 $"),
        ("5%", "5"),
        ("What does 😀 mean", "What does 😂 mean"),
        ("snake_case", "snakecase"),
        ("?!", ".."),
        ("", "?"),
    ],
)
def test_different_prompts(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_the_stated_losses_are_those_of_the_normal_form() -> None:
    """The pairs are the examples of the statement; every one stands in it."""
    equal = [("e-mail", "email"), ("node.js", "nodejs"), ("x²", "x2")]
    different = [("3.14", "314"), ("1,000", "1000"), ("2+2", "2*2"), ("C", "C++"), ("C", "C#")]
    first, second = LOSSES.split("Different:")
    assert all(one in first and other in first and normalised(one) == normalised(other) for one, other in equal)
    assert all(one in second and other in second and normalised(one) != normalised(other) for one, other in different)
