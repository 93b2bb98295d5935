"""vLLM engines come and go in one process, and an interrupt leaves through them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .tiny_model import TinyModel, save_random_model

PROGRAM = """
import os, signal, sys, threading
from pathlib import Path
import torch
# A parent that ignores Ctrl-C, such as a background job, hands that down.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
from benchmark.errors import FedSafetyError
from benchmark.generation.base import Request
from benchmark.generation.transformers_engine import TransformersEngine
from benchmark.generation.vllm_engine import VllmEngine

first, second = Path(sys.argv[1]), Path(sys.argv[2])
requests = [Request((1, 3, 9, token, 4), 6) for token in range(10, 30)]
truth = {}
for folder in (first, second):
    with TransformersEngine(folder, device="cpu") as engine:
        truth[folder] = [a.token_ids for a in engine.generate(requests)]
assert truth[first] != truth[second]

def answers(engine):
    return [a.token_ids for a in engine.generate(requests)]

for folder in (first, second, first):
    with VllmEngine(folder) as engine:
        assert answers(engine) == truth[folder], folder
torch.set_num_threads(2)
assert torch.get_num_threads() == 2, "vLLM keeps hold of the thread count"
torch.set_num_threads(1)

one, two = VllmEngine(first), VllmEngine(second)
two.close()
assert answers(one) == truth[first], "closing one engine broke another"
one.close()
try:
    answers(one)
except FedSafetyError as error:
    assert "closed" in str(error)
else:
    raise AssertionError("a closed engine answered")

engine = VllmEngine(first)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    while True:
        engine.generate([Request((1, 3, 9, 4), 50)] * 400)
except KeyboardInterrupt:
    pass
try:
    answers(engine)
except FedSafetyError:
    pass
else:
    raise AssertionError("an interrupted engine went on")
with VllmEngine(second) as engine:
    assert answers(engine) == truth[second]
print("all went well")
"""


@pytest.mark.vllm
@pytest.mark.exhaustive
def test_engines_come_and_go_in_one_process(tiny: TinyModel, tmp_path: Path) -> None:
    second = save_random_model(tmp_path / "second", seed=4, width=96, heads=3)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tiny.folder), str(second)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("all went well")
