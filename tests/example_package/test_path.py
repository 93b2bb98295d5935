"""The whole path of a submission, walked by the console command from an empty folder: by a package, by one file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import SandboxUnavailableError
from benchmark.sandbox.isolation import find_isolation

HERE = Path(__file__).parent
TINY = HERE.parent / "end_to_end" / "tiny.yaml"
ONE_CELL = ("--suite", "micro", "--scenario", "aligned_start", "--seed", "11", "--engine", "transformers")

pytestmark = pytest.mark.slow


class Stranger:
    """Somebody with the console command, an empty folder and perhaps a package of their own.

    Args:
        folder: The empty folder.
        packages: Folder of installed packages.
    """

    def __init__(self, folder: Path, packages: Path | None = None) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if name not in ("FEDSAFETY_RUNS", "PYTHONPATH")}
        self.environment = kept | ({"PYTHONPATH": str(packages)} if packages else {})

    def __call__(self, *arguments: str | Path) -> str:
        """Run a command of ``fedsafety``, which succeeds; returns what it printed."""
        return self.python("-m", "benchmark.cli.main", *arguments)

    def python(self, *arguments: str | Path) -> str:
        """Run Python, which succeeds; returns what it printed."""
        command = [sys.executable, "-P", *map(str, arguments)]
        environment = {**self.environment, "COLUMNS": "200"}
        result = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=1200
        )
        assert result.returncode == 0, f"{arguments}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
        return result.stdout

    def report(self, name: str) -> dict[str, Any]:
        """Return a report for machines."""
        found: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        return found


@pytest.fixture(autouse=True)
def _isolation() -> None:
    try:
        find_isolation()
    except SandboxUnavailableError as error:
        pytest.skip(f"no isolation works here: {str(error)[:200]}")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example package, installed by pip from a copy of its source."""
    source, folder = tmp_path_factory.mktemp("source") / "package", tmp_path_factory.mktemp("packages")
    shutil.copytree(HERE, source, ignore=shutil.ignore_patterns("__pycache__", "test_*"))
    pip = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(folder), str(source)]
    result = subprocess.run([sys.executable, "-P", "-m", *pip], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (folder / "example_methods" / "norms.py").is_file()
    return folder


def test_a_package_goes_from_its_entry_point_to_a_sampled_bundle(tmp_path: Path, packages: Path) -> None:
    fedsafety = Stranger(tmp_path, packages)
    listed = {entry["id"]: entry for entry in json.loads(fedsafety("list", "defenses", "--json"))["defenses"]}
    assert listed["small_half"]["origin"] == "example-methods"
    fedsafety("check", "small_half", "--json", "check.json")
    check = fedsafety.report("check.json")
    assert check["isolation"]["name"] in ("bubblewrap", "namespaces")
    verdicts = [finding["verdict"] for finding in check["findings"]]
    assert len(verdicts) > 20
    assert set(verdicts) <= {"passed", "warning"}
    assert "2 done" in fedsafety("run", *ONE_CELL, "--defense", "small_half")
    before = sorted(tmp_path.rglob("*"))
    difference = fedsafety("leaderboard", "--diff")
    assert "new: small_half" in difference
    assert "not run (seed 12" in difference
    assert sorted(tmp_path.rglob("*")) == before
    assert "small_half.zip" in fedsafety("submit", "small_half", "--check-report", "check.json")
    with zipfile.ZipFile(tmp_path / "small_half.zip") as bundle:
        assert any(name.endswith("example_methods/norms.py") for name in bundle.namelist())
    said = fedsafety("verify", "small_half.zip", "--cells", "1", "--json", "verify.json")
    assert "small_half: sampled" in said
    assert "new: small_half" in fedsafety("leaderboard", "--diff", "--with", "verified/small_half")
    made = {path.name for path in tmp_path.iterdir()} - {"verifying"}
    assert made == {"check.json", "runs", "small_half.zip", "verified", "verify.json"}


def test_an_attack_of_a_package_goes_from_its_entry_point_to_a_checked_bundle(tmp_path: Path, packages: Path) -> None:
    fedsafety = Stranger(tmp_path, packages)
    assert "louder" in fedsafety("list", "attacks")
    fedsafety("check", "louder", "--json", "check.json")
    assert {finding["verdict"] for finding in fedsafety.report("check.json")["findings"]} <= {"passed", "warning"}
    options = ("--suite", TINY, "--engine", "transformers", "--defense", "krum")
    fedsafety("run", *options, "--attack", "louder", "--base", "attacked")
    assert "louder.zip" in fedsafety("submit", "louder", "--suite", TINY)
    said = fedsafety("verify", "louder.zip", "--suite", TINY, "--level", "checked", "--results", "none")
    assert "louder: checked" in said


RULE = '''"""Mean of the updates that point where most of them point."""

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register, selection


@register(
    title="Same way",
    description="Averages the half of the updates that point most in the direction of the lower median.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class SameWay(Defense):
    """Keeps the ceil(n / 2) updates of largest cosine with the lower median of each coordinate."""

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the mean of the kept updates."""
        units = updates.matrix / updates.matrix.norm(dim=1, keepdim=True).clamp(min=1e-12)
        alike = units @ updates.matrix.median(dim=0).values
        kept = alike.argsort(descending=True, stable=True)[: (len(updates) + 1) // 2]
        return Aggregate(updates.matrix[kept].mean(dim=0), selection(kept, len(updates)))
'''


def test_a_file_goes_from_its_first_line_to_a_checked_bundle(tmp_path: Path) -> None:
    fedsafety = Stranger(tmp_path)
    fedsafety("new", "same_way")
    assert {path.name for path in tmp_path.iterdir()} == {"same_way.py", "test_same_way.py"}
    fedsafety.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_same_way.py")
    (tmp_path / "same_way.py").write_text(RULE, encoding="utf-8")
    said = fedsafety("check", "same_way", "--json", "check.json")
    assert "same_way: passed" in said
    assert "2 done" in fedsafety("run", *ONE_CELL, "--defense", "same_way")
    assert "new: same_way" in fedsafety("leaderboard", "--diff", "--defense", "same_way")
    assert "same_way.zip" in fedsafety("submit", "same_way", "--check-report", "check.json")
    said = fedsafety("verify", "same_way.zip", "--level", "checked")
    assert "same_way: checked" in said
