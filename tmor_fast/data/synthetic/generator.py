"""Synthetic human motion: clips of named actions by drawn people, made from joint angles, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmor_fast.data.synthetic.action import KINDS, Action
from tmor_fast.data.synthetic.actions import get_actions
from tmor_fast.data.synthetic.body import CHANNEL_INDEX, NUM_CHANNELS, Array, forward_kinematics
from tmor_fast.data.synthetic.camera import project, side_in_view
from tmor_fast.data.synthetic.captions import STYLES, captions
from tmor_fast.data.synthetic.draws import (
    BLOCK,
    STREAM_CAMERA,
    STREAM_MISSING,
    STREAM_NOISE,
    SWAY,
    Draws,
    Motions,
    Subjects,
    build_motions,
    draw_block,
    draw_subjects,
    stream,
)
from tmor_fast.data.synthetic.motion import NEUTRAL, STEPS, to_units

_CYCLE, _REPEAT, _ONCE = range(len(KINDS))
_NEUTRAL = to_units(NEUTRAL).astype(np.float32)
_BENDS = [CHANNEL_INDEX[f"{side}_{name}"] for side in ("left", "right") for name in ("elbow", "knee")]
# How much noisier a joint is than the mean: the trunk is seen best, hands and feet worst.
_JOINT_NOISE = np.array(
    [0.8, 0.8, 0.7, 0.8, 0.9, 0.9, 0.9, 1.1, 1.1, 1.3, 1.3, 0.9, 0.9, 1.0, 1.0, 1.2, 1.2], np.float32
)
# Frames between the knots of the slow part of the noise.
_DRIFT = 8


@dataclass(frozen=True)
class SyntheticBatch:
    """n clips, padded to the same number of frames; all arrays are n long.

    Attributes:
        joints: (n, T, 1, 17, C) float32 in the layout "unik17"; 0 where not valid. C = 3: metres, y up; C = 2: pixels,
            y down.
        valid: (n, T, 1, 17) bool, False for missing joints and behind the end of a clip.
        length: (n,) int64, frames of each clip.
        index: (n,) int64, number of the clip in its data set.
        label: (n,) int64, index into `actions`.
        caption: one sentence a clip.
        subject: (n,) int64, who moves.
        test: (n,) bool, whether that person is held out.
        view: "front", "right side", "back" or "left side": what the body shows at the start of the clip.
        style: "plain", "energetic", "tired", "slow" or "quick".
        repetitions: (n,) int64, how often the action is done; 0 for motions that go on and on.
        actions: the action classes.
        fps: frames a second.
        image_size: (width, height) in 2D.
    """

    joints: Array
    valid: NDArray[np.bool_]
    length: NDArray[np.int64]
    index: NDArray[np.int64]
    label: NDArray[np.int64]
    caption: list[str]
    subject: NDArray[np.int64]
    test: NDArray[np.bool_]
    view: list[str]
    style: list[str]
    repetitions: NDArray[np.int64]
    actions: tuple[Action, ...]
    fps: float
    image_size: tuple[int, int] | None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def attributes(self) -> list[dict[str, str]]:
        """Verb, body part and side of each clip."""
        return [self.actions[label].attributes for label in self.label.tolist()]

    def slice(self, start: int, stop: int) -> SyntheticBatch:
        """The clips start..stop of this batch, as views."""
        return replace(self, **{name: getattr(self, name)[start:stop] for name in _PER_CLIP})


_PER_CLIP = tuple(f.name for f in fields(SyntheticBatch) if f.name not in ("actions", "fps", "image_size"))


def _join(parts: Sequence[SyntheticBatch]) -> SyntheticBatch:
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {}
    for name in _PER_CLIP:
        values = [getattr(part, name) for part in parts]
        joined[name] = [v for part in values for v in part] if isinstance(values[0], list) else np.concatenate(values)
    return replace(parts[0], **joined)


@dataclass(frozen=True)
class Options:
    """Options of `generate`, checked when made; see there for what they mean."""

    seed: int
    dims: int = 3
    frames: tuple[int, int] = (40, 100)
    fps: float = 30.0
    noise: float = 0.006
    missing: float = 0.03
    yaw: tuple[float, float] = (-math.pi, math.pi)
    pitch: tuple[float, float] = (-0.1, 0.35)
    camera: str = "weak"
    image_size: tuple[int, int] = (640, 480)
    subjects: int = 200
    test_share: float = 0.2

    def __post_init__(self) -> None:
        checks = (
            ("seed", self.seed, self.seed >= 0, "at least 0"),
            ("dims", self.dims, self.dims in (2, 3), "2 or 3"),
            ("frames", self.frames, 2 <= self.frames[0] <= self.frames[1], "(shortest, longest), from 2 up"),
            ("fps", self.fps, self.fps > 0, "positive"),
            ("noise", self.noise, 0 <= self.noise < 1, "a share of the body height in [0, 1)"),
            ("missing", self.missing, 0 <= self.missing < 1, "a share of the joints in [0, 1)"),
            ("yaw", self.yaw, self.yaw[0] <= self.yaw[1], "(lowest, highest) in radians"),
            ("pitch", self.pitch, -1.5 < self.pitch[0] <= self.pitch[1] < 1.5, "(lowest, highest) within 1.5 radians"),
            ("camera", self.camera, self.camera in ("weak", "orthographic"), "'weak' or 'orthographic'"),
            ("image_size", self.image_size, min(self.image_size) >= 16, "(width, height) of at least 16 pixels"),
            ("subjects", self.subjects, self.subjects >= 1, "at least 1"),
            ("test_share", self.test_share, 0 <= self.test_share <= 1, "in [0, 1]"),
        )  # fmt: skip
        for name, value, good, accepted in checks:
            if not good:
                raise ValueError(f"{name} must be {accepted}, got {value!r}")


def _phases(draws: Draws, motions: Motions, options: Options) -> tuple[Array, Array, NDArray[np.int64]]:
    """Phase (n, T), how far the clip has entered the action (n, T) in 0..1, and counted repetitions (n,)."""
    frames = options.frames[1]
    seconds = (np.arange(frames, dtype=np.float32) / np.float32(options.fps))[None]
    span = ((draws.length - 1) / options.fps).astype(np.float32)
    kind = motions.kind[draws.label]
    period = motions.period[draws.label] / draws.tempo
    u = draws.timing.T
    # Whole repetitions: as many as fit or fewer, with rest before and after.
    lead = 0.12 * u[0] * span
    window = span - lead - 0.12 * u[1] * span
    most = np.maximum(np.floor(window / period), 1.0)
    repetitions = np.minimum(np.floor(u[2] * most) + 1.0, 4.0)
    whole = np.minimum(period, window / repetitions)
    begin = lead + u[3] * (window - repetitions * whole)
    # Once: a transition that fits the clip.
    single = np.minimum(period, 0.85 * span)
    repeat, once = kind == _REPEAT, kind == _ONCE
    begin = np.where(once, u[3] * (span - single), np.where(repeat, begin, 0.0))
    period = np.where(once, single, np.where(repeat, whole, period))
    last = np.where(once, 1.0, np.where(repeat, repetitions, np.inf))
    phase = (seconds - begin[:, None]) / period[:, None]
    phase = np.clip(phase, np.where(kind == _CYCLE, -np.inf, 0.0)[:, None], last[:, None])
    phase = phase + np.where(kind == _CYCLE, u[4], 0.0)[:, None]
    phase = phase + draws.warp[:, None] * np.sin(2.0 * np.pi * phase) / np.float32(2.0 * np.pi)
    # Endless motions may start from rest or come to rest.
    ramp = np.float32(0.45) / draws.tempo
    exact = motions.amplitude[draws.label, 0] == 1.0
    rise = np.where((u[5] < 0.35) & (kind == _CYCLE) & ~exact, 0.2 * u[6] * span, -10.0)
    fall = np.where((u[5] > 0.8) & (kind == _CYCLE) & ~exact, span - 0.2 * u[7] * span, 1e4)
    level = np.clip((seconds - rise[:, None]) / ramp[:, None], 0, 1) * np.clip(
        (fall[:, None] - seconds) / ramp[:, None], 0, 1
    )
    level = level * level * (3.0 - 2.0 * level)
    counted = np.where(repeat, repetitions, 0).astype(np.int64)
    return phase.astype(np.float32), level.astype(np.float32), counted


def _channels(draws: Draws, motions: Motions, phase: Array, level: Array, options: Options) -> Array:
    """Joint angles (NUM_CHANNELS, n, T) of the clips."""
    turns = np.where((motions.kind[draws.label] == _ONCE)[:, None], np.float32(0.0), np.floor(phase))
    position = (phase - turns) * np.float32(STEPS)
    low = np.minimum(position.astype(np.int64), STEPS - 1)
    share = (position - low)[..., None]
    row = low + (draws.motion * (STEPS + 1))[:, None]
    values = motions.rows[row]
    values += share * (motions.rows[row + 1] - values)
    values -= _NEUTRAL
    values[..., CHANNEL_INDEX["travel"]] += turns * motions.travel[draws.motion][:, None]
    values *= level[..., None]
    values *= (draws.gain[:, None] * draws.jitter)[:, None]
    values += (_NEUTRAL + draws.offset)[:, None]
    values[..., CHANNEL_INDEX["yaw"]] += draws.yaw[:, None]
    seconds = (np.arange(options.frames[1], dtype=np.float32) / np.float32(options.fps))[None]
    for number, name in enumerate(SWAY):
        size, frequency, start = draws.sway[:, :, number].T
        values[..., CHANNEL_INDEX[name]] += size[:, None] * np.sin(
            np.float32(2.0 * np.pi) * frequency[:, None] * seconds + start[:, None]
        )
    channels = np.ascontiguousarray(values.reshape(-1, NUM_CHANNELS).T).reshape(NUM_CHANNELS, *phase.shape)
    channels[_BENDS] = np.clip(channels[_BENDS], 0.0, np.float32(np.deg2rad(155.0)))
    return channels


def _noise(count: int, frames: int, dims: int, rng: np.random.Generator) -> Array:
    """Unit sensor noise (17, dims, count, frames): half its variance white, half slow."""
    # All clips of a block are drawn even if fewer are asked for, so that a data set is a prefix of a larger one.
    shape = (BLOCK, len(_JOINT_NOISE), dims)
    white = rng.standard_normal((*shape, frames), dtype=np.float32)[:count]
    knots = rng.standard_normal((*shape, -(-frames // _DRIFT) + 1), dtype=np.float32)[:count]
    share = (np.arange(frames) / _DRIFT % 1.0).astype(np.float32)
    # Between two knots a linear blend has less variance than at them; divide it out.
    scale = np.float32(math.sqrt(0.5)) / np.sqrt((1.0 - share) ** 2 + share**2)
    noise: Array = np.repeat(knots[..., :-1], _DRIFT, axis=-1)[..., :frames] * ((1.0 - share) * scale)
    noise += np.repeat(knots[..., 1:], _DRIFT, axis=-1)[..., :frames] * (share * scale)
    white *= np.float32(math.sqrt(0.5))
    noise += white
    noise *= _JOINT_NOISE[:, None, None]
    return noise.transpose(1, 2, 0, 3)


def _missing(count: int, frames: int, rate: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which joints are lost, (17, count, frames): runs of 3 to 15 frames, `rate` of all on average."""
    joints = len(_JOINT_NOISE)
    longest = 15
    run = rng.integers(3, longest, (BLOCK, joints), endpoint=True)[:count]
    # A joint is lost if a run began within the last `run` frames.
    begin = 1.0 - (1.0 - rate) ** (1.0 / run)
    begun = rng.random((BLOCK, joints, frames + longest), dtype=np.float32)[:count] < begin[..., None]
    total = np.zeros((count, joints, frames + longest + 1), np.int16)
    np.cumsum(begun, axis=2, out=total[..., 1:])
    ends = np.arange(longest + 1, longest + 1 + frames)
    lost = total[..., ends] > np.take_along_axis(total, ends - run[..., None], axis=2)
    return lost.transpose(1, 0, 2)


