"""The view inside, where the benchmark is installed as any package is, beside plug-ins and packages of others."""

from __future__ import annotations

import json
import shutil
import subprocess
import venv
from pathlib import Path

import packaging
import pytest

import benchmark
from benchmark.sandbox import layout
from benchmark.sandbox.isolation import Isolation

pytestmark = pytest.mark.sandbox

INSIDE = """
import importlib.metadata, importlib.util, json, os, sys
names = ["benchmark", "defenses", "leaderboard", "tasks.micro", "their_plugin", "their_module", "innocent", "packaging"]
def found(name):
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return False
    return spec is not None and spec.origin is not None and os.path.getsize(spec.origin) > 0
points = [point.name for each in importlib.metadata.distributions() for point in each.entry_points]
print(json.dumps([[name for name in names if found(name)], [p for p in sys.argv[1:] if os.path.exists(p)], points]))
"""

OUTSIDE = """
import sys
from pathlib import Path
from benchmark.sandbox.isolation import find_isolation, start
from benchmark.sandbox.limits import Limits
files = {"/fedsafety/inside.py": Path(sys.argv[2])}
with start(find_isolation(sys.argv[1]), "inside", sys.argv[3:], visible=files, limits=Limits()) as process:
    process.wait(60)
    print(process.output())
"""


def install(site: Path, name: str, files: dict[str, str], entry_points: str = "") -> None:
    """Write what an installer would."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    texts = {f"{info.name}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", **files}
    if entry_points:
        texts[f"{info.name}/entry_points.txt"] = entry_points
    for path, text in texts.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in [*texts, f"{info.name}/RECORD"]))


def test_installed_benchmark_and_plug_ins_are_hidden_and_nothing_else(isolation: Isolation, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    root = Path(benchmark.__file__).parents[1]
    own = {}
    for package in ("attacks", "benchmark", "defenses", "leaderboard", "tasks"):
        for file in (root / package).rglob("*.py"):
            own[str(file.relative_to(root))] = file.read_text()
    own["tasks/micro/checkpoints/secret.json"] = "{}"
    install(site, "FedSafetyBench", own)
    plugin = {"their_plugin/__init__.py": "x = 1", "their_plugin/deep/data.txt": "secret", "their_module.py": "x = 1"}
    install(site, "their-plugin", plugin, "[fedsafety.defenses]\ntheirs = their_plugin\n")
    install(
        site,
        "innocent",
        {"innocent/__init__.py": "x = 1", "innocent/data.txt": ""},
        "[console_scripts]\nx = innocent:x\n",
    )
    shutil.copytree(Path(packaging.__file__).parent, site / "packaging")
    for name, text in (("inside", INSIDE), ("outside", OUTSIDE)):
        (tmp_path / f"{name}.py").write_text(text)
    data = [
        site / "innocent/data.txt",
        site / "their_plugin/deep/data.txt",
        site / "tasks/micro/checkpoints/secret.json",
        site / "benchmark/judges/base.py",
        site / "their_plugin-1.0.dist-info/METADATA",
    ]
    python = tmp_path / "venv" / "bin" / "python"
    command = [python, tmp_path / "outside.py", isolation.name, tmp_path / "inside.py", *data]
    said = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False, cwd="/")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout) == [["innocent", "packaging"], [str(data[0])], ["x"]]


def test_parents_stand_before_children_and_nothing_twice() -> None:
    mounts = layout.layout({})
    targets = [mount.target for mount in mounts]
    assert len(targets) == len(set(targets))
    for place, target in enumerate(targets):
        assert not [later for later in targets[place + 1 :] if Path(target).is_relative_to(later)]


def test_the_checkout_is_no_part_of_the_view() -> None:
    root = Path(benchmark.__file__).resolve().parents[1]
    boot = str(root / "benchmark" / "sandbox" / "boot.py")
    sources = {Path(mount.source) for mount in layout.layout({}) if mount.kind is layout.Kind.BIND}
    assert not [source for source in sources if root.is_relative_to(source)]
    own = {source for source in sources if source.is_relative_to(root) and str(source) != boot}
    assert not [
        source for source in own if source.relative_to(root).parts[0] in {"benchmark", "results", "tests", "tasks"}
    ]
