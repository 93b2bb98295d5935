"""Words of a submission about itself: no claims of rank or verification, and no title of another method.

The benchmark alone gives ranks and rungs. On the page, a title that contains one would pass for the benchmark's word.
"""

from __future__ import annotations

import re
import unicodedata

from benchmark.errors import FedSafetyError
from benchmark.methods.kinds import KINDS
from benchmark.registry import Info

_LOOK_ALIKES = str.maketrans(
    "\u0430\u0432\u0435\u0437\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0456\u0458\u0455\u04cf"
    "\u0475\u0501\u051b\u051d\u04bb\u03b1\u03b2\u03b5\u03b7\u03b9\u03ba\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7",
    "abeekmhopctyxijslvdqwhabenikvoptux",
)
"""Cyrillic and Greek letters that look like Latin ones."""
_VARIANT = re.compile(r"LATIN [A-Z ]*?LETTER (?:[A-Z]+ )*([A-Z])(?: WITH .*)?")
"""Unicode names of variants of a Latin letter, for example LATIN LETTER SMALL CAPITAL V."""
_DIGITS = str.maketrans("013457|@$", "oieastlas")
"""Digits and signs that stand for letters, as in ``ver1fied``."""

_MATHEMATICS = (
    r"(?:matri|vector|tensor|update|approximat|factor|adapter|projection|component|correction|perturbation|"
    r"decomposition|subspace|lora|term|modif)"
)
"""Beginnings of words after *rank 1* that make it the rank of a matrix."""
_PRAISED = r"(?:defen[cs]es?|attacks?|methods?|aggregators?|submissions?|benchmark|board)"
_BETWEEN = (
    r"(?:(?:of|all|known|published|existing|available|overall|robust|safe|ranked|the|this|in|on|every|any)[\s-]+)"
)
_RANK = r"(?<!of )(?<!low )(?<!low-)\brank(?:s|ed|ing)?"
_PLACE = r"(?:\d+(?:st|nd|rd)?|i|one|two|three|first|second|third|top|best)"
_BOARD = r"(?:benchmark|board|project|maintainers?|organi[sz]ers?)\b"
_TABLE = r"(?:table|board|ranking|rankings|benchmark)"
_SCORE = r"(?:safety|utility|over[\s-]?refusal|scores?|results?)"
_CLAIMS = (
    (r"\b(?:un|re|pre)?verif(?:ied|yed|iably)\b", "verified"),
    (r"\bpass(?:es|ed|ing)?[\s-]+(?:\w+[\s-]+){0,2}verification\b", "verified"),
    (r"\bverification[\s-]+(?:(?:is|was|has)[\s-]+)?(?:pass|succe|complet)", "verified"),
    (r"\b(?:un|re)?reproduc(?:ed|ible|ibly)\b", "reproduced"),
    (r"\b(?:leader\s?boards?|scoreboards?)\b", "leaderboard"),
    (r"\b(?:certified|endorsed|approved|audited|accredited) by\b", "certified by"),
    (rf"\b(?:confirmed|validated|checked|tested|reviewed|accepted) by (?:the |our |this )?{_BOARD}", "confirmed by"),
    (r"\b(?:official|officially)\b", "official"),
    (r"\bstate[\s-]of[\s-]the[\s-]art\b|\bsota\b", "state of the art"),
    (r"\b(?:unbeaten|unbeatable|unrivalled|winner|winning|champion)\b", "winner"),
    (
        rf"{_RANK}[\s:#.-]*(?:no\.?|nr\.?|number)?[\s#.-]*{_PLACE}\b(?!-?th\b)(?![\s-]+{_MATHEMATICS})",
        "rank",
    ),
    (r"\b(?:top|first|second|third|best|highest|1st|2nd|3rd)[\s-]+(?:rank(?:ed|ing|s)?|place|position)\b", "rank"),
    (r"(?:#|\bno\.?|\bnr\.?|\bnumber)[\s-]*(?:1|one)\b", "number one"),
    (rf"\b(?:tops?|leads?|heads?)[\s-]+(?:the|this|every)[\s-]+{_TABLE}\b", "top"),
    (r"\b(?:beats?|outperforms?|surpass(?:es)?)[\s-]+(?:all|any|each|every)\b", "best"),
    (rf"\b(?:best|highest|lowest|top)[\s-]+{_SCORE}\b[^.;]{{0,30}}\b{_TABLE}\b", "best"),
    (rf"\b(?:best|top|leading|strongest|safest)[\s-]+{_BETWEEN}{{0,3}}{_PRAISED}\b", "best"),
)
_TRUSTED = (
    r"(?:anchors?|client|clients|cluster|clusters|data|dataset|datasets|direction|directions|examples?|execution|"
    r"gradients?|hardware|models?|neighbou?rs?|nodes?|pairs?|part(?:y|ies)|platform|public|reference|references|root|"
    r"samples?|seed|servers?|sets?|shards?|source|sources|subset|third|updates?|validation|workers?)"
)
"""Nouns after *trusted* of which a server holds trusted ones."""
_TITLE_CLAIMS = (
    (
        r"\b(?:gold|golden|silver|bronze|platinum)[\s-]+(?:awards?|badge|cup|medals?|place|prize|seal|standard|stars?)\b",
        "medal",
    ),
    (r"\b(?:award(?:s|ed)?|medal(?:s|l?ists?)?|prizes?|troph(?:y|ies))\b", "medal"),
    (rf"\btrust(?:ed|worthy)\b(?![\s-]+{_TRUSTED}\b)", "trusted"),
    (r"\b(?:accredited|endorsed|guaranteed|peer[\s-]reviewed|proven|recommended|vetted)\b", "endorsed"),
    (r"(?<!hypothesis )(?<!hypothesis-)(?<!t-)\btested\b", "tested"),
    (r"(?<!low )(?<!low-)\brank(?:ed|s|ing)\b", "ranked"),
    (r"\b(?:claimed|checked|sampled|best|top|safest|strongest)\b", "best"),
    (rf"\b(?:place|platz|puesto|posto|plats|lugar)[\s:#.-]*{_PLACE}\b", "place"),
    (rf"\b{_SCORE}[\s:=-]*\d|\d\s*%?\s*(?:safe|{_SCORE})\b", "score"),
)
"""Words that have another meaning in a description, for example sampled clients or ranked distances."""
_STEMS = ("verif", "reproduc", "confirm", "validat", "approv")
"""Beginnings of words of a check. A description may use them for a step of the method, as in *validates updates*."""
_FOREIGN_STEMS = (
    # German, French, Spanish, Portuguese, Italian, Dutch, Swedish, Polish, Turkish
    *("geprüft", "geprueft", "überprüft", "ueberprueft", "reproduz", "bestätigt", "bestaetigt", "beglaubigt"),
    *("prüfsiegel", "gütesiegel", "testsieger", "offiziell", "approuv", "vainqueur", "meilleur", "officiel"),
    *("comprobad", "aprobad", "garantizad", "ganador", "oficial", "aprovad", "vencedor", "approvat", "collaudat"),
    *("ufficiale", "vincitor", "migliore", "goedgekeurd", "gecontroleerd", "officieel", "winnaar", "bekräft"),
    *("godkänd", "sprawdzon", "zatwierdzon", "zweryfikowan", "oficjaln", "doğrulan", "onaylan"),
    # Russian, Greek, Arabic, Hindi, Chinese, Japanese, Korean
    *("провере", "подтвержд", "одобрен", "официальн", "победител", "лучши", "επαληθευ", "επιβεβαι", "εγκεκριμ"),
    *("موثق", "معتمد", "مؤكد", "सत्यापित", "प्रमाणित", "验证", "驗證", "検証", "确认", "確認"),
    *("官方", "第一名", "冠军", "冠軍", "最佳", "最優秀", "검증", "우승"),
)
"""Beginnings of such words, and of *official*, *best* and *winner*, in other languages. A title is read by all."""
_BOARD_WORDS = (
    "degenerate",
    "fails a gate",
    "gate",
    "none",
    "not ranked",
    "not reproduced",
    "ref",
    "reference",
    "same",
)
"""Words that the board shows in the place of a rank."""


