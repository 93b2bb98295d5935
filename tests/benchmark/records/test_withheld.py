"""Digests in place of texts: their form, whom they replace, and what is refused."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pytest

from benchmark.errors import FedSafetyError
from benchmark.records.schemas import TABLES
from benchmark.records.withheld import (
    check_no_texts,
    extents_in,
    extents_of,
    find_misplaced,
    is_withheld,
    same_text,
    strictest,
    text_digest,
    withheld,
    withheld_answers,
    without_texts,
)

EXTENTS = {"asked": "hash", "benign": "answers"}


def probes(*ids: str) -> pa.Table:
    rows = [
        {
            "probe_set": "s",
            "probe_id": id_,
            "kind": "harmful",
            "stratum": "s",
            "scored": True,
            "instruction": f"how to {id_}",
            "reference": "" if id_.startswith("asked") else "so",
            "target": "Sure" if id_.startswith("asked") else "",
            "position": None,
            "max_new_tokens": None,
            "publish": None if id_.startswith("free") else EXTENTS[id_.partition("/")[0]],
        }
        for id_ in ids
    ]
    return pa.Table.from_pylist(rows, schema=TABLES["probes"])


def responses(**texts: str) -> pa.Table:
    rows = [
        {
            "response_key": "k",
            "probe_set": "s",
            "generator": "g",
            "probe_id": f"{name}/0",
            "response": text,
            "tokens": 2,
            "finished": True,
            "soft_refusal": None,
        }
        for name, text in texts.items()
    ]
    return pa.Table.from_pylist(rows, schema=TABLES["responses"])


def test_a_digest_has_hash_and_length_and_is_its_own_digest() -> None:
    digest = withheld("Ça va")
    assert digest == f"sha256:{hashlib.sha256('Ça va'.encode()).hexdigest()}:5"
    assert is_withheld(digest)
    assert withheld(digest) == digest
    assert withheld("") == ""
    assert not is_withheld(digest + "0 ")
    assert not is_withheld("sha256:12:5")


def test_texts_are_compared_by_digest_where_one_is_a_digest() -> None:
    assert same_text("a", "a")
    assert same_text("a", withheld("a"))
    assert same_text(withheld("a"), withheld("a"))
    assert not same_text("b", withheld("a"))
    assert not same_text("", withheld("a"))


def test_what_a_suite_publishes_stands_in_its_settings() -> None:
    settings = {"data": {"probes": [{"id": "asked", "publish": "hash"}, {"id": "free"}]}}
    assert extents_of(settings) == {"asked": "hash", "free": "text"}
    assert extents_of({}) == extents_of({"data": None}) == {}


def test_what_is_published_stands_in_the_rows_of_probes() -> None:
    rows = probes("asked/0", "asked/1", "benign/0", "free/0")
    assert extents_in(rows) == {"asked": "hash", "benign": "answers", "free": "text"}


def test_of_two_settings_the_stricter_one_holds() -> None:
    assert strictest({"a": "hash", "b": "text"}, {"a": "text", "b": "answers", "c": "hash"}) == {
        "a": "hash",
        "b": "answers",
        "c": "hash",
    }


def test_digests_replace_the_answers_of_hashed_sets_alone() -> None:
    rows = without_texts("responses", responses(asked="step 1", benign="of course", free="hello"), EXTENTS)
    assert rows.schema.equals(TABLES["responses"])
    assert rows["response"].to_pylist() == [withheld("step 1"), "of course", "hello"]
    check_no_texts("responses", rows, EXTENTS)


def test_digests_replace_prompts_and_references_unless_texts_are_published() -> None:
    rows = without_texts("probes", probes("asked/0", "benign/0", "free/0"), EXTENTS)
    assert rows["instruction"].to_pylist() == [withheld("how to asked/0"), withheld("how to benign/0"), "how to free/0"]
    assert rows["reference"].to_pylist() == ["", withheld("so"), "so"]
    assert rows["target"].to_pylist() == [withheld("Sure"), "", ""]
    check_no_texts("probes", rows, EXTENTS)


def test_a_suite_that_publishes_texts_keeps_its_rows_as_they_are() -> None:
    rows = responses(asked="step 1")
    assert without_texts("responses", rows, {"asked": "text"}) is rows
    assert without_texts("cells", rows, EXTENTS) is rows


def test_a_text_that_is_not_published_is_refused() -> None:
    with pytest.raises(FedSafetyError, match=r"the response of probe 'asked/0' is a text, .*publish: hash"):
        check_no_texts("responses", responses(benign="fine", asked="step 1"), EXTENTS)
    with pytest.raises(FedSafetyError, match=r"the instruction of probe 'benign/0' is a text"):
        check_no_texts("probes", probes("free/0", "benign/0"), EXTENTS)


def test_a_value_in_another_form_than_the_published_one_is_named() -> None:
    published = without_texts("responses", responses(asked="step 1", benign="fine", free=""), EXTENTS)
    assert find_misplaced("responses", published, EXTENTS) == ""
    assert find_misplaced("cells", published, EXTENTS) == ""
    assert find_misplaced("responses", responses(benign="fine", asked="step 1"), EXTENTS) == (
        "the response of probe 'asked/0' is a text, and the suite publishes only the digest (publish: hash)"
    )
    assert find_misplaced("responses", responses(benign=withheld("fine")), EXTENTS) == (
        "the response of probe 'benign/0' is a digest, and the suite publishes the text (publish: answers)"
    )


def test_which_answers_are_digests() -> None:
    rows = responses(asked=withheld("step 1"), benign="fine", free="")
    (key,) = set(rows["response_key"].to_pylist())
    assert withheld_answers(rows) == {(key, "asked/0")}


def test_a_text_and_its_digest_have_one_sha256() -> None:
    sha256 = hashlib.sha256("Sure, é".encode()).hexdigest()
    assert text_digest("Sure, é") == text_digest(withheld("Sure, é")) == sha256
    assert text_digest("") == hashlib.sha256(b"").hexdigest()
