"""The first file of a new method: it imports, behaves as the simplest method, and its own test passes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from attacks.base import attacks
from benchmark.errors import UsageError
from benchmark.methods.kinds import DEFENSE
from benchmark.methods.source import find_method
from benchmark.submission import scaffold
from benchmark.submission.practice import load_attack, load_defense, one_round, practice_resources, practice_server
from benchmark.submission.scaffold import HOOKS, WITH_SERVER, new_attack, new_defense
from defenses.base import Defense, Stage, defenses
from tasks.base import DataKind, Example

ROOT = Path(scaffold.__file__).resolve().parents[2]


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", *command]
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)


def test_a_new_defense_is_fedavg(tmp_path: Path) -> None:
    files = new_defense("scaffolded_average", tmp_path / "made")
    assert files.method == tmp_path / "made" / "scaffolded_average.py"
    assert not files.in_project
    rule = load_defense(files.method)
    info = defenses.get("scaffolded_average").info
    assert (info.title, info.stages) == ("Scaffolded average", (Stage.AGGREGATE,))
    updates, context = one_round(torch.randn(7, 50, generator=torch.Generator().manual_seed(0)), counts=range(1, 8))
    mine, plain = rule.aggregate(updates, context), Defense().aggregate(updates, context)
    assert torch.equal(mine.update, plain.update)
    assert mine.weights is not None
    assert plain.weights is not None
    assert torch.equal(mine.weights, plain.weights)


def test_a_new_attack_is_unaligned_data(tmp_path: Path) -> None:
    attack = load_attack(new_attack("scaffolded_attack", tmp_path).method)
    plain = attacks.get("unaligned_data").create()
    normal = [Example(f"fruit {i}", "apple", DataKind.NORMAL, "question") for i in range(30)]
    rows = []
    for each in (attack, plain):
        pool = each.pool(practice_resources(), np.random.default_rng(3))
        rows.append((pool, each.poison(normal, pool, np.random.default_rng(4))))
    assert rows[0] == rows[1]
    half = attacks.get("scaffolded_attack").create({"normal_share": 0.5})
    assert half.poison(normal, rows[0][0], np.random.default_rng(5)) == attacks.get("unaligned_data").create(
        {"normal_share": 0.5}
    ).poison(normal, rows[0][0], np.random.default_rng(5))


@pytest.mark.slow
def test_the_tests_that_come_with_new_methods_pass(tmp_path: Path) -> None:
    new_defense("average_again", tmp_path)
    new_defense("at_every_moment", tmp_path, HOOKS)
    for hook in HOOKS:
        new_defense(f"only_{hook.replace('-', '_')}", tmp_path, (hook,))
    new_attack("data_again", tmp_path)
    result = run(tmp_path, "pytest", "-q", "-p", "no:cacheprovider")
    assert result.returncode == 0, result.stdout
    assert "20 passed" in result.stdout


@pytest.mark.slow
def test_a_changed_rule_makes_its_test_fail(tmp_path: Path) -> None:
    files = new_defense("first_only", tmp_path)
    text = files.method.read_text()
    changed = text.replace("return Aggregate(weights.to", "weights[1:] = 0\n        return Aggregate(weights.to")
    assert changed != text
    files.method.write_text(changed)
    result = run(tmp_path, "pytest", "-q", "-p", "no:cacheprovider")
    assert result.returncode == 1
    assert "test_a_round_worked_by_hand" in result.stdout


def test_written_files_keep_the_style_of_the_house(tmp_path: Path) -> None:
    new_defense("styled", tmp_path)
    new_defense("styled_all", tmp_path, HOOKS)
    new_defense("styled_plain", tmp_path, tuple(hook for hook in HOOKS if hook != WITH_SERVER))
    new_defense("styled_server", tmp_path, (WITH_SERVER,))
    new_attack("styled_attack", tmp_path)
    settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    for command in (["check", "--ignore", "D1,S101,I001"], ["format", "--check"]):
        result = run(tmp_path, "ruff", *command, *settings, ".")
        assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("kind", ["defense", "attack"])
def test_in_the_project_the_test_goes_where_tests_are(tmp_path: Path, kind: str) -> None:
    """A test beside the methods would be taken for a method."""
    package = tmp_path / f"{kind}s"
    package.mkdir()
    shutil.copy(ROOT / package.name / "base.py", package)
    (tmp_path / "tests" / package.name).mkdir(parents=True)
    files = new_defense("in_project", package) if kind == "defense" else new_attack("in_project", package)
    assert files.in_project
    assert files.method == package / "in_project.py"
    assert files.test == tmp_path / "tests" / package.name / "test_in_project.py"
    assert f'load_{kind}("in_project")' in files.test.read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My-Defense", "'My-Defense' cannot be an id.*try 'my_defense'"),
        ("2fast", "begins with a letter; try 'fast'"),
        ("", "cannot be an id"),
        ("a/b", "try 'a_b'"),
        ("class", "a keyword of Python"),
        ("test_mine", "by which pytest finds tests; try 'mine'"),
        ("krum", "defense 'krum' exists and is built-in; try 'my_krum'"),
        ("base", "a module of the project, defenses/base.py"),
        ("torch", "would hide"),
        ("verified_rule", "id 'verified_rule' has the word 'verified'.*choose an id without this word"),
        ("fed_avg", "gives the title 'Fed avg', which defense 'fedavg' .'FedAvg'. has; try 'my_fed_avg'"),
        ("a" * 61, "has 61 characters; an id has at most 60; shorten it"),
        ("statistics", "would hide"),
    ],
)
def test_ids_that_cannot_be_are_refused_with_a_way_out(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        new_defense(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_attack_may_not_take_an_attack_s_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="attack 'boosted_data' exists and is built-in"):
        new_attack("boosted_data", tmp_path)


@pytest.mark.parametrize("there", ["mine.py", "test_mine.py"])
def test_existing_files_are_never_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("keep me")
    with pytest.raises(UsageError, match=f"{there} exists and is not overwritten"):
        new_defense("mine", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "keep me"


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write .*; choose another --folder"):
        new_defense("mine", tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_misspelt_hook_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown hook 'agregate'; did you mean 'aggregate'"):
        new_defense("mine", tmp_path, ("agregate",))


def test_a_rule_with_the_server_declares_it_and_follows_the_server_s_gradient(tmp_path: Path) -> None:
    rule = load_defense(new_defense("scaffolded_root", tmp_path, ("aggregate", WITH_SERVER)).method)
    info = defenses.get("scaffolded_root").info
    assert (info.stages, info.asks_server) == ((Stage.AGGREGATE,), True)
    server = practice_server()
    gradient, _ = server.gradient(server.start(), server.owned_normal(32))
    updates, context = one_round(torch.stack([-gradient, gradient, -2 * gradient]), counts=[1, 9, 3], server=server)
    result = rule.aggregate(updates, context)
    assert result.weights is not None
    assert result.weights.tolist() == [0.25, 0.0, 0.75]
    torch.testing.assert_close(result.update, -1.75 * gradient)


def test_a_new_file_is_found_as_a_submission(tmp_path: Path) -> None:
    files = new_defense("found_again", tmp_path)
    submission = find_method(str(files.method))
    assert (submission.kind, submission.id, submission.module) == (DEFENSE, "found_again", "defenses.found_again")