_PASSING = ("file ", "bundle ")
"""Beginnings of the origins of methods that are neither built in nor installed."""


def claim_in(info: Info) -> str:
    """Return what a method's metadata claim that only the benchmark may say, for example ``title: 'Verified Krum'``.

    Returns:
        Field, value and word; empty if there is no claim.
    """
    for name, value in (("id", info.id), *_texts(info)):
        patterns = (*_CLAIMS, *_TITLE_CLAIMS) if name in ("id", "title") else _CLAIMS
        plain = _plain(value)
        # Letters apart and digits for letters are read as the word that they show.
        joined = re.sub(r"\b(\w)[\s._*-]+(?=\w\b)", r"\1", plain)
        whole = re.sub(r"(?<=\w)-(?=\w)", "", plain)
        forms = [form for text in (plain, joined, whole) for form in (text, text.translate(_DIGITS))]
        for pattern, word in patterns:
            if any(re.search(pattern, form) for form in forms):
                return _claim(name, value, word)
        shapes = [_shape(form) for form in forms] if name in ("id", "title") else []
        for stem in (*_STEMS, *_FOREIGN_STEMS):
            if any(_shape(_plain(stem)) in shape for shape in shapes):
                return _claim(name, value, f"{stem}…")
    return ""


def _claim(name: str, value: str, word: str) -> str:
    return f"{name} {value[:80] + '…' if len(value) > 80 else value!r} has the word {word!r}"


