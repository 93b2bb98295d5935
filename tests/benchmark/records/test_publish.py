"""Publishing adds measurements and keeps one catalog a suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmark import PROTOCOL_VERSION
from benchmark.errors import FedSafetyError, UsageError
from benchmark.records.identity import probe_set_key
from benchmark.records.publish import other_protocols, publish
from benchmark.records.store import Store
from benchmark.records.tuned import committed_file, record_tuned, tuned_of
from benchmark.records.withheld import withheld

from ...leaderboard.synthetic import catalog_row, cell_row
from ...leaderboard.views.test_tuned import search


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def catalog(results: Path) -> dict[str, str]:
    assert len(list((results / "micro" / "catalog").glob("*"))) == 1
    return {row["id"]: row["title"] for row in Store(results / "micro").read_all("catalog").to_pylist()}


def add_cell(store: Store, seed: int, **changes: str) -> None:
    row = cell_row(seed=seed, origin="local", **changes)
    store.write("cells", row["cell_key"], [row])


def add_catalog(store: Store, key: str, titles: dict[str, str], suite: str = "micro", time: int = 0) -> None:
    rows = [catalog_row("suite", suite), *(catalog_row("defense", id_, title=title) for id_, title in titles.items())]
    store.write("catalog", key, rows)
    os.utime(store.root / "catalog" / f"{key}.parquet", ns=(time, time))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results into which a first run was published."""
    store = Store(tmp_path / "first")
    add_cell(store, seed=0)
    add_catalog(store, "first", {"krum": "Krum", "retired": "Retired rule"})
    assert publish(store, tmp_path / "results", "micro")["catalog"] == 3
    return tmp_path / "results"


def test_new_descriptions_win_and_those_that_the_new_catalog_lacks_stay(tmp_path: Path, results: Path) -> None:
    before = files(results)
    store = Store(tmp_path / "second")
    add_cell(store, seed=1)
    add_catalog(store, "second", {"krum": "Krum, reworded", "dnc": "DnC"})
    added = publish(store, results, "micro")
    assert {table: count for table, count in added.items() if count} == {"cells": 1, "catalog": 2}
    assert catalog(results) == {
        "micro": "Micro",
        "krum": "Krum, reworded",
        "retired": "Retired rule",
        "dnc": "DnC",
    }
    after = files(results)
    assert {name for name in before if after.get(name) != before[name]} == {n for n in before if "/catalog/" in n}


def test_a_catalog_that_says_nothing_new_stays_the_same_file(tmp_path: Path, results: Path) -> None:
    before = files(results)
    store = Store(tmp_path / "second")
    add_cell(store, seed=1)
    add_catalog(store, "other", {"krum": "Krum"})
    assert publish(store, results, "micro")["catalog"] == 0
    assert before.items() <= files(results).items()


def test_several_former_catalogs_become_one(tmp_path: Path, results: Path) -> None:
    Store(results / "micro").write("catalog", "stray", [catalog_row("defense", "median", title="Median")])
    store = Store(tmp_path / "second")
    add_cell(store, seed=1)
    add_catalog(store, "same", {"krum": "Krum", "retired": "Retired rule"})
    publish(store, results, "micro")
    assert catalog(results)["median"] == "Median"


def test_the_widest_catalog_of_the_suite_counts_and_of_equals_the_newest(tmp_path: Path, results: Path) -> None:
    store = Store(tmp_path / "second")
    add_cell(store, seed=1)
    add_catalog(store, "a", {"krum": "newest of the wide", "dnc": "DnC"}, time=2)
    add_catalog(store, "b", {"krum": "older of the wide", "dnc": "DnC"}, time=1)
    add_catalog(store, "c", {"krum": "narrow"}, time=3)
    add_catalog(store, "d", {"krum": "foreign", "dnc": "foreign", "x": "foreign"}, suite="other", time=4)
    publish(store, results, "micro")
    assert catalog(results) == {
        "micro": "Micro",
        "krum": "newest of the wide",
        "dnc": "DnC",
        "retired": "Retired rule",
    }


def test_a_refused_publishing_leaves_the_catalog_as_it_was(tmp_path: Path, results: Path) -> None:
    before = files(results)
    store = Store(tmp_path / "second")
    add_cell(store, seed=0)
    add_catalog(store, "second", {"krum": "Krum, reworded"})
    with pytest.raises(UsageError, match="already has each finished cell"):
        publish(store, results, "micro")
    assert files(results) == before


