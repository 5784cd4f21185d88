"""What only shows when clips are compared: names that repeat, motion in both splits, units that differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from tmor_fast.data.check.clips import body_extent, clip_extent
from tmor_fast.data.check.findings import Finding
from tmor_fast.data.ragged import ClipBatch

#: Bodies this many times larger or smaller than most are in another unit: metres among millimetres, not a child.
UNITS_RATIO = 20.0
MIN_CLIPS = 3


class AcrossClips:
    """Takes clips in batch by batch and keeps a few numbers of each."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, str]] = {}  # clip_id -> file, split
        self._motion: dict[bytes, tuple[str, str]] = {}  # digest of the joints -> clip_id, split
        self._sizes: list[np.ndarray] = []
        self._names: list[str] = []
        self._files: list[str] = []
        self._wordless: list[int] = []

    def add(self, batch: ClipBatch, file: str = "") -> list[Finding]:
        """Remember the clips of a batch.

        Returns:
            Findings that clips met before bring about: repeated names, the same motion in training and test.
        """
        found: list[Finding] = []
        finite = batch.valid & np.isfinite(batch.joints).all(axis=-1)
        self._sizes.append(clip_extent(batch, body_extent(batch.joints, finite)))
        for number, name in enumerate(batch.clip_id):
            split = str(batch.columns["split"][number] or "")
            repeated = list(self._repeated(name, split, file))
            found += repeated
            if not repeated and split in ("train", "test"):
                found += self._leaked(batch, number, split, file)
            if not batch.columns["caption"][number]:
                self._wordless.append(len(self._names))
            self._names.append(name)
            self._files.append(file)
        return found

    def _repeated(self, name: str, split: str, file: str) -> Iterator[Finding]:
        if not name:
            yield Finding("error", "clip-id", "a clip has no name", "give every clip a unique clip_id", file=file)
            return
        if name not in self._first:
            self._first[name] = (file, split)
            return
        other, first = self._first[name]
        if {first, split} == {"train", "test"}:
            what, kind = "the clip is in training and in test", "leakage"
        else:
            what, kind = "the name occurs twice", "duplicate-id"
        where = f" (first in {other})" if other != file else ""
        yield Finding("error", kind, what + where, "keep one of the two, or rename it", file=file, clip=name)

    def _leaked(self, batch: ClipBatch, number: int, split: str, file: str) -> Iterator[Finding]:
        frames = slice(int(batch.offsets[number]), int(batch.offsets[number + 1]))
        persons = int(batch.persons[number])
        digest = hashlib.blake2b(batch.joints[frames, :persons].tobytes(), digest_size=16).digest()
        name = batch.clip_id[number]
        other, first = self._motion.setdefault(digest, (name, split))
        if first != split and other != name:
            what = f"exactly the motion of clip {other!r} of the split {first!r}"
            yield Finding("warning", "leakage", what, "keep it in one split only", file=file, clip=name)

    def finish(self) -> list[Finding]:
        """Findings about all clips together: captions that are missing, bodies in another unit."""
        return [*self._captions(), *self._units()]

    def _captions(self) -> Iterator[Finding]:
        remedy = "aligning motion with text (stage 2) and zero-shot need one for every clip"
        if self._names and len(self._wordless) == len(self._names):
            yield Finding("warning", "caption", f"none of {len(self._names)} clips has a caption", remedy)
            return
        for number in self._wordless:
            yield Finding(
                "warning", "caption", "no caption", remedy, file=self._files[number], clip=self._names[number]
            )

    def _units(self) -> Iterator[Finding]:
        size = np.concatenate(self._sizes) if self._sizes else np.empty(0)
        known = size > 0
        if known.sum() < MIN_CLIPS:
            return
        typical = float(np.median(size[known]))
        with np.errstate(invalid="ignore"):
            odd = known & ((size > UNITS_RATIO * typical) | (size < typical / UNITS_RATIO))
        for number in np.flatnonzero(odd).tolist():
            yield Finding(
                "warning",
                "mixed-units",
                f"a body {size[number]:.3g} units across where most have {typical:.3g}",
                "bring all clips to one unit",
                file=self._files[number],
                clip=self._names[number],
            )
