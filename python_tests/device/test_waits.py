"""How often a training step would wait for a GPU: a change that adds a wait is seen here, on a machine without one."""

from __future__ import annotations

import pytest
import torch
from pretended_cuda import Wait, record_waits
from torch import Tensor

from tmor_fast.data.clip_batches import AugmentationConfig, ClipBatches
from tmor_fast.data.packed import PackedClips
from tmor_fast.nn.objective import Objective, TeacherFeatures
from tmor_fast.nn.options import TMOROptions
from tmor_fast.nn.tmor import TMOR
from tmor_fast.nn.unik import UNIK
from tmor_fast.nn.unik_config import UNIKConfig

N = 16
COPY = "pageable host to device copy"


def places(found: list[Wait]) -> list[str]:
    """The files in which the waits are, and what waits."""
    return [f"{wait.where.partition(':')[0]} {wait.what}" for wait in found]


def clips(device: torch.device, persons: int = 1) -> Tensor:
    return torch.randn(4, 2, 8, 17, persons).to(device)


@pytest.mark.parametrize("persons", [1, 2])
def test_unik_never_waits_in_training(persons: int, device: torch.device):
    model = UNIK(UNIKConfig.preset("unik-micro", persons=persons, num_classes=4)).to(device)
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    joints, labels = clips(device, persons), torch.arange(4).to(device)
    with record_waits() as waits:
        torch.nn.functional.cross_entropy(model(joints), labels).backward()
        optimiser.step()
    assert not waits.found, str(waits)


@pytest.mark.parametrize(("stage", "most"), [(1, 3), (2, 4)])
def test_the_objective_waits_for_the_sizes_of_its_banks_alone(stage: int, most: int, device: torch.device):
    model = TMOR(UNIKConfig.preset("unik-micro", persons=1), TMOROptions(embedding_dim=8), video_dim=6, text_dim=5)
    teachers = TeacherFeatures(torch.randn(N, 6), torch.randn(3, 5), torch.arange(N) % 3)
    objective = Objective(model, N, teachers).to(device)
    objective.bank.update(torch.arange(N), torch.randn(N, 8))
    objective.set_clusters(torch.arange(N) % 4)
    query, key, index = clips(device), clips(device), torch.tensor([1, 5, 9, 3]).to(device)
    with record_waits() as waits:
        objective(query, key, index, stage=stage)["loss"].backward()
        objective.after_step()
    # The step counter, the filled rows of the motion bank, who in the batch has video, and who has text.
    assert len(waits.found) <= most, str(waits)
    assert set(places(waits.found)) == {
        "nn/objective.py aten::_local_scalar_dense", "nn/objective.py aten::nonzero",
    }, str(waits)  # fmt: skip


def test_batches_copy_what_a_cpu_generator_draws_and_wait_for_nothing_else(packed3d: PackedClips, device: torch.device):
    everything = AugmentationConfig(
        frames=8, rotation_degrees=20, scale=0.2, shift=0.1, mirror=0.5, random_move=True, jitter=0.01
    )
    batches = ClipBatches(packed3d.to(device), everything)
    index = torch.arange(3).to(device)
    for make in (lambda: batches.plain(index), lambda: batches.random(index, torch.Generator())):
        make()  # moves the tables of the clips
        with record_waits() as waits:
            make()
        assert {wait.what for wait in waits.found} <= {COPY}, str(waits)
    assert len(waits.found) <= 14, str(waits)
    generator = torch.Generator(device)
    with record_waits() as waits:
        batches.random(index, generator)
    # The tables of random moves and of mirrored joints.
    assert len(waits.found) <= 5, str(waits)
