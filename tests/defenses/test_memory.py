"""A rule needs little memory beside the updates, so that it scales as far as they do."""

from __future__ import annotations

import subprocess
import sys

import pytest

PARTICIPANTS, DIMENSION = 10, 1_048_576
CARRIED = {"foolsgold": 1, "centered_clipping": 1 / PARTICIPANTS}
"""Copies of the updates that a rule keeps for the next round."""

SCRIPT = f"""
import resource, sys
from dataclasses import replace
import torch
from benchmark.updates import AdapterLayout
from defenses._examples import one_round
from defenses.base import defenses

rule = defenses.get(sys.argv[1]).create()
# A small round first, so that libraries are loaded and threads have started.
defenses.get(sys.argv[1]).create().aggregate(*one_round(torch.randn({PARTICIPANTS}, 50_000), malicious=3))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = peak()
matrix = torch.empty({PARTICIPANTS}, {DIMENSION}).normal_(generator=torch.Generator().manual_seed(0))
matrix[0] += 20
updates, context = one_round(matrix, malicious=3)
# The adapter has many tensors, as a real one, because some rules work tensor by tensor.
layout = AdapterLayout(tuple(f"layer{{index}}.lora_A" for index in range(32)), ((64, 512),) * 32)
rule.aggregate(replace(updates, layout=layout), context)
print((peak() - before) * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the peak resident size is read with a POSIX call")
@pytest.mark.parametrize("rule", [
    "fedavg", "median", "trimmed_mean", "krum", "multi_krum", "krum_one_neighbour", "dnc", "foolsgold", "norm_clipping",
    "residual", "geometric_median", "centered_clipping", "bulyan", "nearest_neighbour_mixing", "norm_clipping_noise",
    "flame", "freqfed", "lasa",
])  # fmt: skip
@pytest.mark.slow
def test_peak_is_below_1_3_times_the_updates(rule):
    run = subprocess.run([sys.executable, "-c", SCRIPT, rule], capture_output=True, text=True, check=True, timeout=300)
    updates = PARTICIPANTS * DIMENSION * 4
    assert int(run.stdout) / updates - CARRIED.get(rule, 0) < 1.3
