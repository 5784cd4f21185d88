"""Learning-rate schedules by hand."""

from __future__ import annotations

import pytest
import torch

from tmor_fast.training.config import OptimiserConfig
from tmor_fast.training.optimiser import build_optimiser, rate_factor


def test_cosine_falls_from_one_to_zero():
    config = OptimiserConfig(epochs=4)
    values = [rate_factor(step, config, 10) for step in (0, 20, 40, 50)]
    assert values == pytest.approx([1.0, 0.5, 0.0, 0.0])


def test_steps_fall_at_the_milestones():
    config = OptimiserConfig(schedule="steps", milestones=(2, 3), epochs=4)
    values = [rate_factor(step, config, 10) for step in (0, 19, 20, 29, 30)]
    assert values == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_warmup_rises_then_the_schedule_starts():
    config = OptimiserConfig(warmup_epochs=1, epochs=3)
    assert [rate_factor(step, config, 4) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_the_rate_scales_with_the_batch_only_if_asked():
    weight = torch.nn.Parameter(torch.zeros(1))
    frozen = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
    scaled = build_optimiser([weight, frozen], OptimiserConfig(rate=0.1, batch_size=64), 1)["optimizer"]
    fixed = build_optimiser([weight], OptimiserConfig(name="adamw", rate=0.1, batch_size=64, scale_rate=False), 1)
    assert scaled.param_groups[0]["initial_lr"] == pytest.approx(0.025)
    assert fixed["optimizer"].param_groups[0]["initial_lr"] == pytest.approx(0.1)
    assert scaled.param_groups[0]["params"] == [weight]
