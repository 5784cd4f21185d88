"""Image preprocessing against the library it replaces and against hand-worked cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tmor_fast.teachers.images import CLIP_MEAN, CLIP_STD, ImageTransform, image_transform, patches


def _pictures(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 6, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1) * 255
    return smooth.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80), (90, 60), (20, 30)])
def test_agrees_with_the_clip_processor(height: int, width: int) -> None:
    pytest.importorskip("PIL")
    transformers = pytest.importorskip("transformers")
    processor_class = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    processor = processor_class(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    images = _pictures(height, width)
    expected = processor(images=[image.numpy() for image in images], return_tensors="pt")["pixel_values"]
    options = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
    actual = image_transform(options, image_size=32, default_mean=CLIP_MEAN)(images)
    assert actual.shape == expected.shape
    # Image libraries round once an axis: two grey values, each 1 / 255 / std.
    assert (actual - expected).abs().max() <= 2.01 / 255 / min(CLIP_STD)
    assert (actual - expected).abs().mean() <= 0.25 / 255 / min(CLIP_STD)


def test_values_without_resizing() -> None:
    images = _pictures(8, 8)
    actual = image_transform({}, image_size=8, default_mean=(0.5, 0.5, 0.5))(images)
    torch.testing.assert_close(actual, images.permute(0, 3, 1, 2).float() / 255 * 2 - 1)


def test_switches_are_followed() -> None:
    images = _pictures(8, 8)
    options = {"do_resize": True, "size": 4, "do_rescale": False, "do_normalize": False, "resample": 2}
    actual = image_transform(options, image_size=16, default_mean=CLIP_MEAN)(images)
    assert actual.shape == (2, 3, 4, 4)
    assert actual.max() > 1
    assert torch.equal(actual, actual.round())


def test_small_images_are_padded_to_the_crop() -> None:
    transform = ImageTransform(size=(4, 4), crop=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
    actual = transform(torch.full((1, 4, 4, 3), 255, dtype=torch.uint8))
    assert actual.sum() == 3 * 16
    assert torch.equal(actual[0, :, 2:6, 2:6], torch.ones(3, 4, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"resample": 99}, "99"), ({"size": {"longest_edge": 3}}, "longest_edge"), ({"image_mean": "x"}, "mean and std")],
)
def test_unsupported_settings_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_transform(options, image_size=8, default_mean=CLIP_MEAN)


def test_patches_are_row_by_row_channels_last() -> None:
    pixels = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).view(2, 3, 4, 6)
    result = patches(pixels, 2)
    assert result.shape == (2, 6, 12)
    expected = pixels[1, :, 2:4, 2:4].permute(1, 2, 0).flatten()
    np.testing.assert_array_equal(result[1, 4], expected)
