"""The README's picture: synthetic motion as it looks, and the recorded run on real skeletons as bars.

python benchmarks/overview.py        # reads benchmarks/results/real_data.json, writes benchmarks/results/overview.png
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from tmor_fast.data import get_layout
from tmor_fast.data.synthetic import generate

RESULTS = Path(__file__).parent / "results"
SHOWN = ("wave the right hand", "kick with the left leg", "squat", "do jumping jacks", "run", "bow")
LEFT, RIGHT, MIDDLE = "#d1495b", "#00798c", "#30343f"


def draw_motion(axis: Any, joints: np.ndarray, name: str) -> None:
    """One clip as a row of poses, earlier ones paler. joints: (T, 17, 2), x right, y up, metres."""
    layout = get_layout("unik17")
    side = {joint: colour for pair in layout.left_right for joint, colour in zip(pair, (LEFT, RIGHT), strict=True)}
    for place, frame in enumerate(np.linspace(0, len(joints) - 1, 7).astype(int)):
        pose = joints[frame] - joints[frame, 4] * (1, 0) + (place * 0.75, 0)
        for child, parent in layout.bones:
            axis.plot(
                pose[[child, parent], 0], pose[[child, parent], 1], color=side.get(child, MIDDLE), lw=2.2,
                alpha=0.35 + 0.65 * place / 6, solid_capstyle="round",
            )  # fmt: skip
        axis.scatter(*pose[0], s=42, color=MIDDLE, alpha=0.35 + 0.65 * place / 6, zorder=3)
    axis.set_title(name, fontsize=10, loc="left", color=MIDDLE)
    axis.margins(y=0.12)
    axis.set_aspect("equal")
    axis.axis("off")


def motions() -> list[tuple[str, np.ndarray]]:
    """One frontal clip of each action shown, (T, 17, 2) metres."""
    found = []
    for name in SHOWN:
        batch = next(iter(generate(1, seed=5, actions=[name], noise=0.0, missing=0.0, yaw=(0.5, 0.5))))
        found.append((name, batch.joints[0, : batch.length[0], 0, :, :2]))
    return found


def bars() -> list[tuple[str, float, str]]:
    """(what, per cent, colour) of the recorded run."""
    steps = {step["step"]: step["measured"] for step in json.loads((RESULTS / "real_data.json").read_text())["steps"]}
    probe, zero = steps["transfer"], steps["zero_shot"]
    few, scratch = steps["few_shot_pretrained"], steps["few_shot_scratch"]
    rows = [
        ("Penn, from scratch, joints + bones", steps["scratch"]["joint+bone"]["top1"], MIDDLE),
        ("Penn, linear probe, T-MOR", probe["stage2"]["top1"], RIGHT),
        ("Penn, linear probe, random backbone", probe["random"]["top1"], LEFT),
        ("Penn, 5 % of labels, T-MOR", few["T-MOR 5%"]["mean"], RIGHT),
        ("Penn, 5 % of labels, from scratch", scratch["scratch 5%"]["mean"], LEFT),
        ("Bandai, zero-shot, unseen actions", zero["motion, names"]["top1"], RIGHT),
        ("Bandai, zero-shot, chance", zero["chance"], LEFT),
    ]
    return rows[::-1]


def main() -> None:
    """Draw and save."""
    figure = plt.figure(figsize=(14.5, 5.0), dpi=110)
    grid = figure.add_gridspec(3, 4, width_ratios=(1, 1, 0.72, 0.85), wspace=0.08, hspace=0.18)
    for i, (name, joints) in enumerate(motions()):
        draw_motion(figure.add_subplot(grid[i // 2, i % 2]), joints, name)
    axis = figure.add_subplot(grid[:, 3])
    rows = bars()
    axis.barh([r[0] for r in rows], [r[1] for r in rows], color=[r[2] for r in rows], height=0.62)
    for place, (_, value, _) in enumerate(rows):
        axis.text(value - 1.5, place, f"{value:.1f}", va="center", ha="right", color="white", fontsize=9, weight="bold")
    axis.set_xlim(0, 100)
    axis.set_title("top-1 accuracy, %, real skeletons", fontsize=10, loc="left", color=MIDDLE)
    axis.tick_params(labelsize=9, length=0)
    for edge in ("top", "right", "left"):
        axis.spines[edge].set_visible(False)
    target = RESULTS / "overview.png"
    temporary = RESULTS / ".overview.tmp.png"
    figure.savefig(temporary, bbox_inches="tight", facecolor="white")
    os.replace(temporary, target)


if __name__ == "__main__":
    main()
