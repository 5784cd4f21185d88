"""Few-shot transfer: which share of the labelled training clips is used.

The papers say "5 % / 10 %, randomly selected" and give no seeds. Here the draw is stratified by class, seeded, does
not depend on the order of the clips, and is saved as a list of clip ids so that others can use the same clips.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from tmor_fast.errors import DataError
from tmor_fast.evaluation.saving import save_json

Strategy = Literal["stratified", "uniform"]


@dataclass(frozen=True)
class FewShotSelection:
    """The clips of one draw.

    Attributes:
        clip_ids: the chosen clips, sorted.
        share: share of the clips asked for, in (0, 1].
        seed: seed of the draw.
        strategy: "stratified" or "uniform".
        available: number of labelled clips drawn from.
    """

    clip_ids: tuple[str, ...]
    share: float
    seed: int
    strategy: Strategy
    available: int

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the selection as JSON; the file appears only when it is complete."""
        return save_json(path, {**asdict(self), "clip_ids": list(self.clip_ids)})

    @staticmethod
    def load(path: str | os.PathLike[str]) -> FewShotSelection:
        """Read a selection that `save` wrote.

        Raises:
            DataError: the file is no such selection.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            ids = values["clip_ids"]
            if not isinstance(ids, list) or not all(isinstance(clip, str) for clip in ids):
                raise TypeError("clip_ids must be a list of strings")
            return FewShotSelection(
                tuple(ids), float(values["share"]), int(values["seed"]), values["strategy"], int(values["available"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path} is no few-shot selection ({error}); write it with FewShotSelection.save"
            ) from error

    def indices(self, clip_ids: Sequence[str]) -> Tensor:
        """Positions of the chosen clips in `clip_ids`, ascending: (m,) int64.

        Raises:
            DataError: a chosen clip is not there.
        """
        position = {clip: index for index, clip in enumerate(clip_ids)}
        lost = [clip for clip in self.clip_ids if clip not in position]
        if lost:
            raise DataError(
                f"few-shot selection: {len(lost)} of {len(self.clip_ids)} clips are not in the data set, "
                f"the first is {lost[0]!r}; use the data set it was drawn from"
            )
        return torch.tensor(sorted(position[clip] for clip in self.clip_ids), dtype=torch.int64)


def select_few_shot(
    clip_ids: Sequence[str],
    labels: Tensor | Sequence[int],
    share: float,
    *,
    seed: int = 0,
    strategy: Strategy = "stratified",
) -> FewShotSelection:
    """Draw a share of the labelled clips.

    With one seed a smaller share is a subset of a larger one. Clips are ordered by id before the draw, so their order
    in the data set does not matter. Unlabelled clips (label -1) are never drawn.

    Args:
        clip_ids: n different ids of training clips.
        labels: (n,) class of each clip, -1 for none.
        share: in (0, 1], e.g. 0.05.
        seed: of the draw.
        strategy: "stratified" takes round(share * count), half up, of every class but at least 1; "uniform" takes
            round(share * n), half up, of all clips but at least 1, so that rare classes may be missing.

    Returns:
        The selection.

    Raises:
        ValueError: a share outside (0, 1], an unknown strategy, lengths that differ or no labelled clip.
        DataError: a clip id occurs twice.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"select_few_shot: share must be in (0, 1], got {share}; 5 % is 0.05")
    if strategy not in ("stratified", "uniform"):
        raise ValueError(f"select_few_shot: strategy must be 'stratified' or 'uniform', got {strategy!r}")
    classes = [int(label) for label in labels]
    if len(classes) != len(clip_ids):
        raise ValueError(f"select_few_shot: {len(clip_ids)} clip ids and {len(classes)} labels")
    seen: set[str] = set()
    for clip in clip_ids:
        if clip in seen:
            raise DataError(f"select_few_shot: clip id {clip!r} occurs twice; clip ids must differ")
        seen.add(clip)
    groups: dict[int, list[str]] = {}
    for clip, label in sorted(zip(clip_ids, classes, strict=True)):
        if label >= 0:
            groups.setdefault(label if strategy == "stratified" else 0, []).append(clip)
    if not groups:
        raise ValueError("select_few_shot: no clip has a label")
    generator = torch.Generator().manual_seed(seed)
    chosen: list[str] = []
    for label in sorted(groups):
        members = groups[label]
        # The permutation does not depend on the share, hence nested selections.
        order = torch.randperm(len(members), generator=generator).tolist()
        count = max(1, math.floor(share * len(members) + 0.5))
        chosen.extend(members[position] for position in order[:count])
    return FewShotSelection(tuple(sorted(chosen)), share, seed, strategy, sum(map(len, groups.values())))
