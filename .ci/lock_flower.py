"""Write requirements-flower.lock; `make lock` runs this in a scratch environment of its own.

Flower's pins contradict vLLM's (protobuf, rich, typer, packaging), so the environment of the Flower strategy's tests
has a lock of its own. It holds what this package's defenses import and what a Flower simulation needs, and nothing of
the rest of this package's requirements.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

from lock import ROOT, TORCH, closure, pip, write
from packaging.requirements import Requirement

LOCK = ROOT / "requirements-flower.lock"
NEEDED = ("flwr[simulation]>=1.41,<2", "numpy>=2.0", "pydantic>=2.11", "pytest>=9.2")


def main() -> None:
    """Resolve, install into this interpreter's environment, write the lock."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    wanted = [*build, *NEEDED]
    with TemporaryDirectory() as folder:
        constraints = Path(folder) / "pins.txt"
        constraints.write_text(TORCH.read_text() + (LOCK.read_text() if LOCK.exists() else ""))
        pip("install", "-r", str(TORCH), "-c", str(constraints))
        pip("install", "-c", str(constraints), *wanted)
    write(
        LOCK, closure([*map(Requirement, wanted), Requirement("torch")]), "the Flower strategy's tests, without torch"
    )


if __name__ == "__main__":
    main()
