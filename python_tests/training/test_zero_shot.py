"""Zero-shot: a model whose heads are set by hand names what it must, with motion, video and several captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tmor_fast.data.clip_batches import AugmentationConfig, ClipBatches
from tmor_fast.data.packed import PackedClips
from tmor_fast.evaluation.features import embed_in_batches
from tmor_fast.evaluation.zero_shot import embed_actions, zero_shot_scores
from tmor_fast.nn.options import TMOROptions
from tmor_fast.nn.tmor import TMOR
from tmor_fast.teachers import PrecomputedTeacher
from tmor_fast.training.config import BackboneConfig
from tmor_fast.training.zero_shot import zero_shot

AUGMENTATION = AugmentationConfig(frames=8, view_yaw_degrees=20)
ACTIONS = ("wave the left hand", "squat", "walk", "clap")


def one_hot(texts: Sequence[str]) -> PrecomputedTeacher:
    """Text i is the unit vector i."""
    return PrecomputedTeacher(torch.eye(len(texts)), list(texts))


class Oracle(nn.Module):
    """A backbone that reads the class from a mark in the input: the first joint's x in the first frame."""

    feature_dim = 4

    def __init__(self, config: object) -> None:
        super().__init__()
        self.config = config
        self.anchor = nn.Parameter(torch.zeros(1))

    def features(self, joints: Tensor) -> Tensor:
        return nn.functional.one_hot(joints[:, 0, 0, 0, 0].round().long(), 4).float()


@pytest.fixture
def marked(packed2d: PackedClips) -> PackedClips:
    """Clips whose every joint holds the class number."""
    clip = torch.repeat_interleave(torch.arange(len(packed2d)), packed2d.lengths)
    joints = torch.zeros_like(packed2d.joints) + packed2d.label[clip][:, None, None, None]
    return replace(packed2d, joints=joints.contiguous())


def by_hand(**options: object) -> TMOR:
    """Heads that map unit vector i of motion, video and text to unit vector i."""
    settings = TMOROptions(embedding_dim=4, head_layers=1, **options)
    model = TMOR(BackboneConfig(preset="unik-micro").build(17), settings, video_dim=4, text_dim=4)
    model.backbone = Oracle(model.backbone.config)  # type: ignore[assignment]
    model.motion_heads["motion"] = model._head(4)
    for head in (model.motion_heads["motion"], model.video_head, model.text_head):
        with torch.no_grad():
            head.mlp[0].weight.copy_(torch.eye(4))
            head.mlp[0].bias.zero_()
    return model.eval()


def run(model: TMOR, packed: PackedClips, *rest: object, **more: object):
    return zero_shot(model, packed, one_hot(ACTIONS), *rest, augmentation=AUGMENTATION, **more)  # type: ignore[arg-type]


def test_a_motion_feature_that_points_at_a_text_is_named_so(marked: PackedClips):
    result = run(by_hand(), marked)
    report = result.reports["motion"]
    assert (report.top1, report.mean_per_class) == (1.0, 1.0)
    assert report.num_samples == len(marked)
    assert result.actions == list(ACTIONS)
    assert result.chance == 0.25
    assert list(result.reports) == ["motion"]


def test_heads_that_point_elsewhere_name_elsewhere(marked: PackedClips):
    model = by_hand()
    with torch.no_grad():
        # Class i now points at text i + 1.
        model.motion_heads["motion"].mlp[0].weight.copy_(torch.eye(4).roll(1, 0))
    report = run(model, marked).reports["motion"]
    assert report.top1 == 0.0
    counts = torch.bincount(marked.label, minlength=4)
    confusion = torch.as_tensor(report.confusion)
    assert all(int(confusion[i, (i + 1) % 4]) == int(counts[i]) for i in range(4))


def test_only_the_named_actions_compete(marked: PackedClips):
    chosen = ["walk", "squat"]
    result = run(by_hand(), marked, chosen)
    wanted = [marked.label_names.index(name) for name in chosen]
    assert result.reports["motion"].num_samples == int(torch.isin(marked.label, torch.tensor(wanted)).sum())
    assert result.reports["motion"].top1 == 1.0
    assert (result.actions, result.chance) == (chosen, 0.5)