def holder_of_title(title: str, kind: str, method: str) -> str:
    """Return the built-in or installed method, as ``defense 'krum' ('Krum')``, whose title another method's looks like.

    The holder of a word that stands in the place of a rank, for example *none*, is ``the board ('none')``.

    Args:
        title: The title; case, blanks, punctuation and letters that look alike make no difference. The form in which
            the page tells equal titles apart, ``Krum (krum)``, is taken, too.
        kind: Kind of the method that has it.
        method: Id of the method that has it.

    Returns:
        Empty if the title is free.
    """
    wanted = title_key(title)
    for word in _BOARD_WORDS:
        if title_key(word) == wanted:
            return f"the board ({word!r})"
    for each in KINDS.values():
        for name in each.registry.names():
            origin = each.registry.holder(name)[1]
            if (each.name, name) == (kind, method) or origin.startswith(_PASSING):
                continue
            try:
                other = each.registry.get(name).info.title
            except FedSafetyError:  # an installed method that cannot be imported
                continue
            if wanted in (title_key(form) for form in (other, f"{other} ({name})", f"{other} ({method})")):
                return f"{each.name} {name!r} ({other!r})"
    return ""


def title_key(title: str) -> str:
    """Return what two titles that look alike have in common."""
    return _shape("".join(character for character in _plain(title).translate(_DIGITS) if character.isalnum()))


def _shape(text: str) -> str:
    """Return ``text`` with a single spelling of letters that look alike side by side."""
    return text.replace("rn", "m").replace("vv", "w").replace("i", "l")


def _texts(info: Info) -> list[tuple[str, str]]:
    values = ((name, getattr(info, name)) for name in type(info).model_fields)
    return [(name, value) for name, value in values if type(value) is str and name not in ("id", "variant_of")]


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold().replace("_", " ").translate(_LOOK_ALIKES)
    return "".join(_letter(c) for c in unicodedata.normalize("NFKD", folded) if not unicodedata.combining(c))


def _letter(character: str) -> str:
    """Return the plain letter of a variant, for example v of a small capital V; any other character as it is."""
    variant = None if character.isascii() else _VARIANT.fullmatch(unicodedata.name(character, ""))
    return variant[1].casefold() if variant else character
