"""The workflows: nothing a stranger wrote is run with rights, and every step is a command that works here."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml
from _pytest.mark.expression import Expression

from benchmark.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SUBMISSION, COMMENT = (ROOT / ".github" / "workflows" / f"{name}.yml" for name in ("submission", "submission-comment"))


def load(path: Path) -> dict[str, Any]:
    # YAML 1.1 reads the key `on` as true.
    content: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in content.items()}


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in load(path)["jobs"].values() for step in job["steps"]]


def scripts(path: Path) -> Iterator[str]:
    yield from (step["run"] for step in steps(path) if "run" in step)


# All workflows


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_githubs_own_and_of_one_version_everywhere(path: Path) -> None:
    everywhere = {step["uses"] for workflow in WORKFLOWS for step in steps(workflow) if "uses" in step}
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", name) for name in everywhere)
    assert len({name.partition("@")[0] for name in everywhere}) == len(everywhere)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_rights_are_named_and_scripts_hold_no_expressions(path: Path) -> None:
    content = load(path)
    assert isinstance(content["permissions"], dict)
    assert not any("permissions" in job for job in content["jobs"].values())
    assert "pull_request_target" not in content["on"]
    # A branch's name or a title inside a script would be run; in the environment it is text.
    assert [script for script in scripts(path) if "${{" in script] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_jobs_end(path: Path) -> None:
    assert all(job["timeout-minutes"] <= 360 for job in load(path)["jobs"].values())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_scripts_are_valid_and_what_they_call_exists(path: Path) -> None:
    for script in scripts(path):
        assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0, script
        for name in re.findall(r"\.ci/[\w.]+", script):
            assert (ROOT / name).is_file()
            assert os.access(ROOT / name, os.X_OK) or f"python3 {name}" in script or f". {name}\n" in script
        for command, options in re.findall(r"bin/fedsafety (\w[\w-]*)((?:.|\n)*?)(?:\||2?>|$)", script):
            known = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
            assert set(re.findall(r"(--[a-z-]+)", options)) <= {o for p in known.params for o in p.opts}
        for target in re.findall(r"\bmake (\w+)", script):
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("real_data", [False, True])
@pytest.mark.parametrize("exhaustive", [False, True])
def test_the_three_test_commands_run_every_test_once(slow: bool, real_data: bool, exhaustive: bool) -> None:
    expressions = re.findall(r"^\t\$\(PYTEST\) -m \"(.+?)\"", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert len(expressions) == 3
    compiled = [Expression.compile(expression) for expression in expressions]
    marks = {"slow": slow, "real_data": real_data, "exhaustive": exhaustive}
    # Counted outside of the assertion: where it fails, pytest evaluates an expression's frame with a name of its own.
    count = sum(expression.evaluate(lambda name, **_: marks[name]) for expression in compiled)
    assert count == 1


@pytest.mark.parametrize(("option", "root"), [("", ""), ("DATA_ROOT=my data", ' --data-root "my data"')])
def test_make_pocket_runs_the_quick_set_and_builds_the_page(option: str, root: str) -> None:
    command = ["make", "--dry-run", "pocket", *filter(None, [option])]
    environment = {key: value for key, value in os.environ.items() if key != "FEDSAFETY_DATA_ROOT"}
    shown = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    assert f".venv/bin/fedsafety run --suite pocket --quick{root}" in shown.replace(" ;", ";")
    assert "fedsafety leaderboard --suite pocket && exit $status" in shown
    assert "`make pocket`" in (ROOT / "README.md").read_text()


def test_continuous_integration_runs_both_test_commands() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert re.findall(r"^make .*$", script, flags=re.MULTILINE) == ["make test", "make test-all"]


# What runs a stranger's bundle has no rights; what has rights runs nothing


def test_the_workflow_that_runs_a_bundle_may_only_read_and_takes_its_code_from_the_base() -> None:
    content = load(SUBMISSION)
    assert content["permissions"] == {"contents": "read"}
    assert content["on"] == {"pull_request": {"branches": ["main"], "paths": ["results/inbox/**"]}}
    assert "secrets." not in SUBMISSION.read_text()
    assert "github.token" not in SUBMISSION.read_text()
    base, theirs = (step["with"] for step in steps(SUBMISSION) if step.get("uses", "").startswith("actions/checkout"))
    assert base == {"ref": "${{ github.base_ref }}", "persist-credentials": False}
    assert theirs["path"] == "pull-request"
    assert theirs["sparse-checkout"] == "results/inbox"
    assert theirs["persist-credentials"] is False
    mentions = [line for script in scripts(SUBMISSION) for line in script.splitlines() if "pull-request" in line]
    assert len(mentions) == 1
    assert ".ci/submission.py take pull-request/results/inbox" in mentions[0]


def test_what_strangers_wrote_is_printed_only_where_the_runner_does_not_listen() -> None:
    own = [step["run"] for step in steps(SUBMISSION) if "run" in step]
    unread = [script for script in own if not script.startswith(". .ci/literal\n")]
    # Nothing of the pull request is read before it is taken.
    assert unread == own[: len(unread)] == [".ci/system", "make env"]


def test_the_workflow_that_may_write_comments_checks_out_and_runs_nothing() -> None:
    content = load(COMMENT)
    assert content["permissions"] == {"actions": "read", "contents": "read", "pull-requests": "write"}
    assert content["on"] == {"workflow_run": {"workflows": [load(SUBMISSION)["name"]], "types": ["completed"]}}
    used = [step["uses"].partition("@")[0] for step in steps(COMMENT) if "uses" in step]
    assert used == ["actions/download-artifact"]
    words = {word for script in scripts(COMMENT) for word in re.findall(r"[\w./-]+", script)}
    assert words.isdisjoint({"source", "eval", "bash", "sh", "python", "python3", "make", "git", "pip", "unzip"})
    # Only its text is read.
    read = {word for word in words if word.startswith("report/")}
    assert read == {"report/comment.md"}


def test_the_guides_say_what_counts_and_how_a_bundle_is_replaced() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    assert "never the green check" in guide
    assert "green check alone does not count" in (ROOT / "docs" / "submit.md").read_text()
    (line,) = re.findall(r"^\.venv/bin/fedsafety verify (.*--replaces.*)$", guide, flags=re.MULTILINE)
    known = typer.main.get_command(app).commands["verify"]  # type: ignore[attr-defined]
    assert set(re.findall(r"--[a-z]+", line)) <= {option for each in known.params for option in each.opts}
    # The workflow decides for nobody whose id it is.
    assert not any("--replaces" in script for script in scripts(SUBMISSION))


def test_both_mean_the_same_artifact() -> None:
    (uploaded,) = (
        step["with"]["path"] for step in steps(SUBMISSION) if step.get("with", {}).get("name") == "submission-report"
    )
    (downloaded,) = (
        step["with"]["path"] for step in steps(COMMENT) if step.get("with", {}).get("name") == "submission-report"
    )
    assert uploaded == downloaded == "report"


def test_the_sources_of_submissions_are_not_linted(tmp_path: Path) -> None:
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)

    def lint(folder: str) -> list[int]:
        source = tmp_path / folder / "a_rule" / "source" / "defenses" / "a_rule.py"
        source.parent.mkdir(parents=True)
        source.write_text("import os, sys\ndef rule( x ) : return x\n")
        commands = re.findall(r"^\t\$\(BIN\)/(ruff .*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        python = [sys.executable, "-m"]
        return [
            subprocess.run(python + command.split(), cwd=tmp_path, capture_output=True, check=False).returncode
            for command in commands
        ]

    assert lint("results/submitted") == [0, 0]
    assert lint("results/elsewhere") == [1, 1]


# The bundle that is taken


@pytest.fixture(scope="module")
def helper() -> ModuleType:
    spec = importlib.util.spec_from_file_location("submission_helper", ROOT / ".ci" / "submission.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def inboxes(tmp_path: Path) -> tuple[Path, Path]:
    """The pull request's inbox and that of the base, which hold one bundle in common."""
    theirs, ours = tmp_path / "pull-request", tmp_path / "base"
    for folder in (theirs, ours):
        folder.mkdir()
        (folder / "earlier.zip").write_bytes(b"earlier")
    return theirs, ours


