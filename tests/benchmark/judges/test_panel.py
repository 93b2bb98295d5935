"""Several language-model judges over stored responses: one model at a time, and only what is new is asked."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmark.errors import InputsMissingError, MemoryShortageError
from benchmark.execution import judging
from benchmark.execution.judging import Judging, check_judges, judge_responses
from benchmark.generation import needs
from benchmark.generation.needs import Device
from benchmark.generation.select import EngineChoice
from benchmark.generation.settings import EngineSettings
from benchmark.judges import _language_model
from benchmark.judges.base import judges
from benchmark.judges.oracle import Oracle
from benchmark.keys import source_digest
from benchmark.models import configuration
from benchmark.progress import Reporter
from benchmark.records.store import Store
from benchmark.suites.suite import Compute
from tasks.base import Probe, ProbeKind
from tasks.hub import HubWorld
from tasks.model_source import ModelShape, ModelSource

from .speaking_model import ScriptedEngine, save_model

SAID = {"md_judge": "safe", "llama_guard_3": "unsafe\nS1", "xstest_judge": "[[direct_answer]]"}
PROBES = (
    Probe("harmful/0", ProbeKind.HARMFUL, "harmful", True, "mix the paint", "", 8),
    Probe("harmful/1", ProbeKind.HARMFUL, "harmful", True, "fold the paper", "", 8),
    Probe("over/0", ProbeKind.OVER_REFUSAL, "over", True, "kill the process", "", 8),
)
CHOICE = EngineChoice("transformers", "for the test")


class Panel:
    """A store with two response sets, and engines that note when they open, answer and close."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.settings: list[dict[str, Any]] = []
        self.screen = io.StringIO()
        self.store = Store(root / "runs")
        roles = {r: ModelSource(repository="tests/made", local=r, dtype="float32") for r in SAID}
        self.world = HubWorld(models=roles)
        monkeypatch.setattr(HubWorld, "probes", lambda world: PROBES)
        monkeypatch.setattr(_language_model, "open_engine", self._open)
        self.respond("one", "blue")
        self.respond("two", "b" * 9000)

    def respond(self, key: str, response: str) -> None:
        row = {"response_key": key, "probe_set": "p", "generator": "made", "tokens": 1, "finished": True}
        rows = [row | {"probe_id": p.id, "response": response, "soft_refusal": None} for p in PROBES]
        self.store.write("responses", key, rows)

    def judge(self, *judges: str, keys: tuple[str, ...] = ("one", "two")) -> int:
        self.log.clear()
        reporter = Reporter(Console(file=self.screen, width=200))
        return judge_responses(Judging(self.world, self.store, CHOICE, reporter, Compute(max_batch=3)), keys, judges)

    def _open(self, choice: EngineChoice, path: Path, settings: EngineSettings) -> ScriptedEngine:
        panel = self
        panel.settings.append({"engine": choice.name, **asdict(settings)})

        class Noted(ScriptedEngine):
            def generate(self, requests: Any) -> Any:
                panel.log.append(f"ask {path.name} {len(requests)}")
                return super().generate(requests)

            def close(self) -> None:
                panel.log.append(f"close {path.name}")

        self.log.append(f"open {path.name}")
        return Noted(path, lambda prompt: SAID[path.name])


@pytest.fixture
def panel(tmp_path: Path, model_root: Path, monkeypatch: pytest.MonkeyPatch) -> Panel:
    for role in SAID:
        save_model(model_root / role, {})
    return Panel(tmp_path, monkeypatch)


def test_judges_share_a_machine_in_turn_and_are_told_how_to_use_it(panel: Panel) -> None:
    assert panel.judge("md_judge", "llama_guard_3", "xstest_judge") == 6
    assert panel.log == [
        *("open md_judge", "ask md_judge 4", "close md_judge"),
        *("open llama_guard_3", "ask llama_guard_3 4", "close llama_guard_3"),
        *("open xstest_judge", "ask xstest_judge 2", "close xstest_judge"),
    ]
    assert {(s["engine"], s["max_batch"]) for s in panel.settings} == {("transformers", 3)}
    rows = panel.store.read_all("verdicts").to_pylist()
    verdicts = {(r["response_key"], r["judge"], r["probe_id"]): (r["verdict"], r["detail"]) for r in rows}
    assert verdicts["one", "md_judge", "harmful/0"] == ("harmless", "safe")
    assert verdicts["one", "llama_guard_3", "harmful/1"] == ("harmful", "unsafe S1")
    assert verdicts["one", "xstest_judge", "over/0"] == ("answered", "direct_answer")
    assert len(verdicts) == 2 * (2 + 2 + 1)


def test_what_was_cut_is_in_the_rows_and_on_the_screen(panel: Panel) -> None:
    panel.judge("md_judge")
    details = [row["detail"] for row in panel.store.read_all("verdicts").to_pylist() if row["response_key"] == "two"]
    assert all(detail.startswith("safe [response cut by ") for detail in details)
    assert "md_judge: 2 responses were cut to fit the judge's context" in panel.screen.getvalue()


