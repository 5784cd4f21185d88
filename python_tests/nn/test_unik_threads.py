"""UNIK's backward pass with two threads leaves memory whole (oneDNN's strided 1x1 weight gradient did not)."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import torch
from tmor_fast.nn import UNIK, UNIKConfig
torch.set_num_threads(2)
torch.manual_seed(0)
for widths in ((8, 16), (8, 12), (16, 32)):
    model = UNIK(UNIKConfig(widths=widths, strides=(1, 2), persons=1)).train()
    for frames in (7, 8, 16):
        model.features(torch.randn(3, 2, frames, 17, 1)).sum().backward()
print("whole")
"""


def test_training_a_small_encoder_on_two_threads_survives():
    # A process of its own: the fault corrupted the heap and ended the interpreter.
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-500:]
    assert run.stdout.strip() == "whole"