def packed(manifest: str | bytes, name: str = "manifest.json", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip archive of one file."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        archive.writestr(name, manifest)
    return sink.getvalue()


def test_the_new_bundle_is_taken(helper: ModuleType, inboxes: tuple[Path, Path]) -> None:
    theirs, ours = inboxes
    new = packed('{"id": "my_rule_2"}')
    (theirs / "my_rule_2.zip").write_bytes(new)
    assert helper.take(theirs, ours) == "my_rule_2"
    assert (ours / "my_rule_2.zip").read_bytes() == new


def test_a_bundle_with_other_bytes_is_new(helper: ModuleType, inboxes: tuple[Path, Path]) -> None:
    theirs, ours = inboxes
    (theirs / "earlier.zip").write_bytes(packed('{"id": "earlier"}'))
    assert helper.take(theirs, ours) == "earlier"


def test_a_file_named_after_another_id_than_the_bundles_is_refused(
    helper: ModuleType, inboxes: tuple[Path, Path]
) -> None:
    theirs, ours = inboxes
    (theirs / "other.zip").write_bytes(packed('{"id": "mine"}'))
    with pytest.raises(SystemExit, match=r"other\.zip is the bundle of 'mine'"):
        helper.take(theirs, ours)
    assert [path.name for path in ours.iterdir()] == ["earlier.zip"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"this is no archive", "is no zip archive"),
        (packed('{"id": "mine"}')[:-30], "is no zip archive"),
        (packed('{"id": "mine"}', name="source/manifest.json"), "holds no manifest.json"),
        (packed("{"), "manifest.json that can be read"),
        (packed(b"\xff\xfe\xff"), "manifest.json that can be read"),
        (packed("[" * 200_000), "manifest.json that can be read"),
        (packed('{"id": ["mine"]}'), "names no id"),
        (packed('"mine"'), "names no id"),
        (packed('{"id": "mine"}' + " " * (4 << 20)), "has more than 4194304 bytes"),
        (packed('{"id": "mine"}', method=zipfile.ZIP_BZIP2), "by another method than deflate"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(
    helper: ModuleType, inboxes: tuple[Path, Path], content: bytes, reason: str
) -> None:
    theirs, ours = inboxes
    (theirs / "mine.zip").write_bytes(content)
    with pytest.raises(SystemExit, match=reason):
        helper.take(theirs, ours)


def test_no_more_of_a_manifest_is_unpacked_than_is_allowed(
    helper: ModuleType, inboxes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = inboxes
    # The header says 14 bytes, and the stream holds 64 MiB.
    small, large = '{"id": "mine"}', '{"id": "mine"}' + " " * (64 << 20)
    content = packed(large).replace(len(large).to_bytes(4, "little"), len(small).to_bytes(4, "little"))
    (theirs / "mine.zip").write_bytes(content)
    unpacked: list[int] = []
    read = zipfile.ZipExtFile.read

    def counted(self: zipfile.ZipExtFile, n: int | None = -1) -> bytes:
        unpacked.append(len(data := read(self, n)))
        return data

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counted)
    with pytest.raises(SystemExit, match="that can be read"):
        helper.take(theirs, ours)
    assert sum(unpacked) <= 4 << 20


def test_a_pull_request_may_not_remove_the_bundles_of_others(helper: ModuleType, inboxes: tuple[Path, Path]) -> None:
    theirs, ours = inboxes
    (theirs / "earlier.zip").rename(theirs / "mine.zip")
    (theirs / "mine.zip").write_bytes(packed('{"id": "mine"}'))
    with pytest.raises(SystemExit, match=r"lacks 'earlier\.zip', which the base has"):
        helper.take(theirs, ours)
    assert not (ours / "mine.zip").exists()


def test_a_link_in_the_place_of_a_bundle_or_of_the_folder_is_refused(
    helper: ModuleType, inboxes: tuple[Path, Path], tmp_path: Path
) -> None:
    theirs, ours = inboxes
    (theirs / "earlier.zip").unlink()
    (theirs / "earlier.zip").symlink_to(ours / "earlier.zip")
    with pytest.raises(SystemExit, match="is no file"):
        helper.take(theirs, ours)
    (theirs / "earlier.zip").unlink()
    shutil.copy2(ours / "earlier.zip", theirs)
    (theirs / "mine.zip").write_bytes(packed('{"id": "mine"}'))
    (tmp_path / "link").symlink_to(theirs)
    with pytest.raises(SystemExit, match="is a link"):
        helper.take(tmp_path / "link", ours)
    (tmp_path / "above").symlink_to(tmp_path)
    with pytest.raises(SystemExit, match="is a link"):
        helper.take(tmp_path / "above" / theirs.name, ours)
    assert helper.take(theirs, ours) == "mine"


@pytest.mark.parametrize(
    "name", ["My.zip", "a b.zip", "$(id).zip", "x;y.zip", "-rf.zip", "a.py", ".zip", "é.zip", "a.zip.zip"]
)
def test_a_name_that_is_no_id_is_refused(helper: ModuleType, inboxes: tuple[Path, Path], name: str) -> None:
    theirs, ours = inboxes
    (theirs / name).write_bytes(b"new")
    with pytest.raises(SystemExit, match="is not named as an id"):
        helper.take(theirs, ours)
    assert [path.name for path in ours.iterdir()] == ["earlier.zip"]


def test_none_several_links_and_folders_are_refused(helper: ModuleType, inboxes: tuple[Path, Path]) -> None:
    theirs, ours = inboxes
    with pytest.raises(SystemExit, match="this one brings none"):
        helper.take(theirs, ours)
    (theirs / "a.zip").symlink_to("/etc/hostname")
    with pytest.raises(SystemExit, match="is no file"):
        helper.take(theirs, ours)
    (theirs / "a.zip").unlink()
    (theirs / "a.zip").mkdir()
    with pytest.raises(SystemExit, match="is no file"):
        helper.take(theirs, ours)
    (theirs / "b.zip").write_bytes(b"new")
    with pytest.raises(SystemExit, match=r"this one brings 'a\.zip', 'b\.zip'"):
        helper.take(theirs, ours)


# The comment


def test_a_comment_shows_the_change_on_the_board(helper: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("rerun: passed")
    (tmp_path / "board.md").write_text("### What would change on the board\n\n- one line")
    text = helper.comment(tmp_path, "success")
    assert text.startswith(
        "## The bundle was verified\n\n### What would change on the board\n\n- one line\n\n<details>"
    )
    assert "```text\nrerun: passed\n```" in text


def test_a_failed_verification_shows_its_reason_and_no_board(helper: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("error: it does not pass the step 'archive'")
    (tmp_path / "board.md").write_text("- first place")
    text = helper.comment(tmp_path, "failure")
    assert text.startswith("## The bundle was not verified\n\n<details open>")
    assert "does not pass the step 'archive'" in text
    assert "first place" not in text


def test_what_a_stranger_wrote_stays_code_and_short(helper: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("x" * 10**6 + "\n````\n@everyone <img src=x> [a](http://b)\n```")
    text = helper.comment(tmp_path, "failure")
    inner = text.partition("`````text\n")[2].partition("\n`````\n")[0]
    assert inner.endswith("````\n@everyone <img src=x> [a](http://b)\n```")
    assert "`````" not in inner
    (tmp_path / "board.md").write_text("b" * 70_000)
    assert len(helper.comment(tmp_path, "success")) < 65_000
    assert len(helper.comment(tmp_path / "none", "cancelled")) < 1_000


# Every step, run


def run_steps(path: Path, folder: Path, environment: dict[str, str], expressions: dict[str, str]) -> dict[str, int]:
    """Run the ``run`` steps of a workflow as its runner would and return their exit statuses by name.

    Args:
        path: The workflow.
        folder: Working directory.
        environment: Environment of all steps.
        expressions: Values of the expressions in the steps' own environments.
    """
    statuses: dict[str, int] = {}
    handed_on = folder / "github_env"
    handed_on.touch()
    for step in steps(path):
        script = step.get("run")
        if script is None:
            continue
        given = dict(line.split("=", 1) for line in handed_on.read_text().splitlines())
        failed = any(statuses.values())
        condition = step.get("if", "success()")
        assert condition in ("success()", "always()", "env.NUMBER != ''")
        if (failed and condition != "always()") or (condition.startswith("env.") and not given.get("NUMBER")):
            continue
        values = {**expressions, "job.status": "failure" if failed else "success"}
        own = {key: filled(text, values) for key, text in step.get("env", {}).items()}
        # As GitHub's runner does where the workflow says `shell: bash`.
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        done = subprocess.run(
            command,
            cwd=folder,
            env={**environment, **given, **own, "GITHUB_ENV": str(handed_on)},
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        statuses[step.get("name", script)] = done.returncode
        (folder / "steps.log").open("a").write(f"{script}\n{done.stdout}{done.stderr}\n")
        # The runner may read the second stream whenever it likes: even when it hears again.
        (folder / "printed").mkdir(exist_ok=True)
        (folder / "printed" / step.get("name", script)).write_text(f"{done.stdout}\n{done.stderr}")
    return statuses


def filled(text: str, values: dict[str, str]) -> str:
    """Return ``text`` with GitHub's expressions replaced by their values."""
    return re.sub(r"\$\{\{ (.+?) \}\}", lambda match: values[match[1]], text)


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A checkout of the present files, whose environment is this one; nothing is installed from it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    clone = tmp_path / "clone"
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "releases/")):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    (clone / ".venv").symlink_to(sys.prefix)
    tools = tmp_path / "tools"
    tools.mkdir()
    executable(tools / "make", f'#!/bin/sh\nexec {shutil.which("make")} -n "$@"\n')
    for name in ("apt-get", "sudo"):
        executable(tools / name, "#!/bin/sh\nexit 0\n")
    return clone


@pytest.fixture
def environment(scratch: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FEDSAFETY")}
    return kept | {"PATH": f"{scratch.parent / 'tools'}:{kept['PATH']}"}


def prepared_bundle(folder: Path) -> Path:
    """Return a bundle of a new defense with one cell, made as a submitter makes it."""
    command = [str(Path(sys.prefix) / "bin" / "fedsafety")]
    for arguments in (
        ["new", "sample_rule"],
        ["run", "--defense", "sample_rule", "--scenario", "clean", "--seed", "11"],
        ["submit", "sample_rule"],
    ):
        done = subprocess.run(command + arguments, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "sample_rule.zip"


@pytest.mark.slow
def test_every_step_of_a_submission_runs(scratch: Path, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "submitter").mkdir()
    bundle = prepared_bundle(tmp_path / "submitter")
    theirs = scratch / "pull-request" / "results" / "inbox"
    theirs.mkdir(parents=True)
    shutil.copy2(bundle, theirs / bundle.name)
    statuses = run_steps(SUBMISSION, scratch, environment, {})
    assert statuses == {step.get("name", step["run"]): 0 for step in steps(SUBMISSION) if "run" in step}, (
        scratch / "steps.log"
    ).read_text()[-4000:]
    assert (scratch / "github_env").read_text() == "ID=sample_rule\n"
    assert json.loads((scratch / "report" / "report.json").read_text())["rung"] == "reproduced"
    assert list((scratch / "results" / "submitted" / "sample_rule").rglob("*.parquet"))
    text = (scratch / "report" / "comment.md").read_text()
    assert text.startswith("## The bundle was verified\n\n### What would change on the board")
    assert "sample_rule" in text
    uploads = {
        step["with"]["name"]: step["with"]["path"] for step in steps(SUBMISSION) if "upload" in step.get("uses", "")
    }
    assert uploads == {"submission-report": "report", "verified": "results/submitted/${{ env.ID }}"}


@pytest.mark.slow
def test_a_broken_bundle_ends_the_job_and_still_makes_the_comment(scratch: Path, environment: dict[str, str]) -> None:
    theirs = scratch / "pull-request" / "results" / "inbox"
    theirs.mkdir(parents=True)
    (theirs / "broken.zip").write_bytes(packed('{"id": "broken"}'))
    statuses = run_steps(SUBMISSION, scratch, environment, {})
    assert statuses["Take the bundle"] == 0
    assert statuses["Verify it"] != 0
    assert "Say what would change on the board" not in statuses
    assert statuses["Write the comment"] == 0
    text = (scratch / "report" / "comment.md").read_text()
    assert text.startswith("## The bundle was not verified")
    assert "archive" in text
    assert not (scratch / "results" / "submitted" / "broken").exists()


def test_a_pull_request_without_a_bundle_is_told_so(scratch: Path, environment: dict[str, str]) -> None:
    (scratch / "pull-request").mkdir()
    statuses = run_steps(SUBMISSION, scratch, environment, {})
    assert statuses["Take the bundle"] == 1
    assert "Verify it" not in statuses
    assert "a pull request brings one bundle" in (scratch / "report" / "comment.md").read_text()


COMMANDS = {"add-mask", "add-matcher", "debug", "echo", "endgroup", "error", "group", "notice", "remove-matcher"}
COMMANDS |= {"save-state", "set-output", "stop-commands", "warning"}


def heard(printed: str) -> list[str]:
    """Return the names of the commands that GitHub's runner takes from a step's output."""
    names: list[str] = []
    waits_for = ""
    for line in re.split(r"\r\n|\r|\n", printed):
        # Today's form stands at a line's beginning, the former one anywhere.
        for pattern in (r"\s*::([^ :]+)[^:]*::(.*)", r".*?##\[([^\] ]+)[^\]]*\](.*)"):
            found = re.match(pattern, line)
            if found is None:
                continue
            name, data = found[1].lower(), found[2]
            if waits_for:
                waits_for = "" if name == waits_for else waits_for
            elif name in COMMANDS:
                names.append(name)
                waits_for = data if name == "stop-commands" else ""
            break
    return [*names, "(deaf)"] if waits_for else names


HOSTILE = ["::error::x", "::add-mask::a", "::stop-commands::b", "  ::warning file=a,line=1::x", "text ##[error]x"]


def test_the_runner_hears_such_commands_where_nothing_stops_it() -> None:
    assert [heard(line) for line in HOSTILE] == [
        ["error"],
        ["add-mask"],
        ["stop-commands", "(deaf)"],
        ["warning"],
        ["error"],
    ]
    assert heard("::stop-commands::c\n::error::x\n::b::\n::c::\n::error::x") == ["stop-commands", "error"]


@pytest.mark.parametrize("status", [0, 1])
def test_no_line_that_a_stranger_wrote_commands_the_runner(
    scratch: Path, environment: dict[str, str], status: int
) -> None:
    theirs = scratch / "pull-request" / "results" / "inbox"
    theirs.mkdir(parents=True)
    (theirs / "mine.zip").write_bytes(packed('{"id": "mine"}'))
    (scratch / ".venv").unlink()
    (scratch / ".venv" / "bin").mkdir(parents=True)
    (scratch / "hostile.txt").write_text("\r".join(HOSTILE) + "\n" + "\n".join(HOSTILE))
    # On both streams, without an end of the last line, and with all that its environment could tell it.
    shown = "cat hostile.txt; cat hostile.txt >&2; env | sed s/^.*=/::/ | sed s/$/::/"
    executable(scratch / ".venv" / "bin" / "fedsafety", f"#!/bin/sh\n{shown}; cat hostile.txt\nexit {status}\n")
    statuses = run_steps(SUBMISSION, scratch, environment, {})
    assert statuses["Verify it"] == status
    assert ("Say what would change on the board" in statuses) is (status == 0)
    printed = {path.name: path.read_text() for path in (scratch / "printed").iterdir()}
    assert HOSTILE[0] in printed["Verify it"]
    assert set(statuses) == set(printed)
    for name in statuses.keys() - {"Install what the sandbox needs", "Install"}:
        assert heard(printed[name]) == ["remove-matcher", "stop-commands"], name
    # Who reads the log of one run could not use its word in the next.
    words = {word for text in printed.values() for word in re.findall("::stop-commands::([0-9a-f]{64})$", text, re.M)}
    assert len(words) == len(printed) - 2
    assert not any(word in (scratch / "report" / "comment.md").read_text() for word in words)


def test_no_name_of_a_file_commands_the_runner(scratch: Path, environment: dict[str, str]) -> None:
    theirs = scratch / "pull-request" / "results" / "inbox"
    theirs.mkdir(parents=True)
    (theirs / "##[error]x.zip").write_bytes(b"new")
    statuses = run_steps(SUBMISSION, scratch, environment, {})
    assert statuses["Take the bundle"] == 1
    printed = (scratch / "printed" / "Take the bundle").read_text()
    assert "##[error]x.zip" in printed
    assert heard(printed) == ["remove-matcher", "stop-commands"]


# The comment's workflow, against a stand-in for GitHub

STAND_IN = """#!/bin/sh
# Answers `gh api` from files and keeps what is sent.
echo "$*" >> "$ANSWERS/calls.txt"
for word in "$@"; do case "$previous" in --input) cp "$word" "$ANSWERS/sent.json";; esac; previous=$word; done
case "$*" in
*/files*) cat "$ANSWERS/files_of_the_head.json";;
*/compare/*) cat "$ANSWERS/compare.json";;
*--method\\ PATCH*|*--method\\ POST*) echo '{}';;
*/comments*) cat "$ANSWERS/comments.json";;
*/pulls/*) cat "$ANSWERS/pull.json";;
*/pulls*) cat "$ANSWERS/pulls.json";;
esac
"""
SHA = "f" * 40
EVENT = {
    "github.token": "token",
    "github.repository": "owner/name",
    "github.server_url": "https://github.com",
    "github.event.workflow_run.id": "77",
    "github.event.workflow_run.head_sha": SHA,
    "github.event.workflow_run.head_branch": "$(touch hacked); x",
    "github.event.workflow_run.head_repository.owner.login": "stranger",
}


@pytest.fixture
def github(tmp_path: Path, environment: dict[str, str]) -> tuple[Path, dict[str, str]]:
    """A folder with GitHub's answers, and an environment in which ``gh`` gives them."""
    answers = tmp_path / "answers"
    answers.mkdir()
    executable(tmp_path / "tools" / "gh", STAND_IN)
    bot = {"login": "github-actions[bot]"}
    write = {
        "pulls": [{"number": 4, "head": {"sha": "0" * 40}}, {"number": 5, "head": {"sha": SHA}}],
        "pull": {"number": 5, "head": {"sha": SHA}},
        "compare": {"files": [{"filename": "results/inbox/my_rule.zip"}]},
        "files_of_the_head": [{"filename": "results/inbox/my_rule.zip"}],
        "comments": [
            {"id": 1, "user": {"login": "stranger"}, "body": "<!-- fedsafety submission -->\nfake"},
            {"id": 2, "user": bot, "body": "something else"},
        ],
    }
    for name, content in write.items():
        (answers / f"{name}.json").write_text(json.dumps(content))
    return answers, environment | {"ANSWERS": str(answers)}


def post(tmp_path: Path, github: tuple[Path, dict[str, str]], report: str | None) -> tuple[str, list[str]]:
    """Return the text that was posted and the calls."""
    folder = tmp_path / "runner"
    (folder / "report").mkdir(parents=True)
    if report is not None:
        (folder / "report" / "comment.md").write_text(report)
    statuses = run_steps(COMMENT, folder, github[1], EVENT)
    assert set(statuses.values()) == {0}, (folder / "steps.log").read_text()
    assert not (folder / "hacked").exists()
    sent = github[0] / "sent.json"
    calls = (github[0] / "calls.txt").read_text().splitlines()
    return (json.loads(sent.read_text())["body"] if sent.exists() else ""), calls


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed; on Debian and Ubuntu: apt-get install jq")
class TestPosting:
    def test_the_first_comment_is_posted_to_the_pull_request_of_that_commit(
        self, tmp_path: Path, github: tuple[Path, dict[str, str]]
    ) -> None:
        body, calls = post(tmp_path, github, 'text with "quotes", $(id) and `code`\n')
        assert body == (
            '<!-- fedsafety submission -->\ntext with "quotes", $(id) and `code`\n\n'
            f"[Run of the workflow](https://github.com/owner/name/actions/runs/77) for commit {SHA}"
        )
        (base,) = load(SUBMISSION)["on"]["pull_request"]["branches"]
        assert calls[0].endswith(f"-f base={base} -f head=stranger:$(touch hacked); x")
        assert calls[1] == f"api repos/owner/name/compare/{base}...{SHA}"
        assert calls[-1] == "api --method POST repos/owner/name/issues/5/comments --input body.json"

    def test_a_later_one_takes_its_place(self, tmp_path: Path, github: tuple[Path, dict[str, str]]) -> None:
        comments = json.loads((github[0] / "comments.json").read_text())
        ours = {"id": 9, "user": {"login": "github-actions[bot]"}, "body": "<!-- fedsafety submission -->\nold"}
        (github[0] / "comments.json").write_text(json.dumps([*comments, ours]))
        _, calls = post(tmp_path, github, "new")
        assert calls[-1] == "api --method PATCH repos/owner/name/issues/comments/9 --input body.json"

    def test_a_pull_request_that_changes_more_gets_no_report(
        self, tmp_path: Path, github: tuple[Path, dict[str, str]]
    ) -> None:
        changed = [{"filename": "results/inbox/a.zip"}, {"filename": ".github/workflows/submission.yml"}]
        (github[0] / "compare.json").write_text(json.dumps({"files": changed}))
        # What the pull request has now, after the run, says nothing about the run: its fixture adds a bundle only.
        body, _ = post(tmp_path, github, "all is well")
        assert "changes more than `results/inbox/`" in body
        assert "all is well" not in body

    def test_a_list_of_files_that_may_be_cut_proves_nothing(
        self, tmp_path: Path, github: tuple[Path, dict[str, str]]
    ) -> None:
        listed = [{"filename": f"results/inbox/a{number}.zip"} for number in range(300)]
        (github[0] / "compare.json").write_text(json.dumps({"files": listed}))
        assert "changes more than" in post(tmp_path, github, "all is well")[0]

    def test_nothing_is_posted_without_a_list_of_files(
        self, tmp_path: Path, github: tuple[Path, dict[str, str]]
    ) -> None:
        (github[0] / "compare.json").write_text('{"message": "Not Found"}')
        folder = tmp_path / "runner"
        folder.mkdir()
        assert run_steps(COMMENT, folder, github[1], EVENT)["Post the comment"] != 0
        assert not (github[0] / "sent.json").exists()

    def test_nothing_is_posted_where_the_head_has_moved_on(
        self, tmp_path: Path, github: tuple[Path, dict[str, str]]
    ) -> None:
        (github[0] / "pull.json").write_text(json.dumps({"number": 5, "head": {"sha": "e" * 40}}))
        body, calls = post(tmp_path, github, "all is well")
        assert body == ""
        assert calls[-1] == "api repos/owner/name/pulls/5"

    def test_a_file_moved_into_the_inbox_is_a_change_elsewhere(
        self, tmp_path: Path, github: tuple[Path, dict[str, str]]
    ) -> None:
        moved = [{"filename": "results/inbox/a.zip", "previous_filename": ".ci/run"}]
        (github[0] / "compare.json").write_text(json.dumps({"files": moved}))
        assert "changes more than" in post(tmp_path, github, "all is well")[0]

    def test_without_a_report_that_is_said(self, tmp_path: Path, github: tuple[Path, dict[str, str]]) -> None:
        assert "ended without a report" in post(tmp_path, github, None)[0]

    def test_a_long_report_is_cut(self, tmp_path: Path, github: tuple[Path, dict[str, str]]) -> None:
        assert len(post(tmp_path, github, "é" * 90_000)[0]) < 65_536

    def test_nothing_is_posted_where_the_commit_is_no_open_pull_requests(
        self, tmp_path: Path, github: tuple[Path, dict[str, str]]
    ) -> None:
        (github[0] / "pulls.json").write_text("[]")
        body, calls = post(tmp_path, github, "text")
        assert body == ""
        assert len(calls) == 1