def _block(
    number: int, count: int, motions: Motions, subjects: Subjects, actions: tuple[Action, ...], options: Options
) -> SyntheticBatch:
    """The first `count` clips of a block."""
    draws = draw_block(number, motions, subjects, options.seed, options.frames, options.yaw).head(count)
    bodies = subjects.bodies.take(draws.subject)
    phase, level, repetitions = _phases(draws, motions, options)
    joints = forward_kinematics(_channels(draws, motions, phase, level, options), bodies)
    frames = options.frames[1]
    inside = np.arange(frames) < draws.length[:, None]
    if options.dims == 2:
        rng = stream(options.seed, STREAM_CAMERA, number)
        joints, unit = project(
            joints, inside, bodies.height, rng, BLOCK, options.pitch, options.camera, options.image_size
        )
    else:
        unit = bodies.height
        joints[:, 0] += draws.start[:, 0, None]
        joints[:, 2] += draws.start[:, 1, None]
    if options.noise:
        rng = stream(options.seed, STREAM_NOISE, number)
        joints += _noise(count, frames, options.dims, rng) * (options.noise * unit)[:, None]
    valid = np.repeat(inside[None], len(joints), axis=0)
    if options.missing:
        valid &= ~_missing(count, frames, options.missing, stream(options.seed, STREAM_MISSING, number))
    joints *= valid[:, None]
    return SyntheticBatch(
        joints=np.ascontiguousarray(joints.transpose(2, 3, 0, 1))[:, :, None],
        valid=np.ascontiguousarray(valid.transpose(1, 2, 0))[:, :, None],
        length=draws.length,
        index=draws.index,
        label=draws.label,
        caption=captions(actions, draws.label, draws.style, draws.gain, repetitions, draws.choices),
        subject=draws.subject,
        test=subjects.test[draws.subject],
        view=side_in_view(draws.yaw),
        style=[STYLES[style][0] for style in draws.style.tolist()],
        repetitions=repetitions,
        actions=actions,
        fps=options.fps,
        image_size=options.image_size if options.dims == 2 else None,
    )


