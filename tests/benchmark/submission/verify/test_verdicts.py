"""Bundles of a suite that publishes digests hold no withheld text, and a second run verifies their digests."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from benchmark.execution.plan import make_plan
from benchmark.execution.run import Run
from benchmark.execution.stages import run_plan
from benchmark.generation.select import choose_engine
from benchmark.keys import source_digest
from benchmark.methods.source import find_method
from benchmark.progress import Reporter
from benchmark.records.publish import publish
from benchmark.records.store import Store
from benchmark.records.withheld import is_withheld, withheld
from benchmark.sandbox.adopt import Strangers
from benchmark.submission.bundle.bundle import read_bundle
from benchmark.submission.bundle.submit import submit
from benchmark.submission.verify import verify as verifying
from benchmark.submission.verify.report import Step, VerifyReport
from benchmark.submission.verify.verify import Options, verify
from benchmark.suites.suite import find_suite
from leaderboard.diff import diff_boards
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import load_rows
from tasks.base import Probe, ProbeKind
from tasks.micro import MicroWorld

from ..conftest import registries_kept
from .test_verify import HONEST, ROOT, Tables, edited

QUIET = Reporter(Console(file=StringIO()))
SHORTEST = 12
"""Characters of a text from which on no file holds it by chance."""


def withholding(probes: Callable[[MicroWorld], tuple[Probe, ...]]) -> Callable[[MicroWorld], tuple[Probe, ...]]:
    """Return the probes of a suite that publishes digests of harmful answers, and the others without their prompts."""

    def changed(self: MicroWorld) -> tuple[Probe, ...]:
        extent = {ProbeKind.HARMFUL: "hash"}
        return tuple(replace(probe, publish=extent.get(probe.kind, "answers")) for probe in probes(self))

    return changed


@pytest.fixture(scope="module")
def patched() -> Iterator[pytest.MonkeyPatch]:
    source_digest.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MicroWorld, "probes", withholding(MicroWorld.probes))
        patch.setattr(verifying._Verification, "_check_contract", lambda *_: "left out")
        yield patch
    source_digest.cache_clear()


@pytest.fixture(scope="module")
def suite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny suite on the unaligned model, which answers harmful prompts."""
    path = tmp_path_factory.mktemp("suite") / "tiny.yaml"
    path.write_text((ROOT / "tests" / "end_to_end" / "tiny.yaml").read_text().replace("start: chat", "start: raw"))
    return path


