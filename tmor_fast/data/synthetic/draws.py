"""What differs between the clips of an action: who, how fast, how often, how large, seen from where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from tmor_fast.data.synthetic.action import Action
from tmor_fast.data.synthetic.body import CHANNEL_INDEX, CHANNELS, NUM_CHANNELS, Array, Bodies, draw_bodies
from tmor_fast.data.synthetic.captions import NUM_CHOICES, STYLES
from tmor_fast.data.synthetic.motion import ARM_POSES, NEUTRAL, STEPS, table, to_units

#: Clips whose parameters come from one random stream. Part of what a seed means: changing it changes every clip.
BLOCK = 256
#: Purposes of random streams; each has its own, so that an option does not shift the draws of another.
STREAM_BODIES, STREAM_LABELS, STREAM_CLIPS, STREAM_NOISE, STREAM_MISSING, STREAM_CAMERA = range(6)
#: Channels that sway while a person stands, and by how much (degrees).
SWAY = {"spine_bend": 0.9, "spine_side": 0.7, "spine_twist": 1.2, "yaw": 0.8, "head_nod": 2.0, "head_turn": 3.0} | {
    f"{side}_{name}": size
    for side in ("left", "right")
    for name, size in (("arm", 1.6), ("elbow", 2.4), ("spread", 1.0))
}
# Standard deviation, in degrees, of a channel's constant offset between clips (limbs: both sides independently).
_OFFSET = {"spine_bend": 2.5, "spine_side": 1.0, "spine_twist": 2.0, "head_nod": 4.0, "head_turn": 5.0} | {
    f"{side}_{name}": size
    for side in ("left", "right")
    for name, size in (
        ("arm", 3.0), ("azimuth", 3.5), ("elbow", 4.0), ("swivel", 5.0), ("spread", 2.0),
        ("hip", 0.7), ("hip_side", 1.2), ("hip_turn", 4.0), ("knee", 1.0),
    )
}  # fmt: skip
_ARM = ("arm", "azimuth", "elbow", "swivel", "spread")
# Channels whose size varies on its own; legs must not, or a foot would hang over the floor.
_ARM_SIZES = [i for i, name in enumerate(CHANNELS) if name.partition("_")[2] in ("arm", "elbow", "azimuth")]
# What an arm without a part in the action does, and how often.
_IDLE_ARMS = (
    (ARM_POSES["rest"], 0.72),
    (ARM_POSES["hips"], 0.14),
    (ARM_POSES["bent"], 0.08),
    (ARM_POSES["chest"], 0.06),
)


def stream(seed: int, purpose: int, number: int = 0) -> np.random.Generator:
    """The random stream `number` of a purpose, independent of all others."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((seed, purpose, number))))


@dataclass(frozen=True)
class Motions:
    """Tables of all the ways to do each of the chosen actions, K in all."""

    rows: Array  # (K * (STEPS + 1), NUM_CHANNELS)
    used: NDArray[np.bool_]  # (K, NUM_CHANNELS) channels the motion moves
    travel: Array  # (K,) way forward a cycle
    first: NDArray[np.int64]  # (actions,) first motion of an action
    count: NDArray[np.int64]  # (actions,) motions of an action
    kind: NDArray[np.int64]  # (actions,) index into KINDS
    period: Array  # (actions,) seconds
    amplitude: Array  # (actions, 2)


def build_motions(actions: Sequence[Action], kinds: Sequence[str]) -> Motions:
    """The tables of `actions`, in their order."""
    tables = [table(motion) for action in actions for motion in action.motions]
    count = np.array([len(action.motions) for action in actions], np.int64)
    values = np.stack([rows for rows, _ in tables])
    travel = CHANNEL_INDEX["travel"]
    return Motions(
        rows=values.reshape(-1, NUM_CHANNELS),
        used=np.stack([used for _, used in tables]),
        travel=values[:, STEPS, travel] - values[:, 0, travel],
        first=np.cumsum(count) - count,
        count=count,
        kind=np.array([kinds.index(action.kind) for action in actions], np.int64),
        period=np.array([action.period for action in actions], np.float32),
        amplitude=np.array([action.amplitude for action in actions], np.float32),
    )


@dataclass(frozen=True)
class Subjects:
    """The people of a data set: their bodies, and how each stands and moves."""

    bodies: Bodies
    posture: Array  # (n, NUM_CHANNELS), radians
    tempo: Array  # (n,)
    test: NDArray[np.bool_]  # (n,) True: held out


def draw_subjects(count: int, test_share: float, seed: int) -> Subjects:
    """`count` people, of whom `round(count * test_share)` are held out for testing."""
    rng = stream(seed, STREAM_BODIES)
    bodies = draw_bodies(count, rng)
    posture = np.zeros((count, NUM_CHANNELS))
    for name, size in (("spine_bend", 3.0), ("head_nod", 5.0)):
        posture[:, CHANNEL_INDEX[name]] = rng.normal(0.0, size, count)
    for name, size in (("spread", 3.0), ("elbow", 5.0), ("hip_turn", 4.0), ("hip_side", 1.2)):
        value = rng.normal(0.0, size, count)
        for side in ("left", "right"):
            posture[:, CHANNEL_INDEX[f"{side}_{name}"]] = value
    tempo = np.exp(rng.normal(0.0, 0.09, count)).astype(np.float32)
    test = np.zeros(count, bool)
    test[rng.permutation(count)[: round(count * test_share)]] = True
    return Subjects(bodies, to_units(posture).astype(np.float32), tempo, test)


