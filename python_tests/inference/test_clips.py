"""What cannot be taken is refused, with the place and the remedy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tmor_fast.data.clip import Clip
from tmor_fast.data.store import ClipStore
from tmor_fast.errors import DataError
from tmor_fast.inference import ActionModel

UNIK = {"layout": "unik17"}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((17, 2), r"shape \(17, 2\); accepted: one clip"),
        ((4, 17, 4), r"shape \(4, 17, 4\); accepted"),
        ((4, 17, 1), "accepted"),
        ((2, 2, 4, 1, 17, 2), "accepted"),
        ((0, 17, 2), "at least one frame"),
        ((4, 0, 17, 2), "at least one frame, person"),
        ((3, 0, 1, 17, 2), "at least one frame"),
        ((8, 100, 17, 2), r"8 frames of 100 persons; a batch of clips of one person is \(N, T, 1, V, C\)"),
        ((4, 13, 2), "layout 'unik17' has 17 joints, the clips have 13"),
    ],
)
def test_shapes(model: ActionModel, shape: tuple[int, ...], message: str):
    with pytest.raises(ValueError, match=message):
        model.predict(np.zeros(shape), **UNIK)
    with pytest.raises(ValueError, match=message):
        model.embed(torch.zeros(shape), **UNIK)


@pytest.mark.parametrize(
    ("joints", "message"),
    [
        ("clips.npz", "must be a numpy array, a torch tensor or a list of them, got str"),
        (None, "got NoneType"),
        ([[[1.0, 2.0]] * 17], r"joints\[0\] must be a numpy array or a torch tensor, got list"),
        (np.zeros((4, 17, 2), dtype=complex), "real numbers, got complex"),
        (np.zeros((4, 17, 2), dtype=bool), "real numbers, got bool"),
        (np.zeros((4, 17, 2), dtype=object), "real numbers, got object"),
        (torch.zeros(4, 17, 2, dtype=torch.bool), "real numbers, got torch.bool"),
        (torch.zeros(4, 17, 2, dtype=torch.complex64), "real numbers"),
    ],
)
def test_types(model: ActionModel, joints: Any, message: str):
    with pytest.raises(TypeError, match=message):
        model.predict(joints, **UNIK)


def test_lists_hold_clips_of_one_kind(model: ActionModel, clip: np.ndarray):
    with pytest.raises(ValueError, match=r"joints\[1\] has shape \(1, 12, 1, 17, 2\); a list holds clips"):
        model.predict([clip, clip[None, :, None]], **UNIK)
    with pytest.raises(ValueError, match=r"share joints and coordinates, got \(V, C\) of \[\(13, 2\), \(17, 2\)\]"):
        model.predict([clip, clip[:, :13]], **UNIK)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"valid": np.ones((12, 16), bool)}, ValueError, r"valid of clip 0 has shape \(12, 1, 16\)"),
        ({"valid": np.ones((12, 17))}, TypeError, "must be bool"),
        ({"valid": "all"}, TypeError, "got str"),
        ({"valid": [np.ones((12, 17), bool)] * 2}, TypeError, "got list"),
        ({"confidence": np.ones((12, 17), bool)}, TypeError, r"numbers in \[0, 1\]"),
        ({"confidence": np.full((12, 17), 1.5)}, ValueError, "runs from 1.5 to 1.5"),
        ({"confidence": np.full((12, 17), np.nan)}, ValueError, r"must be in \[0, 1\]"),
        ({"confidence": np.ones((11, 17))}, ValueError, "confidence of clip 0 has shape"),
        ({"min_confidence": 2.0}, ValueError, "accepted: 0 to 1"),
        ({"clip_ids": ["a", "b"]}, ValueError, "clip_ids must be 1 strings"),
        ({"image_size": (640, 0)}, ValueError, "image_size"),
        ({"units": "inches"}, ValueError, "accepted: pixels, metres, normalised"),
        ({"fps": 0.0}, ValueError, "fps 0.0 must be a positive number"),
        ({"fps": float("nan")}, ValueError, "positive"),
        ({"top": 0}, ValueError, "top must be"),
        ({"views": 0}, ValueError, "views must be"),
        ({"batch_size": 2.5}, ValueError, "batch_size must be"),
        ({"layout": "cocoa"}, ValueError, "unknown skeleton layout 'cocoa'"),
        ({"layout": "penn13"}, ValueError, "has 13 joints, the clips have 17"),
        ({"actions": ["walk"]}, ValueError, "is a classifier of 4 actions and knows no others"),
    ],
)
def test_options(model: ActionModel, clip: np.ndarray, options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        model.predict(clip, **{**UNIK, **options})


def test_lists_of_masks_are_nested_as_the_clips(model: ActionModel, clip: np.ndarray):
    mask = np.ones(clip.shape[:2], dtype=bool)
    first, second = model.predict([clip, clip], **UNIK, valid=[None, mask])
    assert first.scores == second.scores
    with pytest.raises(ValueError, match="valid is given for 1 clips, joints for 2"):
        model.predict([clip, clip], **UNIK, valid=[mask])
    batch = np.stack((clip, clip))[:, :, None]
    assert len(model.predict(batch, **UNIK, valid=np.stack((mask, mask))[:, :, None])) == 2
    with pytest.raises(ValueError, match="nest them in the same way"):
        model.predict(batch, **UNIK, valid=mask)


def test_a_clip_that_shows_nobody_is_named(model: ActionModel, clip: np.ndarray):
    nothing = np.full_like(clip, np.nan)
    with pytest.raises(DataError, match=r"clip 'clip-1': no joint is present in any of its 12 frames"):
        model.predict([clip, nothing], **UNIK)
    with pytest.raises(DataError, match=r"clip 'door'"):
        model.predict(clip, **UNIK, valid=np.zeros(clip.shape[:2], dtype=bool), clip_ids="door")
    behind = np.stack((nothing, clip), axis=1)
    with pytest.raises(DataError, match=r"sees 1 person\(s\) and the first 1 of 2 show no joint"):
        model.predict(behind, **UNIK)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_infinite_values_are_named(model: ActionModel, clip: np.ndarray, value: float):
    wrong = clip.astype(np.float64)
    wrong[7, 3, 1] = value
    with pytest.raises(DataError, match=r"clip 'a': frame 7, person 0, joint 'chest'"):
        model.predict(wrong, **UNIK, clip_ids="a")
    # What is not valid may be anything.
    valid = np.ones(clip.shape[:2], dtype=bool)
    valid[7, 3] = False
    assert model.predict(wrong, **UNIK, valid=valid) == model.predict(clip, **UNIK, valid=valid)


def test_confidence_in_the_place_of_depth_is_noticed(model: ActionModel, clip: np.ndarray):
    weight = np.random.default_rng(0).uniform(0, 1, clip.shape[:2])
    triples = np.concatenate((clip, weight[..., None]), axis=-1)
    with pytest.raises(ValueError, match=r"look like \(x, y, confidence\); pass joints\[..., :2\]"):
        model.predict(triples, **UNIK)
    model.predict(triples, **UNIK, units="pixels")
    # Metres do not reach so far.
    model.predict(triples / np.array([400, 400, 1]), **UNIK)


def test_clips_bring_what_arrays_are_told(model: ActionModel, store2d: ClipStore, store3d: ClipStore):
    stored = store2d[0]
    with pytest.raises(ValueError, match="valid, units: stored clips bring these with them"):
        model.predict(stored, valid=stored.valid, units="pixels")
    with pytest.raises(ValueError, match="layout 'penn13' was asked for, but the clips are"):
        model.predict(store2d, layout="penn13")
    with pytest.raises(ValueError, match="share layout, coordinates and units"):
        model.predict([stored, store3d[0]])
    with pytest.raises(TypeError, match=r"joints\[1\] must be a numpy array or a torch tensor, got Clip"):
        model.predict([stored.joints, stored], **UNIK)
    broken = replace(stored, joints=stored.joints.copy())
    broken.joints[2, 0, 4] = np.nan
    broken.valid[2, 0, 4] = True
    with pytest.raises(DataError, match=r"frame 2, person 0, joint"):
        model.predict([stored, broken])
    unknown = Clip(stored.joints, stored.valid, "nowhere", "c", "pixels")
    with pytest.raises(ValueError, match="nowhere"):
        model.predict(unknown)
