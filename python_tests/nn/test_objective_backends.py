"""Pre-training steps with the compiled kernel of cluster_infonce against the same steps with its reference equation."""

from __future__ import annotations

import functools
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from tmor_fast.build import compiled
from tmor_fast.nn.objective import Objective, TeacherFeatures
from tmor_fast.nn.options import TMOROptions
from tmor_fast.nn.tmor import TMOR
from tmor_fast.nn.unik_config import UNIKConfig
from tmor_fast.ops import cluster_infonce

SAMPLES, BATCH, FRAMES, STEPS = 48, 12, 8, 6
TINY = UNIKConfig.preset("unik-tiny", widths=(8, 16), strides=(1, 2), persons=1)

pytestmark = pytest.mark.skipif(
    compiled("cluster_infonce", "cpu") is not None, reason="the compiled module is not there"
)


def build(**options: Any) -> Objective:
    torch.manual_seed(0)
    teachers = TeacherFeatures(video=torch.randn(SAMPLES, 6), text=torch.randn(5, 4), text_id=torch.arange(SAMPLES) % 5)
    settings = TMOROptions(**{"embedding_dim": 16, "head_hidden": 16, "learn_temperature": True, **options})
    objective = Objective(TMOR(TINY, settings, video_dim=6, text_dim=4), SAMPLES, teachers)
    objective.set_clusters(torch.arange(SAMPLES) % 7 - 1)
    return objective


def pretrain(**options: Any) -> list[dict[str, float]]:
    """The losses of a few stage-2 steps of AdamW on noise."""
    objective = build(**options)
    optimiser = torch.optim.AdamW(objective.model.parameters(), lr=1e-3)
    random = torch.Generator().manual_seed(1)

    def clips() -> Tensor:
        return torch.randn(BATCH, 2, FRAMES, 17, 1, generator=random)

    found = []
    for _ in range(STEPS):
        index = torch.randperm(SAMPLES, generator=random)[:BATCH]
        parts = objective(clips(), clips(), index, stage=2)
        optimiser.zero_grad()
        parts["loss"].backward()
        optimiser.step()
        objective.after_step()
        found.append({name: value.item() for name, value in parts.items()})
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positives": "supcon", "max_positives": None, "cross_positives": "cluster"},
        {"denominator": "negatives", "symmetric": True, "bank_dtype": "float32"},
    ],
    ids=["defaults", "supcon", "symmetric"],
)
def test_losses_are_those_of_the_reference(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    module, calls = sys.modules["tmor_fast.ops.cluster_infonce"], []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return kernel(*arguments)

    kernel = module.cpu_forward  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "cpu_forward", counted)
    ours = pretrain(**options)
    assert len(calls) >= 3 * STEPS - 2, "backend='auto' took something else"
    ran = len(calls)
    reference = functools.partial(cluster_infonce, backend="reference")
    monkeypatch.setattr("tmor_fast.nn.objective.ops.cluster_infonce", reference)
    exact = pretrain(**options)
    assert len(calls) == ran
    assert {"loss", "mm", "mv", "mt"} == set(exact[-1])
    for step, (found, wanted) in enumerate(zip(ours, exact, strict=True)):
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5), f"step {step}"
    assert exact[0]["loss"] != pytest.approx(exact[-1]["loss"], rel=1e-3), "nothing was learnt in between"
