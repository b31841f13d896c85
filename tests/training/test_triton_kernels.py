"""The Triton kernels give what the plain products give; here in Triton's interpreter, on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="comes with torch's CUDA builds")

SCRIPT = """
import json, torch
from saesteer.training import kernels as plain, triton_kernels as fast

torch.manual_seed(0)
worst = {}
def note(name, wanted, got):
    gap = (wanted - got).abs().max() / wanted.abs().max()
    worst[name] = max(worst.get(name, 0.0), float(gap))

for width in (40, 128, 200):
    bags = torch.sort(torch.randint(0, 9, (70,))).values
    bags = bags[bags != 3]  # a bag without entries
    features = torch.randint(0, 30, (len(bags),))
    active = plain.Active.of(bags, features, 9)
    weight, left, scale = torch.randn(30, width), torch.randn(9, width), torch.randn(len(bags))
    sums = plain.bag_sums(weight, features, active.starts, scale)
    note("bag_sums", sums, fast.bag_sums(weight, features, active.starts, scale))
    dots = plain.bag_dots(left, weight, active)
    note("bag_dots", dots, fast.bag_dots(left, weight, bags, features))
    ordered, order = torch.sort(features, stable=True)
    edges = torch.searchsorted(ordered, torch.arange(31))
    inputs = torch.randn(9, 24)
    given = (inputs, left, bags[order], bags[order], scale, scale * 2, edges)
    for name, wanted, got in zip("ed.", plain.gradients(*given), fast.gradients(*given)):
        note("gradients." + name, wanted, got)
    rows = torch.nn.functional.normalize(weight, dim=-1)
    one = torch.randn(30, width)
    other = one.clone()
    plain.drop_along_(one, rows), fast.drop_along_(other, rows)
    note("drop_along_", one, other)
    one, other = weight.clone(), weight.clone()
    plain.to_unit_(one), fast.to_unit_(other)
    note("to_unit_", one, other)
print(json.dumps(worst))
"""


def test_every_kernel_agrees_with_its_plain_product():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", SCRIPT]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    worst = json.loads(ran.stdout)
    assert len(worst) == 7
    assert all(gap < 2e-6 for gap in worst.values()), worst
