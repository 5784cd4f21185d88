"""Image preprocessing of CLIP-like encoders in plain torch, driven by a checkpoint's own processor settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Pillow's resampling codes as the processors store them.
_RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class ImageTransform:
    """Resize, centre crop, rescale and normalise.

    Attributes:
        size: (height, width) to resize to, or one int for the shortest edge.
        crop: (height, width) of the centre crop after resizing, or None.
        resample: "bicubic", "bilinear" or "nearest".
        scale: factor that takes 0..255 to the range that mean and std expect.
        mean, std: one number a channel.
    """

    size: int | tuple[int, int]
    crop: tuple[int, int] | None = None
    resample: str = "bicubic"
    scale: float = 1 / 255
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    def __call__(self, images: Tensor) -> Tensor:
        """Pixel values for the encoder.

        Args:
            images: (B, H, W, 3) uint8 RGB.

        Returns:
            (B, 3, height, width) float32 on the device of the images.
        """
        pixels = images.permute(0, 3, 1, 2).float()
        height, width = self._resized(pixels.shape[2], pixels.shape[3])
        if (height, width) != tuple(pixels.shape[2:]):
            if self.resample == "nearest":
                pixels = functional.interpolate(pixels, (height, width), mode="nearest-exact")
            else:
                pixels = functional.interpolate(
                    pixels, (height, width), mode=self.resample, align_corners=False, antialias=True
                )
            pixels = pixels.round().clamp(0, 255)  # image libraries resize in 8 bits
        if self.crop is not None:
            pixels = _centre_crop(pixels, self.crop)
        mean = torch.tensor(self.mean, device=pixels.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, -1, 1, 1)
        return (pixels * self.scale - mean) / std

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.size, tuple):
            return self.size
        short, long = min(height, width), max(height, width)
        longer = int(self.size * long / short)
        return (self.size, longer) if height <= width else (longer, self.size)


def image_transform(
    options: Mapping[str, object], *, image_size: int, default_mean: tuple[float, ...]
) -> ImageTransform:
    """The transform that a `preprocessor_config.json` describes.

    Args:
        options: the content of the file; empty where a checkpoint has none.
        image_size: input size of the vision tower in pixels, used where `options` gives none.
        default_mean: mean where `options` gives none: CLIP's, or 0.5 for SigLIP (std follows).

    Raises:
        ValueError: the file asks for something that is not supported (named).
    """
    default_std = CLIP_STD if default_mean == CLIP_MEAN else default_mean
    size: int | tuple[int, int] = (image_size, image_size)
    if options.get("do_resize", True) and "size" in options:
        size = _size(options["size"])
    crop = None
    if options.get("do_center_crop", False):
        cropped = _size(options.get("crop_size", image_size))
        crop = (cropped, cropped) if isinstance(cropped, int) else cropped
    elif isinstance(size, int):
        # Without a crop the tower needs its own size; frames are square in practice.
        size = (size, size)
    code = options.get("resample", 3)
    if code not in _RESAMPLE:
        raise ValueError(f"resample code {code!r} of the image processor is not supported; supported: {_RESAMPLE}")
    normalise = bool(options.get("do_normalize", True))
    scale = options.get("rescale_factor", 1 / 255) if options.get("do_rescale", True) else 1.0
    return ImageTransform(
        size=size,
        crop=crop,
        resample=_RESAMPLE[int(str(code))],
        scale=float(str(scale)),
        mean=_channels(options.get("image_mean", default_mean)) if normalise else (0.0, 0.0, 0.0),
        std=_channels(options.get("image_std", default_std)) if normalise else (1.0, 1.0, 1.0),
    )


def patches(pixels: Tensor, patch_size: int) -> Tensor:
    """(B, 3, H, W) -> (B, H/p * W/p, p * p * 3), patches row by row, channels last inside a patch (SigLIP 2 NaFlex)."""
    batch, channels, height, width = pixels.shape
    rows, columns = height // patch_size, width // patch_size
    grid = pixels.view(batch, channels, rows, patch_size, columns, patch_size)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, patch_size * patch_size * channels)


def _size(value: object) -> int | tuple[int, int]:
    if isinstance(value, int):
        return value
    if isinstance(value, Mapping):
        if "height" in value and "width" in value:
            return int(value["height"]), int(value["width"])
        if "shortest_edge" in value:
            return int(value["shortest_edge"])
    raise ValueError(f"image size {value!r} is not supported; supported: an int, height and width, or shortest_edge")


def _channels(value: object) -> tuple[float, ...]:
    if isinstance(value, (int, float)):
        return (float(value),) * 3
    if isinstance(value, (list, tuple)) and len(value) == 3:
        return tuple(float(entry) for entry in value)
    raise ValueError(f"image mean and std must be a number or three numbers, got {value!r}")


def _centre_crop(pixels: Tensor, crop: tuple[int, int]) -> Tensor:
    height, width = crop
    short_rows, short_columns = max(0, height - pixels.shape[2]), max(0, width - pixels.shape[3])
    if short_rows or short_columns:  # smaller than the crop: black around it
        top, left = (short_rows + 1) // 2, (short_columns + 1) // 2
        pixels = functional.pad(pixels, (left, short_columns - left, top, short_rows - top))
    top, left = (pixels.shape[2] - height) // 2, (pixels.shape[3] - width) // 2
    return pixels[:, :, top : top + height, left : left + width]