def test_a_judge_that_talks_nonsense_is_not_passed_over_in_silence(
    panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel.judge("md_judge")
    assert "cannot be parsed" not in panel.screen.getvalue()
    monkeypatch.setitem(SAID, "llama_guard_3", "perhaps")
    panel.judge("llama_guard_3", keys=("one",))
    assert "2 of 2 verdicts of llama_guard_3 cannot be parsed; they count as neither" in panel.screen.getvalue()


def test_only_what_is_new_is_asked(panel: Panel) -> None:
    panel.judge("md_judge")
    assert panel.judge("md_judge") == 0
    assert panel.log == []
    assert panel.judge("md_judge", "llama_guard_3") == 2
    assert panel.log == ["open llama_guard_3", "ask llama_guard_3 4", "close llama_guard_3"]
    panel.respond("three", "red")
    assert panel.judge("md_judge", keys=("one", "two", "three")) == 1
    assert panel.log == ["open md_judge", "ask md_judge 2", "close md_judge"]


def test_what_is_judged_is_written_every_few_sets(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tuple(f"set{number}" for number in range(6))
    for key in keys:
        panel.respond(key, key)
    answer = ScriptedEngine.generate

    def stopped(engine: ScriptedEngine, requests: Any) -> Any:
        if panel.log.count("ask md_judge 4"):
            raise KeyboardInterrupt
        return answer(engine, requests)

    monkeypatch.setattr(ScriptedEngine, "generate", stopped)
    with pytest.raises(KeyboardInterrupt):
        panel.judge("md_judge", keys=keys)
    assert {row["response_key"] for row in panel.store.read_all("verdicts").to_pylist()} == set(keys[:4])
    monkeypatch.setattr(ScriptedEngine, "generate", answer)
    assert panel.judge("md_judge", keys=keys) == 2
    # Judges that are no models are given more at once.
    assert panel.judge("rule", keys=keys) == 6


def test_another_model_judges_anew_and_its_verdicts_replace_the_former(panel: Panel, model_root: Path) -> None:
    panel.judge("md_judge")
    save_model(model_root / "md_judge", {"a": {"b": 1.0}})
    panel.world = HubWorld(models={"md_judge": panel.world.sources["md_judge"]})
    assert panel.judge("md_judge") == 2
    assert len(panel.store.keys("verdicts")) == 2


def test_a_change_of_the_world_asks_judges_that_read_it_alone_again(
    panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Oracle.reads_world
    monkeypatch.setattr(judges.get("rule").target, "reads_world", True)
    panel.judge("md_judge", "rule", "rule_paper")
    monkeypatch.setattr(judging, "source_digest", lambda module: f"{source_digest(module)} changed")
    panel.log.clear()
    assert panel.judge("md_judge", "rule_paper") == 0
    assert panel.judge("rule") == 2
    assert panel.log == []


def test_what_a_judge_lacks_is_known_before_anything_is_asked(panel: Panel, model_root: Path) -> None:
    check_judges(["md_judge", "rule", "oracle"], panel.world)
    assert panel.log == []
    (model_root / "md_judge" / "config.json").unlink()
    panel.world = HubWorld(models={"md_judge": panel.world.sources["md_judge"]})
    with pytest.raises(InputsMissingError, match="tests/made"):
        check_judges(["rule", "md_judge"], panel.world)


def test_a_judge_that_is_too_large_is_left_out_where_that_is_allowed(
    panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = ModelShape(layers=80, hidden=8192, intermediate=28672, heads=64, kv_heads=8, vocabulary=128256)
    source = ModelSource(repository="tests/made", local="md_judge", shape=large)
    monkeypatch.setattr(configuration, "_configuration_folder", lambda source: None)
    monkeypatch.setattr(needs, "this_device", lambda: Device("cpu", "processor", 24 << 30))
    panel.world = HubWorld(models={"md_judge": source, "llama_guard_3": panel.world.sources["llama_guard_3"]})
    with pytest.raises(MemoryShortageError, match=r"judge md_judge: .* offers 24\.0 GiB; .* for the role md_judge"):
        panel.judge("md_judge", "llama_guard_3")
    assert panel.log == []
    reporter = Reporter(Console(file=panel.screen, width=1000))
    judging = Judging(panel.world, panel.store, CHOICE, reporter, leaves_out_too_large=True)
    judge_responses(judging, ("one",), ("md_judge", "llama_guard_3"))
    assert {row["judge"] for row in panel.store.read_all("verdicts").to_pylist()} == {"llama_guard_3"}
    assert "left out: judge md_judge: its model needs at least" in panel.screen.getvalue()


def test_an_engine_that_fails_is_closed_and_what_others_judged_stays(
    panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(prompt: str) -> str:
        raise RuntimeError("out of memory")

    panel.judge("md_judge")
    monkeypatch.setitem(SAID, "llama_guard_3", "")
    monkeypatch.setattr(ScriptedEngine, "generate", lambda self, requests: fail(""))
    with pytest.raises(RuntimeError, match="out of memory"):
        panel.judge("md_judge", "llama_guard_3")
    assert panel.log[-1] == "close llama_guard_3"
    assert {row["judge"] for row in panel.store.read_all("verdicts").to_pylist()} == {"md_judge"}
