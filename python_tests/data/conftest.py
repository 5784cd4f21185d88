"""Small clips and stores that the tests of the data room share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tmor_fast.data import Clip, ClipStore, ClipStoreWriter, PackedClips, get_layout
from tmor_fast.data import layout as layouts


@pytest.fixture(autouse=True)
def known_layouts() -> Iterator[None]:
    """Layouts that a test registers, or a store that it opens, are forgotten after it."""
    known = dict(layouts._registry)
    yield
    layouts._registry.clear()
    layouts._registry.update(known)


def make_clip(
    seed: int = 0, frames: int = 6, persons: int = 1, layout: str = "unik17", channels: int = 2, **fields: object
) -> Clip:
    """A random clip, everything valid."""
    rng = np.random.default_rng(seed)
    shape = (frames, persons, get_layout(layout).num_joints)
    values: dict[str, object] = {
        "joints": rng.normal(size=(*shape, channels)).astype(np.float32),
        "valid": np.ones(shape, dtype=bool),
        "layout": layout,
        "clip_id": f"clip{seed}",
        "units": "pixels" if channels == 2 else "metres",
        **fields,
    }
    return Clip(**values)  # type: ignore[arg-type]


def make_packed(
    lengths: list[int], persons: int = 1, channels: int = 2, seed: int = 0, **fields: object
) -> PackedClips:
    """Random packed clips of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    frames, count = sum(lengths), len(lengths)
    values: dict[str, object] = {
        "joints": torch.randn(frames, persons, 17, channels, generator=generator),
        "valid": torch.ones(frames, persons, 17, dtype=torch.bool),
        "offsets": torch.tensor([0, *np.cumsum(lengths).tolist()]),
        "label": torch.arange(count) % 2,
        "planar": torch.full((count,), channels == 2),
        "clip_ids": [f"s{seed}-{i}" for i in range(count)],
        "captions": [f"caption {i}" for i in range(count)],
        "splits": ["train"] * count,
        "subjects": [""] * count,
        "views": [""] * count,
        "label_names": ["walk", "run"],
        "layout": get_layout("unik17"),
        **fields,
    }
    return PackedClips(**values)  # type: ignore[arg-type]


@pytest.fixture
def write_store(tmp_path: Path) -> Callable[..., ClipStore]:
    """Function that writes clips to a new store and opens it."""

    def write(clips: list[Clip], name: str = "store", **options: object) -> ClipStore:
        first = clips[0]
        settings: dict[str, object] = {
            "name": name,
            "layout": first.layout,
            "channels": first.joints.shape[3],
            "units": first.units,
            "label_names": ["walk", "run"],
            **options,
        }
        with ClipStoreWriter(tmp_path / name, **settings) as writer:  # type: ignore[arg-type]
            writer.add_many(clips)
        return ClipStore(tmp_path / name)

    return write


@pytest.fixture
def clip() -> Callable[..., Clip]:
    """`make_clip`."""
    return make_clip


@pytest.fixture
def packed() -> Callable[..., PackedClips]:
    """`make_packed`."""
    return make_packed