def test_cells_of_another_protocol_stay_behind_and_are_counted(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    add_cell(store, seed=0, protocol_version="0")
    add_cell(store, seed=1)
    assert publish(store, tmp_path / "results", "micro")["cells"] == 1
    (cell,) = Store(tmp_path / "results" / "micro").read_all("cells").to_pylist()
    assert (cell["seed"], cell["protocol_version"]) == (1, PROTOCOL_VERSION)
    assert other_protocols(store, "micro") == (
        f"1 finished cells of protocol 0 stay in {store.root}: this release publishes protocol {PROTOCOL_VERSION}"
    )


def test_a_folder_of_another_protocol_alone_is_not_published(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    add_cell(store, seed=0, protocol_version="0")
    rule = f"are of protocol 0, and this release publishes protocol {PROTOCOL_VERSION}; run the suite again, or publish"
    with pytest.raises(UsageError, match=rule):
        publish(store, tmp_path / "results", "micro")
    assert not (tmp_path / "results").exists()


def _answer(key: str, probe: str, text: str) -> dict[str, object]:
    row = {"response_key": key, "generator": cell_row()["generator"], "probe_id": probe, "response": text}
    return row | {"tokens": 3, "finished": True, "soft_refusal": None}


def _probe(id_: str, kind: str, publish: str) -> dict[str, object]:
    row = {"probe_id": id_, "kind": kind, "stratum": kind, "scored": True, "max_new_tokens": 3, "target": "Sure, mix"}
    return row | {"instruction": f"prompt {id_}", "reference": "", "publish": publish}


def _write_probes(store: Store, publish: tuple[str, str]) -> str:
    """Write two probes with what is published of each, and return the digest of their set."""
    rows = [_probe("bad/0", "harmful", publish[0]), _probe("safe/0", "over_refusal", publish[1])]
    order = ("probe_id", "kind", "stratum", "scored", "instruction", "max_new_tokens", "target", "reference", "publish")
    key = probe_set_key([[row[column] for column in order] for row in rows])
    store.write("probes", key, [row | {"probe_set": key, "position": place} for place, row in enumerate(rows)])
    return key


def _hashing_run(root: Path, settings: str, publish: tuple[str, str] = ("hash", "answers")) -> Store:
    """Return a run of a suite with one harmful and one harmless set of probes."""
    store = Store(root)
    probe_set = _write_probes(store, publish)
    row = cell_row(origin="local", probe_set=probe_set)
    key = row["response_key"]
    store.write("cells", row["cell_key"], [row])
    texts = {"bad/0": "step 1: mix", "safe/0": "of course"}
    store.write(
        "responses", key, [_answer(key, probe, text) | {"probe_set": probe_set} for probe, text in texts.items()]
    )
    measured = {"response_key": key, "probe_id": "bad/0", "tokens": 2, "nats": -3.5, "index": 0}
    store.write("likelihoods", key, [measured | {"role": role} for role in ("refusal", "target")])
    store.write("catalog", "c", [catalog_row("suite", "micro", settings=settings)])
    return store


HASHING = '{"data": {"probes": [{"id": "bad", "publish": "hash"}, {"id": "safe", "publish": "answers"}]}}'


def test_answers_to_hashed_probes_are_published_as_digests(tmp_path: Path) -> None:
    store = _hashing_run(tmp_path / "runs", HASHING)
    added = publish(store, tmp_path / "results", "micro")
    assert (added["responses"], added["likelihoods"], added["probes"]) == (2, 2, 2)
    published = Store(tmp_path / "results" / "micro")
    assert published.read_all("responses")["response"].to_pylist() == [withheld("step 1: mix"), "of course"]
    instructions = published.read_all("probes")["instruction"].to_pylist()
    assert instructions == [withheld("prompt bad/0"), withheld("prompt safe/0")]
    assert published.read_all("probes")["target"].to_pylist() == [withheld("Sure, mix")] * 2
    assert published.read_all("likelihoods")["nats"].to_pylist() == [-3.5, -3.5]
    assert not any(b"step 1" in content for content in files(tmp_path / "results").values())
    key = next(iter(store.keys("responses")))  # the run keeps its texts
    assert store.read("responses", key)["response"].to_pylist() == ["step 1: mix", "of course"]


def test_the_rows_decide_and_the_suite_may_not_publish_less_than_they_state(tmp_path: Path) -> None:
    store = _hashing_run(tmp_path / "runs", "")  # a run without the suite's settings
    publish(store, tmp_path / "results", "micro")
    texts = Store(tmp_path / "results" / "micro").read_all("responses")["response"].to_pylist()
    assert texts == [withheld("step 1: mix"), "of course"]
    older = _hashing_run(tmp_path / "older", "", publish=("text", "text"))
    message = "published the probes 'bad' as text, and it publishes them as hash now; run the suite again"
    with pytest.raises(UsageError, match=message):
        publish(older, tmp_path / "later", "micro", {"bad": "hash"})
    Store(tmp_path / "later" / "micro").write("catalog", "c", [catalog_row("suite", "micro", settings=HASHING)])
    with pytest.raises(UsageError, match=message):
        publish(older, tmp_path / "later", "micro")
    assert publish(older, tmp_path / "open", "micro")["responses"] == 2


def test_a_text_that_slips_through_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _hashing_run(tmp_path / "runs", HASHING)
    monkeypatch.setattr("benchmark.records.publish.without_texts", lambda table, rows, extents: rows)
    with pytest.raises(FedSafetyError, match="the response of probe 'bad/0' is a text"):
        publish(store, tmp_path / "results", "micro")
    assert not (tmp_path / "results").exists()


def test_results_of_searches_are_published_with_and_without_new_cells(tmp_path: Path, results: Path) -> None:
    store = Store(tmp_path / "second")
    add_cell(store, seed=0)
    add_catalog(store, "second", {"krum": "Krum"})
    record_tuned(store.root, "micro", search("krum", lower=False))
    added = publish(store, results, "micro")
    assert (added["tuned attacks"], added["cells"]) == (1, 0)
    assert list(tuned_of(committed_file(results, "micro"), "micro")) == [("aligned_start", "krum")]
    with pytest.raises(UsageError, match="already has each finished cell"):
        publish(store, results, "micro")
    record_tuned(store.root, "micro", search("krum"))
    assert publish(store, results, "micro")["tuned attacks"] == 1
    assert tuned_of(committed_file(results, "micro"), "micro")["aligned_start", "krum"].lower
