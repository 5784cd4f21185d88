"""The benchmarks' contenders on a pretended device: only a GPU runs them otherwise, and a slip costs its time."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tmor_fast.benchmark import Settings
from tmor_fast.benchmark.case import load_file

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the repository's benchmarks are not beside the tests")


def load(name: str, **options: str) -> tuple[ModuleType, Settings]:
    """A claim file, and its settings for a GPU."""
    module = load_file(FOLDER / f"{name}.py")
    return module, module.CLAIM.settle(Settings(device="cuda", options=options))


def on_cpu(result: dict[str, Any]) -> dict[str, Any]:
    """What the worker hands to the check."""
    return {name: value.cpu() for name, value in result.items()}


def assert_right(facts: dict[str, dict[str, Any]], *contenders: str) -> None:
    assert set(contenders) <= set(facts)
    assert all("wrong" not in found for found in facts.values()), facts


def test_infonce(device: torch.device) -> None:
    module, settings = load("infonce")
    for setup in (module._products, lambda n, s, tile: module._reference(n, s, False)):
        setup(700, settings, 300)()
    queries, keys = 20, 700
    outputs = {
        "tmor_fast, tiled": module._half_bank(queries, keys, settings, "tiled")(),
        "logits, eager": module._half_reference(queries, keys, settings)(),
        "logits, eager, bf16": module._half_reference(queries, keys, settings, True)(),
    }
    module._half_products(queries, keys, settings, 300)()
    facts = module._half_check({name: on_cpu(value) for name, value in outputs.items()}, queries, keys, settings)
    assert_right(facts, "tmor_fast, tiled")


@pytest.mark.parametrize("bank", ["float32", "bfloat16"])
def test_a_step_of_the_losses(bank: str, device: torch.device) -> None:
    module, settings = load("infonce_step")
    step = module.Step(700, 20, bank)
    outputs = {
        "tmor_fast, tiled": on_cpu(module._step(step, settings, "tiled")()),
        "logits, eager": on_cpu(module._step(step, settings, "reference")()),
    }
    assert_right(module._step_check(outputs, bank), *outputs)
    if bank == "float32":
        outputs = {
            "tmor_fast, tiled": on_cpu(module._objective(700, settings, "tiled")()),
            "logits, eager": on_cpu(module._objective(700, settings, "reference")()),
        }
        assert_right(module._step_check(outputs), *outputs)
        module._objective(700, settings, "projections")()


@pytest.mark.parametrize("work", ["forward", "gradients"])
def test_dependency_attention(work: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    module, settings = load("dependency_attention")
    monkeypatch.setattr(module, "FRAMES", 6)
    monkeypatch.setitem(module.CLIPS, "cuda", 2)
    outputs = {
        "tmor_fast": on_cpu(module._ours(8, work, settings)()),
        "released, eager": on_cpu(module._peer(8, work, settings, False)()),
    }
    assert all(value.dtype == torch.bfloat16 for value in outputs["tmor_fast"].values())
    assert_right(module._check(outputs, 8, work, settings), *outputs)


@pytest.mark.parametrize("work", ["inference", "training"])
def test_unik(work: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    from tmor_fast.nn import UNIKConfig

    module, settings = load("unik")
    config = UNIKConfig(joints=5, widths=(8, 8, 12), strides=(1, 1, 2), persons=1, num_classes=4)
    monkeypatch.setattr(module, "_config", lambda settings: config)
    monkeypatch.setattr(module, "FRAMES", 12)
    monkeypatch.setattr(module, "CLASSES", 4)
    setup = module._training if work == "training" else module._inference
    outputs = {
        name: on_cpu(setup(3, released, form, settings)())
        for name, released, form in (
            ("tmor_fast", False, ""), ("released, eager", True, ""), ("released, channels-last", True, "channels-last"),
            ("tmor_fast, bf16", False, "bf16"),
        )
    }  # fmt: skip
    assert_right(module._check(outputs, work, 3, settings), *outputs)


@pytest.mark.parametrize("half", [False, True])
def test_pretraining(half: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    module, settings = load("pretraining")
    monkeypatch.setitem(module.SIZES, "cuda", ("unik-micro", 8, 40, 6))
    outputs = {
        "tmor_fast": on_cpu(module._step(settings, half)()),
        "reference equations": on_cpu(module._step(settings, half, "reference")()),
        "encoder alone": on_cpu(module._step(settings, half, "encoder")()),
    }
    assert_right(module._check(outputs), "tmor_fast", "reference equations")


def test_dbscan(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    module, settings = load("dbscan")
    monkeypatch.setattr(module, "CENTRES", 20)
    problem = module.Problem("clusters", 500, 64)
    outputs = {
        "tmor_fast": on_cpu(module._ours(problem, "cuda")()),
        "torch, neighbours counted in fp32": on_cpu(module._counts(problem, "fp32", "cuda")()),
    }
    facts = module._check(outputs, problem, settings)
    assert_right(facts, "tmor_fast")
    assert facts["torch, neighbours counted in fp32"] == {"core points": "differ in 0"}
    sampled = module.CLAIM.settle(Settings(device="cuda", options={"verify_limit": "100"}))
    assert_right(module._check(outputs, problem, sampled), "tmor_fast")
