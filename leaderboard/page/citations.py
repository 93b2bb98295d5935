"""Every citation of a board, packed for the page's script: what repeats between sentences is stored once.

The script joins pieces and forms no sentence of its own, so that the page and ``fedsafety cite`` print the same.
"""

from __future__ import annotations

import re
from typing import Any

from leaderboard.citation.cite import Citation, cite_score, is_own
from leaderboard.ranking.board import Board
from leaderboard.rows.rows import Rows
from leaderboard.scores.summaries import OVERALL

_CUT = re.compile(r"(?<=; )|(?<=\), )|(?<= \()|(?<=\. )|(?=, \d+ seeds?\b)|(?= --)|(?<=\n\n)")


def citations(board: Board, rows: Rows) -> dict[str, Any]:
    """Return the citations of a board's published defenses, overall and in each attacked scenario.

    Returns:
        ``pieces``: texts; ``of``: by view and defense id (empty: the suite, overall alone) the positions of the pieces
        of sentence, BibTeX and command. Defenses of which only this machine has rows are left out, because no reader
        could check their scores.
    """
    pieces: dict[str, int] = {}

    def packed(citation: Citation) -> list[list[int]]:
        texts = (citation.sentence, citation.bibtex, citation.command)
        return [[pieces.setdefault(piece, len(pieces)) for piece in _CUT.split(text)] for text in texts]

    published = [entry.id for entry in board.entries if not is_own(board, entry)]
    of = {
        view: {id_: packed(cite_score(board, rows, id_, "" if view == OVERALL else view)) for id_ in names}
        for view, names in (
            (view, ["", *published] if view == OVERALL else published) for view in (OVERALL, *board.by_scenario)
        )
        if published
    }
    return {"pieces": list(pieces), "of": of}
