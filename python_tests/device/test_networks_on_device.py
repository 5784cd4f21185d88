"""Networks, batches and evaluation on a pretended CUDA device give what they give on the CPU."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from pretended_cuda import Pretended
from torch import Tensor

from tmor_fast.data import augment
from tmor_fast.data.clip_batches import AugmentationConfig, ClipBatches
from tmor_fast.data.packed import PackedClips
from tmor_fast.data.streams import bone_stream, motion_stream
from tmor_fast.evaluation import zero_shot as naming
from tmor_fast.evaluation.average_precision import detection_report
from tmor_fast.evaluation.charades import point_scores
from tmor_fast.evaluation.features import embed_in_batches
from tmor_fast.evaluation.fusion import fuse_scores
from tmor_fast.evaluation.metrics import classification_report
from tmor_fast.evaluation.pku_mmd import frames_to_segments
from tmor_fast.evaluation.streaming import ClassificationMetrics
from tmor_fast.evaluation.tsu import FrameMAP
from tmor_fast.nn import for_inference, unik
from tmor_fast.nn.options import TMOROptions
from tmor_fast.nn.tmor import TMOR
from tmor_fast.nn.unik import UNIK
from tmor_fast.nn.unik_config import UNIKConfig

EVERYTHING = AugmentationConfig(
    frames=12, rotation_degrees=20, scale=0.2, shift=0.1, mirror=0.5, random_move=True, jitter=0.01
)


def same(there: Tensor, here: Tensor, device: torch.device, **tolerance: float) -> None:
    """Assert that `there` is on the device and has the values of `here`."""
    assert there.device == device
    torch.testing.assert_close(there.detach().cpu(), here.detach(), **tolerance)


def clips(count: int, persons: int = 1, empty: bool = True) -> Tensor:
    """(N, 2, 12, 17, M) random clips; with two persons the second of the first two clips is nobody."""
    joints = torch.randn(count, 2, 12, 17, persons, generator=torch.Generator().manual_seed(1))
    if persons > 1 and empty:
        joints[:2, ..., 1] = 0
    return joints


def encoder(persons: int = 1, **settings: object) -> UNIK:
    torch.manual_seed(0)
    return UNIK(UNIKConfig.preset("unik-micro", persons=persons, num_classes=4, **settings))


@pytest.mark.parametrize("persons", [1, 2])
@pytest.mark.parametrize("average", ["all", "present"])
def test_unik_in_eval_mode(persons: int, average: str, device: torch.device, monkeypatch: pytest.MonkeyPatch):
    model = encoder(persons, person_average=average).eval()
    joints = clips(3, persons)
    with torch.no_grad():
        expected, frames = model(joints), model.frame_features(joints, upsample=True)
        folded = for_inference(model)
        # Empty persons are spared for plain tensors alone, which these would be on a GPU.
        monkeypatch.setattr(unik, "Tensor", Pretended)
        for made in (
            copy.deepcopy(model).to(device),
            for_inference(copy.deepcopy(model).to(device)),
            folded.to(device),
        ):
            same(made(joints.to(device)), expected, device, rtol=1e-4, atol=1e-4)
            same(made.frame_features(joints.to(device), upsample=True), frames, device, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "checkpointing"), [({}, False), ({"tau": 3}, False), ({"person_average": "present"}, True)]
)
def test_unik_learns(settings: dict[str, object], checkpointing: bool, device: torch.device):
    here = encoder(2, **settings)
    here.checkpointing = checkpointing
    there = copy.deepcopy(here).to(device)
    joints, labels = clips(4, 2), torch.tensor([0, 1, 2, 3])
    for model, place in ((here, torch.device("cpu")), (there, device)):
        optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
        loss = torch.nn.functional.cross_entropy(model(joints.to(place)), labels.to(place))
        loss.backward()
        optimiser.step()
    for (name, value), expected in zip(there.named_parameters(), here.parameters(), strict=True):
        same(value, expected, device, rtol=1e-3, atol=1e-4)
        if expected.grad is not None:
            torch.testing.assert_close(value.grad.cpu(), expected.grad, rtol=2e-3, atol=2e-3, msg=name)
    for value, expected in zip(there.buffers(), here.buffers(), strict=True):
        same(value, expected, device, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", ["fc", "tcn"])
def test_frames_are_classified(head: str, device: torch.device):
    torch.manual_seed(0)
    model = (
        TMOR(UNIKConfig.preset("unik-micro", persons=1), TMOROptions(detection_head=head)).frame_classifier(5).eval()
    )
    joints = clips(2)
    expected = model(joints)
    there = copy.deepcopy(model).to(device)
    scores = there(joints.to(device))
    same(scores, expected, device, rtol=1e-4, atol=1e-4)
    scores.square().mean().backward()
    assert all(p.grad.device == device for p in there.head.parameters())


@pytest.mark.parametrize("sampling", ["resample", "window"])
@pytest.mark.parametrize(("channels", "stream"), [(2, "joint"), (2, "bone"), (3, "joint")])
def test_batches_are_made_where_the_clips_are(
    sampling: str, channels: int, stream: str, packed3d: PackedClips, packed2d: PackedClips, device: torch.device
):
    given = [packed3d] if channels == 3 else [packed3d, packed2d, PackedClips.concatenate([packed3d, packed2d])]
    for packed in given:
        here = ClipBatches(packed, replace(EVERYTHING, sampling=sampling), channels=channels, stream=stream)
        there = ClipBatches(packed.to(device), here.augmentation, channels=channels, stream=stream)
        index = torch.tensor([1, 0, len(packed) - 1])
        for place in (torch.device("cpu"), device):
            same(there.plain(index.to(place), view=2), here.plain(index, view=2), device)
            for crop in (True, False):
                draws = [torch.Generator().manual_seed(5) for _ in range(2)]
                same(
                    there.random(index.to(place), draws[0], crop=crop), here.random(index, draws[1], crop=crop), device
                )


def test_a_generator_of_the_device_draws_there(packed3d: PackedClips, device: torch.device):
    batches = ClipBatches(packed3d.to(device), EVERYTHING)
    drawn = [batches.random(torch.arange(3), torch.Generator(device).manual_seed(seed)).cpu() for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_packed_clips_are_handled_on_the_device(
    packed3d: PackedClips, packed2d: PackedClips, device: torch.device, tmp_path
):
    there = packed3d.to(device)
    for chosen in ([3, 1], torch.tensor([3, 1]), torch.tensor([3, 1], device=device), packed3d.label.numpy() == 1,
                   there.label == 1):  # fmt: skip
        expected = chosen.cpu() if isinstance(chosen, Tensor) else chosen
        same(there.subset(chosen).joints, packed3d.subset(expected).joints, device)
    both = PackedClips.concatenate([there, packed2d.to(device)])
    same(both.joints, PackedClips.concatenate([packed3d, packed2d]).joints, device)
    same(both.embeddings["video"], PackedClips.concatenate([packed3d, packed2d]).embeddings["video"], device)
    same(there.has_embedding("video"), packed3d.has_embedding("video"), device)
    there.save(tmp_path / "packed")
    assert torch.equal(PackedClips.open(tmp_path / "packed").joints, packed3d.joints)


def test_augmentations_by_themselves(packed3d: PackedClips, device: torch.device):
    joints = ClipBatches(packed3d, replace(EVERYTHING, frames=6), channels=3).plain(torch.arange(4))
    for change in (
        lambda x: augment.random_mirror(x, packed3d.layout, 0.5, torch.Generator().manual_seed(0)),
        lambda x: augment.mirror(x, packed3d.layout, torch.tensor([True, False, True, False])),
        lambda x: augment.random_scale(x, generator=torch.Generator().manual_seed(0)),
        lambda x: augment.random_move(x, torch.Generator().manual_seed(0)),
        lambda x: augment.project(x, torch.ones(4), torch.zeros(4), torch.tensor([True, False, True, False])),
        lambda x: bone_stream(x, packed3d.layout),
        motion_stream,
    ):
        same(change(joints.to(device)), change(joints), device)


@pytest.mark.parametrize("kind", ["features", "projection"])
def test_clips_are_embedded(kind: str, packed3d: PackedClips, device: torch.device):
    torch.manual_seed(0)
    model = TMOR(UNIKConfig.preset("unik-micro", persons=1), TMOROptions(embedding_dim=8))
    there = copy.deepcopy(model).to(device)
    here = ClipBatches(packed3d, EVERYTHING)
    expected = embed_in_batches(model, here, kind=kind, batch_size=7)
    drawn = embed_in_batches(model, here, kind=kind, generator=torch.Generator().manual_seed(1))
    # The clips may stay on the CPU.
    for packed in (packed3d, packed3d.to(device)):
        batches = ClipBatches(packed, EVERYTHING)
        same(embed_in_batches(there, batches, kind=kind, batch_size=7), expected, device, rtol=1e-4, atol=1e-4)
        again = embed_in_batches(there, batches, kind=kind, generator=torch.Generator().manual_seed(1))
        same(again, drawn, device, rtol=1e-4, atol=1e-4)


def test_zero_shot_by_embeddings(device: torch.device):
    draw = torch.Generator().manual_seed(0)
    motion, visual, text = (torch.randn(n, 8, generator=draw) for n in (6, 6, 5))
    visual[1] = 0
    owner = torch.tensor([0, 1, 2, 2, 0])
    for seen in (None, visual):
        for fuse in ("embedding", "score"):
            expected = naming.zero_shot_scores(motion, text, seen, fuse=fuse)
            moved = None if seen is None else seen.to(device)
            same(naming.zero_shot_scores(motion.to(device), text.to(device), moved, fuse=fuse), expected, device)
    expected = naming.class_embeddings(text, owner, 3)
    same(naming.class_embeddings(text.to(device), owner, 3), expected, device)
    labels, scores = torch.tensor([0, 1, 2, 3, 4, 1]), motion @ text.T
    for unseen in ([1, 3], torch.tensor([1, 3]), torch.tensor([1, 3], device=device)):
        for side, wanted in zip(
            naming.split_by_class(labels.to(device), unseen), naming.split_by_class(labels, [1, 3]), strict=True
        ):
            same(side, wanted, device)
    kept = torch.isin(labels, torch.tensor([1, 3]))
    expected = naming.restrict_classes(scores[kept], labels[kept], [1, 3])
    found = naming.restrict_classes(scores[kept].to(device), labels[kept], torch.tensor([1, 3]))
    for there, here in zip(found, expected, strict=True):
        same(there, here, device)


def test_metrics_take_scores_of_the_device(device: torch.device):
    draw = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(20, 6, generator=draw), torch.randint(6, (20,), generator=draw)
    expected = classification_report(scores, labels).to_dict()
    assert classification_report(scores.to(device), labels).to_dict() == expected
    assert classification_report(scores.to(device), labels.to(device)).to_dict() == expected
    for place in (torch.device("cpu"), device):
        metric = ClassificationMetrics(6).to(place)
        metric.update(scores.to(device), labels.to(device))
        assert metric.report().to_dict() == expected
        assert {name: float(v) for name, v in metric.compute().items()}["top1"] == pytest.approx(expected["top1"])
    positive = scores > 0.3
    wanted = detection_report(scores, positive, protocol="tsu").to_dict()
    assert detection_report(scores.to(device), positive.to(device), protocol="tsu").to_dict() == wanted
    fused = fuse_scores([scores, scores.flip(0)])
    same(fuse_scores([scores.to(device), scores.flip(0).to(device)]), fused, device)


def test_detection_takes_scores_of_the_device(device: torch.device):
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(48, 4, generator=draw).softmax(1)
    assert frames_to_segments(scores.to(device), "clip") == frames_to_segments(scores, "clip")
    same(point_scores(scores.to(device), 2.0), point_scores(scores, 2.0), device)
    labels = scores > 0.3
    reports = []
    for place in (torch.device("cpu"), device):
        metric = FrameMAP(4)
        metric.update(scores.to(place), labels.to(place))
        reports.append(metric.compute().to_dict())
    assert reports[0] == reports[1]
