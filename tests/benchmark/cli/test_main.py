"""The command line: exit statuses, messages, and what needs no training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from benchmark.cli import main as cli
from benchmark.cli.listing import KINDS
from benchmark.execution.cell_keys import probe_set_digest
from benchmark.execution.judging import verdict_key
from benchmark.execution.plan import make_plan
from benchmark.records.store import Store
from benchmark.suites.suite import Suite, suites
from tasks.micro import MicroWorld


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple]:  # type: ignore[type-arg]
    """Run the command as the shell does; return (exit status, output, errors)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("FEDSAFETY_RUNS", raising=False)
    # No committed rows, neither here nor in a checkout.
    monkeypatch.setattr("leaderboard.commands.CHECKOUT", tmp_path / "none")

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedsafety", *arguments])
        try:
            cli.main()
            status = 0
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "300"})


@pytest.mark.parametrize("command", ["list", "run", "judge", "leaderboard", "publish", "doctor"])
def test_every_command_has_help(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["doctor", "--data", ""], "--data"),
        (["doctor", "--data="], "--data"),
        (["doctor", "--suite", "", "--model-root", ""], "--model-root"),
        (["run", "--dry-run", "--runs", ""], "--runs"),
        (["run", "--dry-run", "--task-path=", "x"], "--task-path"),
        (["leaderboard", "--out", ""], "--out"),
        (["verify", ""], "BUNDLE"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(
    run: Callable[..., tuple[int, str, str]], words: list[str], name: str
) -> None:
    assert run(*words)[::2] == (
        2,
        f"error: {name} is empty; name a file or folder, for example . for the current folder\n",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_list_as_json_has_all_metadata(kind: str) -> None:
    result = invoke("list", kind, "--json")
    assert result.exit_code == 0
    entries = json.loads(result.output)[kind]
    ids = [entry["id"] for entry in entries]
    if kind == "axes":  # in the order in which their suite shows them
        sets = [suite.sensitivity for suite in suites.entries() if suite.sensitivity]
        assert len(sets) > 1
        assert ids == [axis.id for each in sets for axis in each.axes]
    else:
        assert ids == sorted(ids)
    assert all(len(entry["title"]) > 0 and len(entry["description"]) >= 20 for entry in entries)


def test_list_as_json_of_everything() -> None:
    content = json.loads(invoke("list", "--json").output)
    assert tuple(content) == KINDS
    krum = next(entry for entry in content["defenses"] if entry["id"] == "krum")
    assert (krum["stages"], krum["knowledge"], krum["origin"]) == ("aggregate", "declared_bound", "built-in")


@pytest.mark.parametrize(
    ("name", "stage", "resources", "cost"),
    [
        ("none", "none", "none", "nothing else"),
        ("identity_shift", "data", "own rows", "rows are chosen once a run"),
        ("alie", "update", "own updates", "what is sent is computed each round"),
        (
            "boosted_data",
            "data, update",
            "own rows, a pool of rows for all malicious clients, own updates",
            "rows are chosen once a run, what is sent is computed each round",
        ),
        (
            "generated_data",
            "data",
            "own rows, a pool of rows for all malicious clients, a model that generates text",
            "a model generates rows once a run",
        ),
    ],
)
def test_an_attack_is_listed_with_stage_resources_and_cost(name: str, stage: str, resources: str, cost: str) -> None:
    entries = {entry["id"]: entry for entry in json.loads(invoke("list", "attacks", "--json").output)["attacks"]}
    entry = entries[name]
    assert (entry["stage"], entry["resources"], entry["cost"]) == (stage, resources, f"ordinary training; {cost}")
    assert {"paper", "knowledge", "stage", "resources", "cost"} <= entry.keys()
    assert all(entry["paper"] for name, entry in entries.items() if name != "none")


def test_list_for_people_shows_every_id_and_description() -> None:
    result = invoke("list", "attacks")
    assert result.exit_code == 0
    for text in ("unaligned_data", "generated_data", "arXiv 2406.10630", "Every client is honest"):
        assert text in result.output
    everything = invoke("list").output
    assert "krum_one_neighbour" in everything
    assert "3 malicious of 10, 10 a round, f=3" in everything


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "defences"), "unknown kind 'defences'; did you mean 'defenses'?"),
        (("run", "--suite", "mikro"), "unknown suite 'mikro'; did you mean 'micro'?"),
        (("run", "--suite", "none.yaml"), "cannot read suite none.yaml: No such file or directory; give the path"),
        (("run", "--engine", "vlm"), "unknown generation engine 'vlm'; did you mean 'vllm'?"),
        (("run", "--engine", "transformers", "--defense", "krun"), "unknown defense 'krun'; did you mean 'krum'?"),
        (("run", "--engine", "transformers", "--scenario", "clen"), "'clen'; did you mean 'clean'?"),
        (("run", "--engine", "transformers", "--defense", "krum+median"), "aggregates twice, by krum and by median"),
        (("judge", "--judge", "orakle"), "unknown judge 'orakle'; did you mean 'oracle'?"),
        (("judge",), "runs holds no responses to the probes of suite 'micro'; make some with 'fedsafety run', or name"),
        (("leaderboard",), "there are no cells to show; run `fedsafety run`"),
        (("publish",), "suite 'micro' exists, but there are no finished cells of it in runs; make some with"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_clear_line(
    run: Callable[..., tuple[int, str, str]], micro: Suite, arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_malformed_suite_is_named(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("id: mine\nruonds: 3\n")
    status, _, err = run("run", "--suite", "mine.yaml", "--dry-run")
    assert status == 2
    assert "suite mine.yaml is not valid: " in err
    assert "version: Field required" in err


@pytest.mark.parametrize("arguments", [("run", "--seed", "eleven"), ("run", "--nothing"), ("bogus",)])
def test_what_the_shell_cannot_parse_ends_with_2(
    run: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...]
) -> None:
    assert run(*arguments)[0] == 2


def test_a_failure_ends_with_1(run: Callable[..., tuple[int, str, str]], tmp_path: Path, micro: Suite) -> None:
    (tmp_path / "runs").touch()
    status, _, err = run("run", "--engine", "transformers", "--dry-run")
    assert (status, err) == (1, "error: the results folder runs is a file; give another folder with --runs\n")


def test_a_dry_run_shows_every_cell_and_writes_nothing(
    run: Callable[..., tuple[int, str, str]], micro: Suite, tmp_path: Path
) -> None:
    status, out, _ = run("run", "--engine", "transformers", "--scenario", "sampled", "--seed", "11", "--dry-run")
    assert status == 0
    assert list(tmp_path.iterdir()) == []
    plan = make_plan(micro, "transformers", scenarios=["sampled"], seeds=[11])
    rows = [line for line in out.splitlines() if " 11 " in line]
    assert len(rows) == len(plan.cells)
    # Krum, Multi-Krum and both stages of krum+posthoc_self, in the scenario and its twin.
    assert sum("not applicable" in row for row in rows) == 8
    assert "not applicable: sampled, krum: krum needs" in " ".join(out.split())
    assert sum("to train" in row for row in rows) == len(rows) - 8
    assert f"{len(plan.cells)} cells, {len(plan.jobs)} trainings" in out


def test_quick_takes_the_suites_quick_set(run: Callable[..., tuple[int, str, str]], micro: Suite) -> None:
    status, out, _ = run("run", "--engine", "transformers", "--quick", "--defense", "fedavg", "--dry-run")
    assert status == 0
    assert "2 cells, 2 trainings" in out
    assert "aligned_start" in out
    assert "clean" in out


def write_responses(store: Store, key: str, probe_set: str, ids: list[str]) -> None:
    row = {"response_key": key, "probe_set": probe_set, "generator": "test", "response": "i'm sorry ."}
    row |= {"tokens": 3, "finished": True, "soft_refusal": None}  # type: ignore[dict-item]
    store.write("responses", key, [row | {"probe_id": probe} for probe in ids])


def test_judging_judges_what_is_stored_once_and_leaves_other_probe_sets_alone(
    run: Callable[..., tuple[int, str, str]], micro: Suite, tmp_path: Path
) -> None:
    store = Store(tmp_path / "runs")
    probes = MicroWorld().probes()
    write_responses(store, "ours", probe_set_digest(probes), [probe.id for probe in probes])
    write_responses(store, "theirs", "another", ["another/probe"])
    judging = ("judge", "--engine", "transformers", "--judge", "oracle", "--judge", "rule")
    status, out, err = run(*judging)
    assert (status, err) == (0, "")
    assert "2 response sets judged; 0 had their verdicts already" in out
    assert {key.split("-")[:2][1] for key in store.keys("verdicts")} == {"oracle", "rule"}
    assert all(key.startswith("ours-") for key in store.keys("verdicts"))
    verdicts = store.read_all("verdicts")
    assert verdict_key("ours", "oracle", verdicts["judge_identity"][0].as_py()) in store.keys("verdicts")
    assert set(verdicts["judge"].to_pylist()) == {"oracle", "rule"}
    assert "0 response sets judged; 2 had their verdicts already" in run(*judging)[1]


def test_the_installed_command_knows_no_working_directory(tmp_path: Path) -> None:
    for name in ("benchmark", "defenses"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('a stranger was imported')")
    command = [str(Path(sys.executable).with_name("fedsafety")), "list", "defenses", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "krum" in [entry["id"] for entry in json.loads(done.stdout)["defenses"]]
    wrong = [str(Path(sys.executable).with_name("fedsafety")), "list", "defence"]
    failed = subprocess.run(wrong, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "did you mean 'defenses'?" in failed.stderr


def installed(*arguments: str, output: Path, encoding: str) -> subprocess.CompletedProcess[bytes]:
    command = [str(Path(sys.executable).with_name("fedsafety")), *arguments]
    with output.open("wb") as stream:
        environment = dict(os.environ) | {"PYTHONIOENCODING": encoding}
        return subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, env=environment, check=False)


def test_characters_that_a_terminal_lacks_are_replaced(tmp_path: Path) -> None:
    done = installed("list", "judges", output=tmp_path / "out", encoding="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"?" in (tmp_path / "out").read_bytes()
    assert installed("list", "judges", "--json", output=tmp_path / "out", encoding="ascii").returncode == 0
    assert json.loads((tmp_path / "out").read_bytes().decode("ascii"))["judges"]


def test_a_full_output_is_one_line_of_error() -> None:
    done = installed("list", "suites", output=Path("/dev/full"), encoding="utf-8")
    assert done.returncode == 1
    assert done.stderr == (
        b"error: cannot write the output: No space left on device; free space and run the same command again\n"
    )


@pytest.mark.parametrize(("redirect", "status"), [("2>/dev/full", 2), ("2>&1 >/dev/null | true", 2)])
def test_the_status_of_an_error_remains_if_nobody_can_read_its_message(redirect: str, status: int) -> None:
    command = f'"$@" {redirect}; exit ${{PIPESTATUS[0]}}'
    words = [sys.executable, "-P", "-m", "benchmark.cli.main", "list", "defence"]
    assert subprocess.run(["bash", "-c", command, "bash", *words], check=False).returncode == status
