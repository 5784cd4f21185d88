"""The drop-in losses against the libraries whose losses they replace; each test skips where its library is absent."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tmor_fast.nn import ClipLoss, InfoNCELoss, NTXentLoss, SupConLoss

SIZES = (1, 2, 5, 32)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor) -> None:
    inputs = tuple(value.requires_grad_() for value in inputs)
    got, expected = ours(*inputs), theirs(*inputs)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
    gradients = torch.autograd.grad(got, inputs)
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_clip_is_open_clips(size: int, scale: float):
    open_clip = pytest.importorskip("open_clip")
    image, text = F.normalize(rows(size, 16), dim=1), F.normalize(rows(size, 16, seed=1), dim=1)
    factor = torch.tensor(scale, dtype=torch.float64)
    assert_same(ClipLoss(), open_clip.ClipLoss(), image, text, factor)
    bias = torch.tensor(-10.0, dtype=torch.float64)
    # open_clip adds the bias in place.
    assert_same(ClipLoss(), open_clip.ClipLoss(), image.detach(), text.detach(), factor.detach(), bias)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
def test_ntxent_is_lightlys(size: int, temperature: float):
    lightly = pytest.importorskip("lightly.loss")
    theirs = lightly.NTXentLoss(temperature=temperature)
    assert_same(NTXentLoss(temperature), theirs, rows(size, 16), rows(size, 16, seed=1))


def test_infonce_with_a_queue_is_lightlys_memory_bank():
    lightly = pytest.importorskip("lightly.loss")
    theirs = lightly.NTXentLoss(temperature=0.1, memory_bank_size=(24, 16)).double()
    theirs(rows(4, 16), rows(4, 16))
    queue = theirs.memory_bank.bank.double().clone()
    queue = queue if queue.shape[-1] == 16 else queue.T
    # out1 has no gradient there, as MoCo's keys have none.
    key = rows(6, 16, seed=1)
    assert_same(lambda q: InfoNCELoss(0.1)(q, key, queue), lambda q: theirs(q, key), rows(6, 16, seed=2))


@pytest.mark.parametrize("labels", [[0, 1, 0, 1, 2, 2, 0], [0, 0, 0], [0, 1, 2], [-4, 5, -4], [3], [0, 0, 1, 2, 3, 3]])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_supcon_is_pytorch_metric_learnings(labels: list[int], temperature: float):
    library = pytest.importorskip("pytorch_metric_learning.losses")
    theirs, label = library.SupConLoss(temperature=temperature), torch.tensor(labels)
    ours = SupConLoss(temperature)
    assert_same(lambda e: ours(e, label), lambda e: theirs(e, label), rows(len(labels), 8))
    others, other_labels = rows(6, 8, seed=1), torch.tensor([0, 1, 5, 0, 3, 3])
    assert_same(
        lambda e, o: ours(e, label, o, other_labels),
        lambda e, o: theirs(e, label, ref_emb=o, ref_labels=other_labels),
        rows(len(labels), 8), others,
    )  # fmt: skip


@pytest.mark.parametrize("size", SIZES[1:])
def test_ntxent_is_pytorch_metric_learnings_for_pairs(size: int):
    library = pytest.importorskip("pytorch_metric_learning.losses")
    theirs, label = library.NTXentLoss(temperature=0.3), torch.arange(size).repeat(2)
    first, second = rows(size, 8), rows(size, 8, seed=1)
    assert_same(NTXentLoss(0.3), lambda a, b: theirs(torch.cat((a, b)), label), first, second)