def test_several_captions_stand_for_an_action(marked: PackedClips):
    model = by_hand()
    captions = [["wave the left hand", "squat"], ["squat"], ["walk"], ["clap"]]
    embedded = embed_actions(model, one_hot(ACTIONS), captions)
    expected = torch.eye(4)
    expected[0] = torch.tensor([0.5**0.5, 0.5**0.5, 0.0, 0.0])
    torch.testing.assert_close(embedded, expected)
    # Underscores and hyphens of a name are words.
    torch.testing.assert_close(embed_actions(model, one_hot(ACTIONS), ["wave_the-left hand"]), torch.eye(4)[:1])
    # A squat is now nearest to its own text still.
    assert run(model, marked, captions=captions).reports["motion"].top1 == 1.0


def fooled(marked: PackedClips) -> PackedClips:
    """Video that shows the right class, on clips whose motion always says class 0."""
    video = 0.9 * torch.eye(4)[marked.label]
    return replace(marked, joints=torch.zeros_like(marked.joints), embeddings={"camera": video})


@pytest.mark.parametrize("fuse", ["embedding", "score"])
def test_video_joins_in(fuse: str, marked: PackedClips):
    clips = fooled(marked)
    clips.embeddings["camera"][:, 0] -= 0.2
    model = by_hand(zero_shot_fusion=fuse)
    result = run(model, clips, video="camera")
    assert list(result.reports) == ["motion", "motion+video"]
    share = float((clips.label == 0).float().mean())
    assert result.reports["motion"].top1 == pytest.approx(share)
    motion = torch.eye(4)[:1].expand(len(clips), -1)
    scores = zero_shot_scores(motion, torch.eye(4), clips.embeddings["camera"], fuse=fuse, temperature=0.1)
    expected = float((scores.argmax(1) == clips.label).float().mean())
    assert result.reports["motion+video"].top1 == pytest.approx(expected)


def test_video_that_agrees_corrects_motion(marked: PackedClips):
    clips = fooled(marked)
    # Motion is undecided between its class 0 and nothing; clear video decides.
    model = by_hand()
    with torch.no_grad():
        model.motion_heads["motion"].mlp[0].weight.copy_(torch.full((4, 4), 0.5))
    result = run(model, clips, video="camera")
    assert result.reports["motion+video"].top1 == 1.0


def test_a_clip_without_video_is_named_by_motion_alone(marked: PackedClips):
    video = torch.eye(4)[(marked.label + 1) % 4] * 10
    video[::2] = 0
    model = by_hand()
    with torch.no_grad():
        # The bias must not give the missing video a direction of its own.
        model.video_head.mlp[0].bias.copy_(torch.tensor([0.0, 9.0, 0.0, 0.0]))
    clips = replace(marked, embeddings={"camera": video})
    report = run(model, clips.subset(range(0, len(clips), 2)), video="camera")
    assert report.reports["motion+video"].top1 == 1.0


def test_learned_temperature_and_headline(marked: PackedClips, recwarn: pytest.WarningsRecorder):
    clips = replace(marked, embeddings={"camera": torch.eye(4)[marked.label]})
    model = by_hand(learn_temperature=True, zero_shot_fusion="score", zero_shot_metric="mean_per_class")
    result = run(model, clips, video="camera")
    assert result.headline().splitlines() == [
        "motion: mean per class 100.0 % (chance 25.0 %)",
        "motion+video: mean per class 100.0 % (chance 25.0 %)",
    ]
    assert set(result.to_dict()) == {"actions", "chance", "reports", "predictions"}
    assert not [w for w in recwarn if "requires_grad" in str(w.message)]


def test_views_are_averaged(packed: PackedClips):
    torch.manual_seed(0)
    settings = TMOROptions(embedding_dim=4, head_hidden=8)
    model = TMOR(BackboneConfig(preset="unik-micro").build(17), settings, text_dim=4).eval()
    clips = packed.subset(range(12))
    result = run(model, clips, views=3)
    batches = ClipBatches(clips, AUGMENTATION)
    motion = sum(embed_in_batches(model, batches, kind="projection", view=view) for view in range(3))
    text = embed_actions(model, one_hot(ACTIONS), ACTIONS)
    named = zero_shot_scores(motion, text).argmax(1)
    assert result.reports["motion"].top1 == pytest.approx(float((named == clips.label).float().mean()))


def test_what_is_refused(marked: PackedClips):
    model = by_hand()
    with pytest.raises(ValueError, match=r"'fly'; it has: wave the left hand, squat, walk, clap"):
        run(model, marked, ["walk", "fly"])
    unlabelled = replace(marked, label=torch.full_like(marked.label, -1))
    with pytest.raises(ValueError, match="no clip of the data set shows"):
        run(model, unlabelled)
    model.text_head = None
    with pytest.raises(ValueError, match="stage 2"):
        run(model, marked)
