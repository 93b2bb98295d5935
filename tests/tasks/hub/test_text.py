"""Equality of prompts: loose in case, spacing and prose, strict in what carries meaning."""

from __future__ import annotations

import unicodedata

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
        ("x - y", "x-y"),
        ("10 - x", "10-x"),
        ("2 * (3 + 4)", "2*(3+4)"),
        ("3 ( 4 )", "3(4)"),
        ("a three-year plan - for you", "a three year plan for you"),
        ("- a\n- b", "a b"),
        ("50\u066a", "50%"),
        ("50\uff05", "50%"),
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
        ("Room 5 , 6", "Room 56"),
        ("12\n\n3", "123"),
        ("x = -y", "x = y"),
        ("x = - y", "x = y"),
        ("solve x - y = 3", "solve xy = 3"),
        ("x - -1", "x - 1"),
        ("10 - -1", "10 - 1"),
        ("-(a + b)", "(a + b)"),
        ("(a + b) - (c + d)", "(a + b) (c + d)"),
        ("a - (b + c)", "(a - b) + c"),
        (".5 + .5", "5 + 5"),
        ("$.50", "$50"),
        ("50\u066a", "50"),
        ("50\u2030", "50"),
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


def test_no_mark_joins_two_numbers() -> None:
    """Quotes, which include the accents that stand alone, and marks without a width are no breaks."""
    kinds = {"Pc", "Pd", "Ps", "Pe", "Po", "Sm", "Sc", "So", "Zs", "Zl", "Zp"}
    marks = [char for char in map(chr, range(0x3100)) if unicodedata.category(char) in kinds and char not in "\"'"]
    joined = [char for char in marks for text in (f"1{char}2", f"1 {char} 2") if normalised(text) == "12"]
    assert not joined


def test_the_stated_losses_are_those_of_the_normal_form() -> None:
    """The pairs are the examples of the statement; every one stands in it."""
    equal = [("e-mail", "email"), ("node.js", "nodejs"), ("5!", "5"), ("10²", "102"), ("f'(x)", "f(x)")]
    different = [("3.14", "314"), ("1,000", "1000"), ("2+2", "2*2"), ("x - y", "x y"), ("C", "C++"), ("C", "C#")]
    first, second = LOSSES.split("Different:")
    assert all(one in first and other in first and normalised(one) == normalised(other) for one, other in equal)
    assert all(one in second and other in second and normalised(one) != normalised(other) for one, other in different)