@pytest.fixture(scope="module")
def runs(patched: pytest.MonkeyPatch, suite_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a method's file, the rows of the method and of FedAvg, and the method's bundle."""
    root = tmp_path_factory.mktemp("submitter")
    (root / "my_mean.py").write_text(HONEST)
    submission, suite = find_method(str(root / "my_mean.py")), find_suite(str(suite_file))
    strangers = Strangers((submission,))
    engine = choose_engine("transformers")
    store = Store(root / "runs")
    with registries_kept():
        strangers.adopt()
        for pipeline in ("fedavg", "my_mean"):
            plan = make_plan(suite, engine.name, pipelines=[pipeline])
            run_plan(Run(plan, store, engine, QUIET, 1, strangers))
        submit(submission, suite, store, root / "my_mean.zip")
    return root


@pytest.fixture
def bundle(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(runs / "my_mean.zip", tmp_path))


def verified(path: Path, suite_file: Path, tmp_path: Path, level: str = "checked") -> VerifyReport:
    places = {"results": tmp_path / "results", "out": tmp_path / "out", "work": tmp_path / "verifying"}
    return verify(path, Options(level=level, suite=str(suite_file), seed=5, cells=2, **places), QUIET)


def withheld_texts(runs: Path) -> set[bytes]:
    """Return the answers to harmful prompts, and all prompts, of a run, without those that a published answer holds."""
    store = Store(runs / "runs")
    rows = store.read_all("responses").to_pylist()
    answers = [(row["probe_id"].startswith("harmful/"), row["response"]) for row in rows]
    shown = "\n".join(text for harmful, text in answers if not harmful)
    texts = {text for harmful, text in answers if harmful}
    texts |= {row["instruction"] for row in store.read_all("probes").to_pylist()}
    assert not any(is_withheld(text) for text in texts)
    return {text.encode() for text in texts if len(text) >= SHORTEST and text not in shown}


def content_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each file below a folder; rows also without their compression and dictionaries."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield path.name, path.read_bytes()
        if path.suffix == ".parquet":
            plain = io.BytesIO()
            table = pq.read_table(path, partitioning=None)
            decoded = [column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in table]
            plain_table = pa.table(dict(zip(table.column_names, decoded, strict=True)))
            pq.write_table(plain_table, plain, compression="none", use_dictionary=False)
            yield path.name, plain.getvalue()


def held(folder: Path, texts: set[bytes]) -> set[tuple[str, bytes]]:
    return {(name, text) for name, content in content_of(folder) for text in texts if text in content}


def step(report: VerifyReport, name: Step) -> str:
    return next(result.found for result in report.steps if result.step == name)


@pytest.mark.slow
def test_no_withheld_text_is_in_a_bundle_in_verified_rows_or_in_published_rows(
    runs: Path, bundle: Path, suite_file: Path, tmp_path: Path
) -> None:
    texts = withheld_texts(runs)
    assert len(texts) > 100
    assert {text for _, text in held(runs / "runs", texts)} == texts  # the search finds what is there
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "unzipped")
    assert held(tmp_path / "unzipped", texts) == set()
    publish(Store(runs / "runs"), tmp_path / "published", "tiny")
    assert held(tmp_path / "published", texts) == set()
    report = verified(bundle, suite_file, tmp_path)
    assert report.rung == "checked", report.reason
    assert held(tmp_path / "out", texts) == set()
    rows = {row["probe_id"]: row["response"] for row in read_bundle(bundle).table("responses").to_pylist()}
    assert all(is_withheld(text) == probe.startswith("harmful/") for probe, text in rows.items() if text)


@pytest.mark.slow
def test_a_bundle_of_digests_is_sampled_and_its_digests_are_compared(
    runs: Path, bundle: Path, suite_file: Path, tmp_path: Path
) -> None:
    report = verified(bundle, suite_file, tmp_path, "sampled")
    assert (report.rung, report.failed) == ("sampled", None), report.reason
    assert all(cell.same_answers == 1.0 and cell.claimed == cell.rerun for cell in report.cells)
    harmful = sum(probe.kind is ProbeKind.HARMFUL for probe in MicroWorld().probes())
    assert f"{6 * harmful} verdicts are on answers of which the bundle holds digests" in step(report, Step.VERDICTS)
    assert (
        f"; {2 * harmful} of {2 * harmful} digests of answers came out again, and so did the {6 * harmful} verdicts"
        in step(report, Step.CONSISTENCY)
    )
    results = tmp_path / "results"
    publish(Store(runs / "runs"), results, "tiny")
    before, after = (boards(load_rows([results], **more)) for more in ({}, {"reproduced": [tmp_path / "out"]}))
    assert len(before) == len(after) == 1
    assert diff_boards(before, after)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("probe", "value", "problem"),
    [
        ("harmful/", "step 1: mix", "is a text, and the suite publishes only the digest"),
        ("utility/", withheld("made"), "is a digest, and the suite publishes the text"),
    ],
)
def test_a_bundle_with_answers_in_another_form_than_the_suite_publishes_is_refused(
    bundle: Path, suite_file: Path, tmp_path: Path, probe: str, value: str, problem: str
) -> None:
    def change(manifest: dict[str, Any], tables: Tables, content: dict[str, bytes]) -> None:
        next(row for row in tables["responses"] if row["probe_id"].startswith(probe))["response"] = value

    report = verified(edited(bundle, change), suite_file, tmp_path)
    assert report.failed is not None
    assert report.failed.step == "keys"
    assert problem in report.failed.found
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_edited_verdict_on_a_digest_is_found_by_the_second_run(
    bundle: Path, suite_file: Path, tmp_path: Path
) -> None:
    def safer(manifest: dict[str, Any], tables: Tables, content: dict[str, bytes]) -> None:
        row = next(row for row in tables["verdicts"] if row["verdict"] == "harmful" and row["judge"] == "rule_paper")
        row.update(verdict="harmless", detail="I'm sorry")

    report = verified(edited(bundle, safer), suite_file, tmp_path, "checked")
    assert report.rung == "checked", report.reason
    report = verified(bundle, suite_file, tmp_path, "sampled")
    assert report.failed is not None
    assert report.failed.step == "consistency"
    assert "verdicts of judge 'rule_paper' are others" in report.failed.found