def generate(
    num_clips: int,
    *,
    seed: int,
    dims: int = 3,
    actions: Sequence[str | Action] | None = None,
    batch: int = BLOCK,
    start: int = 0,
    frames: tuple[int, int] = (40, 100),
    fps: float = 30.0,
    noise: float = 0.006,
    missing: float = 0.03,
    yaw: tuple[float, float] = (-math.pi, math.pi),
    pitch: tuple[float, float] = (-0.1, 0.35),
    camera: str = "weak",
    image_size: tuple[int, int] = (640, 480),
    subjects: int = 200,
    test_share: float = 0.2,
) -> Iterator[SyntheticBatch]:
    """Clips of people doing named actions, in batches; every action as often as every other.

    Clip i depends on the seed and the options alone, not on `num_clips`, `start` or `batch`: a data set is a prefix
    of a larger one, and several processes can make parts of it.

    Args:
        num_clips: how many, from `start` on.
        seed: number at least 0 that fixes everything.
        dims: 3 for metres with y up, 2 for pixels with y down as one camera sees it.
        actions: names of the actions to draw from (labels follow this order); all by default.
        batch: clips a batch; multiples of the default are fastest.
        start: number of the first clip.
        frames: shortest and longest clip.
        fps: frames a second.
        noise: standard deviation of the sensor noise as a share of the body height, half of it slow, half white.
        missing: share of the joints that are marked invalid, in runs of 3 to 15 frames.
        yaw: range of the direction the body faces at the start, radians; 0 is towards the viewer, pi/2 to the right.
        pitch: range of the camera's elevation in 2D, radians; positive looks down.
        camera: "weak" (the size follows the distance of the body, frame by frame) or "orthographic".
        image_size: (width, height) in pixels in 2D; the noise-free body stays inside.
        subjects: how many people there are.
        test_share: share of them held out for testing (`SyntheticBatch.test`).

    Returns:
        An iterator of `SyntheticBatch`, all padded to `frames[1]` frames.

    Raises:
        ValueError: an option out of range or an unknown action (when called, not at the first batch).
    """
    if num_clips < 0 or start < 0 or batch < 1:
        raise ValueError(
            f"num_clips and start must be at least 0 and batch at least 1, got {num_clips}, {start}, {batch}"
        )
    options = Options(
        seed=seed,
        dims=dims,
        frames=(int(frames[0]), int(frames[1])),
        fps=fps,
        noise=noise,
        missing=missing,
        yaw=yaw,
        pitch=pitch,
        camera=camera,
        image_size=image_size,
        subjects=subjects,
        test_share=test_share,
    )
    return _batches(num_clips, start, batch, get_actions(actions), options)


def _batches(
    num_clips: int, start: int, batch: int, actions: tuple[Action, ...], options: Options
) -> Iterator[SyntheticBatch]:
    motions = build_motions(actions, KINDS)
    people = draw_subjects(options.subjects, options.test_share, options.seed)
    stop = start + num_clips
    waiting: list[SyntheticBatch] = []
    ready = 0
    for number in range(start // BLOCK, -(-stop // BLOCK) if num_clips else 0):
        first = number * BLOCK
        block = _block(number, min(stop - first, BLOCK), motions, people, actions, options)
        waiting.append(block.slice(max(start - first, 0), len(block)))
        ready += len(waiting[-1])
        while ready >= batch:
            whole = _join(waiting)
            yield whole.slice(0, batch)
            ready -= batch
            waiting = [whole.slice(batch, len(whole))] if ready else []
    if ready:
        yield _join(waiting)
