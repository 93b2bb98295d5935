"""The real-data check: ``python -m benchmark.proof.check --data-root DIR [--work DIR] [--quick]``.

Trains a small model on real text and takes a small federation of it from local files to a page, by the commands that a
user types, then examines what they left. Exits 0 if everything holds, 1 if something does not, 2 on wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import FedSafetyError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check with command-line arguments; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.proof.check", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the public data files")
    parser.add_argument("--work", type=Path, default=Path("runs/plumbing"), help="folder of model, rows and page")
    parser.add_argument("--quick", action="store_true", help="a smaller model, fewer rounds, probes and defenses")
    parser.add_argument("--engine", default="auto", help="generation engine: auto, vllm or transformers")
    chosen = parser.parse_args(arguments)
    # Read when PyTorch is loaded, hence before the imports below: threads that spin while they wait for each other
    # take tens of times as long where another program uses the processors, too.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # warnings about memory binding, inside the display
    from rich.console import Console

    from benchmark.progress import Reporter
    from benchmark.proof.proof import FULL, QUICK, prove

    try:
        findings = prove(
            chosen.data_root, chosen.work, QUICK if chosen.quick else FULL, chosen.engine, Reporter(Console())
        )
    except FedSafetyError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("stopped; what is finished is kept, and the same command resumes\n")
        return 130
    return 0 if all(finding.holds for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