@dataclass(frozen=True)
class Draws:
    """The parameters of n clips, every array n long (see `draw_block`)."""

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    motion: NDArray[np.int64]
    subject: NDArray[np.int64]
    style: NDArray[np.int64]
    length: NDArray[np.int64]  # frames
    tempo: Array  # speed against the action's mean
    gain: Array  # size of the movement against its mean
    jitter: Array  # (n, NUM_CHANNELS) the same for a single channel
    offset: Array  # (n, NUM_CHANNELS) constant posture, radians
    timing: Array  # (n, 8) numbers in [0, 1) that place the action in the clip
    warp: Array  # unevenness of the phase
    yaw: Array  # heading at the start, radians
    start: Array  # (n, 2) x and z of mid-hip at the start, metres
    sway: Array  # (n, 3, len(SWAY)) size, frequency (Hz) and phase of the sway
    choices: NDArray[np.float64]  # (n, NUM_CHOICES) for the caption

    def __len__(self) -> int:
        return len(self.index)

    def head(self, count: int) -> Draws:
        """The first `count` clips."""
        return replace(self, **{field.name: getattr(self, field.name)[:count] for field in fields(self)})


def balanced_labels(index: NDArray[np.int64], num_actions: int, seed: int) -> NDArray[np.int64]:
    """Labels of the clips `index`: every run of `num_actions` clips from a multiple of it shows every action once."""
    label = np.empty(len(index), np.int64)
    turns = index // num_actions
    for turn in np.unique(turns):
        here = turns == turn
        order = stream(seed, STREAM_LABELS, int(turn)).permutation(num_actions)
        label[here] = order[index[here] % num_actions]
    return label


def draw_block(
    number: int, motions: Motions, subjects: Subjects, seed: int, frames: tuple[int, int], yaw: tuple[float, float]
) -> Draws:
    """Parameters of the clips of block `number`; they depend on nothing but these arguments."""
    rng = stream(seed, STREAM_CLIPS, number)
    n = BLOCK
    index = np.arange(number * n, (number + 1) * n, dtype=np.int64)
    label = balanced_labels(index, len(motions.count), seed)
    motion = motions.first[label] + (rng.random(n) * motions.count[label]).astype(np.int64)
    subject = rng.integers(0, len(subjects.tempo), n)
    style = rng.choice(len(STYLES), n, p=[s[1] for s in STYLES])
    length = rng.integers(frames[0], frames[1], n, endpoint=True)
    tempo = np.array([s[2] for s in STYLES])[style] * subjects.tempo[subject] * np.exp(rng.normal(0.0, 0.12, n))
    low, high = motions.amplitude[label].T
    # Where the hand must arrive somewhere the range is narrow, and with it all other scatter of size.
    spread = np.minimum((high - low) / 0.3, 1.0)
    gain = low + (high - low) * rng.random(n)
    gain = gain * (1.0 + (np.array([s[3] for s in STYLES])[style] - 1.0) * spread)
    jitter = np.ones((n, NUM_CHANNELS))
    jitter[:, _ARM_SIZES] += rng.normal(0.0, 0.05, (n, len(_ARM_SIZES))) * spread[:, None]
    offset = _draw_offset(rng, motions.used[motion], style, spread) + subjects.posture[subject]
    # Scatter would lift the hands or feet of someone who lies on the floor.
    offset[motions.used[motion, CHANNEL_INDEX["pitch"]]] = 0.0
    size = np.deg2rad(list(SWAY.values())) * rng.gamma(4.0, 0.25, (n, len(SWAY)))
    sway = np.stack([size, *rng.uniform([[[0.15]], [[0.0]]], [[[0.6]], [[2.0 * np.pi]]], (2, n, len(SWAY)))], axis=1)
    return Draws(
        index=index,
        label=label,
        motion=motion,
        subject=subject,
        style=style,
        length=length,
        tempo=tempo.astype(np.float32),
        gain=gain.astype(np.float32),
        jitter=jitter.astype(np.float32),
        offset=offset.astype(np.float32),
        timing=rng.random((n, 8)).astype(np.float32),
        warp=rng.uniform(-0.3, 0.3, n).astype(np.float32),
        yaw=rng.uniform(yaw[0], yaw[1], n).astype(np.float32),
        start=rng.uniform(-1.0, 1.0, (n, 2)).astype(np.float32),
        sway=sway.astype(np.float32),
        choices=rng.random((n, NUM_CHOICES)),
    )


def _draw_offset(
    rng: np.random.Generator, used: NDArray[np.bool_], style: NDArray[np.int64], spread: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Constant posture of n clips, (n, NUM_CHANNELS) radians: scatter, style, and what idle arms do."""
    n = len(style)
    degrees = np.zeros((n, NUM_CHANNELS))
    for name, size in _OFFSET.items():
        degrees[:, CHANNEL_INDEX[name]] = rng.normal(0.0, size, n) * (0.35 + 0.65 * spread)
    degrees[:, CHANNEL_INDEX["spine_bend"]] += np.array([s[4] for s in STYLES])[style] * spread
    degrees[:, CHANNEL_INDEX["head_nod"]] += np.array([s[5] for s in STYLES])[style] * spread
    poses = np.array([pose for pose, _ in _IDLE_ARMS])
    for side in ("left", "right"):
        columns = [CHANNEL_INDEX[f"{side}_{name}"] for name in _ARM]
        pose = poses[rng.choice(len(poses), n, p=[share for _, share in _IDLE_ARMS])]
        idle = np.logical_not(used[:, columns].any(axis=1))
        degrees[:, columns] += np.where(idle[:, None], pose - NEUTRAL[columns], 0.0)
    return to_units(degrees)
