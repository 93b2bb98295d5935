"""BibTeX entries of the benchmark, and of methods from the sources in their catalog rows.

Nothing is made up. A source such as ``Blanchard et al. 2017, arXiv 1703.02757`` gives an entry with that author, year
and identifier and with no title; a text of another form is quoted as a note.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from benchmark import __version__
from leaderboard.citation.published import PAPERS, published

BENCHMARK = {
    "title": "FedSafetyBench",
    "author": "The FedSafetyBench authors",
    "year": "2026",
    "version": __version__,
}
"""The same as in CITATION.cff, which is not part of an installed package."""

_SOURCE = re.compile(
    r"(?P<before>.*?)"
    r"(?P<name>[^\W\d_][\w'-]*)(?P<others> et al\.| and [^\W\d_][\w'-]*)? (?P<year>(?:19|20)\d\d)"
    r"(?:, (?P<where>.+))?"
)
_ARXIV = re.compile(r"\barXiv[ :]\s*(\d{4}\.\d{4,5})\b", re.IGNORECASE)
_URL = re.compile(r"https?://[^\s;,]+")
_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_SPECIAL |= {character: f"\\{character}" for character in "&%$#_{}"}


def benchmark_entry(note: str) -> str:
    """Return the benchmark's entry; ``note`` names the rows and versions."""
    fields = {"title": f"{{{BENCHMARK['title']}}}", "author": f"{{{BENCHMARK['author']}}}"}
    fields |= {"year": BENCHMARK["year"], "version": BENCHMARK["version"], "note": escaped(note)}
    return _entry("fedsafetybench", fields)


@lru_cache(maxsize=1024)
def method_entries(method: str, paper: str) -> tuple[str, ...]:
    """Return one entry a source that the catalog names for a method; none where it names none.

    Args:
        method: Id of the method, the key of a source without a readable name.
        paper: Sources as stored, separated by semicolons.
    """
    found: dict[str, str] = {}
    for text in filter(None, (part.strip() for part in paper.split(";"))):
        key, fields = _fields(method, text)
        found.setdefault(key, _entry(key, fields))
    return tuple(found.values())


def escaped(text: str) -> str:
    """Return ``text`` with what BibTeX and LaTeX would act on made literal, on one line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return "".join(_SPECIAL.get(character, character) for character in line)


def _fields(method: str, text: str) -> tuple[str, dict[str, str]]:
    arxiv, url = _ARXIV.search(text), _URL.search(text)
    if arxiv is not None and arxiv.group(1) in _known():
        return _known()[arxiv.group(1)]
    fields: dict[str, str] = {}
    match = _SOURCE.fullmatch(text)
    key = re.sub(r"[^a-z0-9]+", "", method.lower()) or "method"
    if match is not None:
        others = match["others"] or ""
        also = " and others" if "al." in others else f" and {escaped(others.removeprefix(' and '))}" if others else ""
        fields |= {"author": f"{escaped(match['name'])}{also}", "year": match["year"]}
        key = re.sub(r"\W+", "", match["name"].lower()) + match["year"]
    fields["note"] = escaped(text)
    if arxiv is not None:
        fields |= {"eprint": arxiv.group(1), "archiveprefix": "arXiv", "url": _abs(arxiv.group(1))}
    elif url is not None:
        fields["url"] = url.group().translate(str.maketrans("", "", "{}\\"))
    return key, fields


@lru_cache(maxsize=1)
def _known() -> dict[str, tuple[str, dict[str, str]]]:
    """Return key and fields, by arXiv number, of papers whose title and authors are in the repository."""
    sources = [published(paper).source for paper in PAPERS]
    return {
        source.arxiv: (
            source.key,
            {
                "title": f"{{{escaped(source.title)}}}",
                "author": " and ".join(escaped(author) for author in source.authors),
                "year": source.venue.split()[-1],
                "note": escaped(source.venue),
                "eprint": source.arxiv,
                "archiveprefix": "arXiv",
                "url": source.url,
            },
        )
        for source in sources
    }


def _abs(number: str) -> str:
    return f"https://arxiv.org/abs/{number}"


def _entry(key: str, fields: Mapping[str, str]) -> str:
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@misc{{{key},", *lines, "}"])
