"""Teacher embeddings of every clip of a store, computed once and kept in it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch

from tmor_fast.data.clip import Clip
from tmor_fast.data.conversion import conversions, convert_joints
from tmor_fast.data.layout import SkeletonLayout, get_layout
from tmor_fast.data.store import ClipStore
from tmor_fast.errors import DataError
from tmor_fast.teachers.motion_video import RenderSettings, render_clips
from tmor_fast.teachers.precomputed import PrecomputedTeacher
from tmor_fast.teachers.protocol import Teacher, fingerprint

MODALITIES = ("text", "video")
TEXTS = ("auto", "caption", "label")
_BAR_AFTER = 2.0  # seconds of work before a progress bar appears


def embed_store(
    store: ClipStore,
    teacher: Teacher,
    *,
    modality: str | None = None,
    name: str | None = None,
    text: str = "auto",
    render: RenderSettings | None = None,
    layout: str | SkeletonLayout | None = None,
    skip_missing: bool = False,
    overwrite: bool = False,
    batch_size: int = 128,
    workers: int = 1,
    progress: bool | None = None,
) -> np.ndarray:
    """Encode every clip with a teacher and keep the embeddings in the store.

    Text: each distinct string is encoded once. Video: clips are drawn as limb figures (`render_clips`) and watched.
    Precomputed embeddings are looked up by clip id, or by text. Embeddings that are there already, made with the same
    settings from the same texts, are returned without any work.

    Args:
        store: an open clip store.
        teacher: the encoder.
        modality: "text" or "video"; needed only where the teacher encodes both.
        name: name to keep the embeddings under; default the teacher's name, with "-text" or "-video" behind it where
            the teacher encodes both.
        text: "caption", "label" (the class name, underscores as spaces), or "auto": the caption where there is one,
            else the class name.
        render: how clips are drawn; default what the teacher prefers.
        layout: layout to draw in; default "unik17" where the store's can be converted to it, so that data sets look
            alike, else the store's own.
        skip_missing: give a clip without text, or without a valid joint, an all-zero row (no embedding) instead of an
            error.
        overwrite: encode again even if nothing has changed.
        batch_size: clips drawn and encoded at a time.
        workers: threads that draw.
        progress: show a progress bar; None shows it once the work takes more than two seconds.

    Returns:
        (n, D) float32, row i for clip i.

    Raises:
        ValueError: the teacher does not encode `modality`, or a choice is unknown.
        DataError: a clip has no text or no valid joint (named), or precomputed embeddings are missing.
    """
    if text not in TEXTS:
        raise ValueError(f"text {text!r} is not one of {', '.join(TEXTS)}")
    chosen = _modality(store, teacher, modality)
    key = name or (teacher.name if len(teacher.supports) == 1 else f"{teacher.name}-{chosen}")
    settings: dict[str, object] = {"teacher": dict(teacher.settings), "modality": chosen, "skip_missing": skip_missing}
    texts: list[str] = []
    drawing = render or getattr(teacher, "render_settings", None) or RenderSettings()
    target = _drawn_layout(store, layout)
    if chosen == "text":
        texts = _texts(store, text, skip_missing)
        settings["texts"] = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    elif not isinstance(teacher, PrecomputedTeacher):
        settings.update(render=drawing.to_dict(), layout=target.name)
    mark = fingerprint(settings)
    if not overwrite and key in store.teachers and store.embedding_metadata(key).get("fingerprint") == mark:
        return store.embeddings(key)
    if chosen == "text":
        rows = _encode_texts(teacher, texts, batch_size, progress)
    elif isinstance(teacher, PrecomputedTeacher):
        rows = _lookup_clips(teacher, [str(clip_id) for clip_id in store.column("clip_id")], skip_missing)
    else:
        rows = _encode_videos(store, teacher, drawing, target, skip_missing, batch_size, workers, progress)
    store.write_embeddings(key, rows, {"fingerprint": mark, "settings": settings})
    return rows


def _modality(store: ClipStore, teacher: Teacher, modality: str | None) -> str:
    if modality is not None:
        if modality not in MODALITIES or modality not in teacher.supports:
            raise ValueError(
                f"teacher {teacher.name!r} encodes {' and '.join(sorted(teacher.supports))}, not {modality!r}"
            )
        return modality
    if len(teacher.supports) == 1:
        return next(iter(teacher.supports))
    if isinstance(teacher, PrecomputedTeacher):
        return "video" if any(clip_id in teacher for clip_id in store.column("clip_id")) else "text"
    raise ValueError(f"teacher {teacher.name!r} encodes text and video; say which with modality='text' or 'video'")


def _texts(store: ClipStore, source: str, skip_missing: bool) -> list[str]:
    """The text of every clip; empty where there is none and that is allowed."""
    labels = [int(label) for label in store.column("label")]
    captions = [str(caption) for caption in store.column("caption")]
    names = [label_name.replace("_", " ").strip() for label_name in store.label_names]
    texts: list[str] = []
    for label, caption in zip(labels, captions, strict=True):
        class_name = names[label] if label >= 0 else ""
        texts.append({"caption": caption, "label": class_name, "auto": caption or class_name}[source])
    empty = [position for position, text in enumerate(texts) if not text]
    if empty and not skip_missing:
        what = {"caption": "caption", "label": "label", "auto": "caption and no label"}[source]
        clip_id = store.column("clip_id")[empty[0]]
        raise DataError(
            f"{len(empty)} of {len(store)} clips have no {what}, the first is clip {clip_id!r}; pass skip_missing=True "
            "to leave them without an embedding"
        )
    return texts


def _encode_texts(teacher: Teacher, texts: list[str], batch_size: int, progress: bool | None) -> np.ndarray:
    distinct = [text for text in dict.fromkeys(texts) if text]
    table = np.zeros((len(distinct) + 1, teacher.dim), np.float32)  # the last row stands for no text
    with _bar(f"{teacher.name}: texts", len(distinct), progress) as advance:
        for first in range(0, len(distinct), batch_size):
            part = distinct[first : first + batch_size]
            table[first : first + len(part)] = teacher.encode_text(part).float().cpu().numpy()
            advance(len(part))
    row = {text: number for number, text in enumerate(distinct)}
    return table[[row.get(text, len(distinct)) for text in texts]]


def _lookup_clips(teacher: PrecomputedTeacher, clip_ids: list[str], skip_missing: bool) -> np.ndarray:
    if not skip_missing or "text" not in teacher.supports:
        return teacher.encode_clips(clip_ids).numpy()
    rows = np.zeros((len(clip_ids), teacher.dim), np.float32)
    present = [position for position, clip_id in enumerate(clip_ids) if clip_id in teacher]
    rows[present] = teacher.encode_clips([clip_ids[position] for position in present]).numpy()
    return rows


def _drawn_layout(store: ClipStore, layout: str | SkeletonLayout | None) -> SkeletonLayout:
    if layout is not None:
        return get_layout(layout)
    return get_layout("unik17") if (store.layout.name, "unik17") in conversions() else store.layout


def _encode_videos(
    store: ClipStore,
    teacher: Teacher,
    drawing: RenderSettings,
    layout: SkeletonLayout,
    skip_missing: bool,
    batch_size: int,
    workers: int,
    progress: bool | None,
) -> np.ndarray:
    rows = np.zeros((len(store), teacher.dim), np.float32)
    clips: Iterator[tuple[int, Clip]] = enumerate(store)
    with _bar(f"{teacher.name}: clips", len(store), progress) as advance:
        while part := list(islice(clips, batch_size)):
            positions: list[int] = []
            joints: list[np.ndarray] = []
            valid: list[np.ndarray] = []
            for position, clip in part:
                points, mask = clip.joints, clip.valid
                if layout.name != store.layout.name:
                    points, mask = convert_joints(points, mask, store.layout, layout)
                if mask.any():
                    positions.append(position)
                    joints.append(points)
                    valid.append(mask)
                elif not skip_missing:
                    raise DataError(
                        f"clip {clip.clip_id!r} has no valid joint to draw; drop it, or pass skip_missing=True to "
                        "leave it without an embedding"
                    )
            if positions:
                frames = render_clips(
                    joints, layout, valid=valid, positions=positions, settings=drawing, workers=workers
                )
                rows[positions] = teacher.encode_video(torch.from_numpy(frames)).float().cpu().numpy()
            advance(len(part))
    return rows


@contextmanager
def _bar(title: str, total: int, wanted: bool | None) -> Iterator[Callable[[int], None]]:
    """Yields a function that counts work done; a bar shows at once, never, or (None) when the work turns out long."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield lambda steps: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:  # a bar in a log file is only noise
        wanted = False
    bar = Progress(console=console, transient=True)
    task = bar.add_task(title, total=total)
    started = time.monotonic()
    if wanted:
        bar.start()

    def advance(steps: int) -> None:
        bar.advance(task, steps)
        if wanted is None and not bar.live.is_started and time.monotonic() - started > _BAR_AFTER:
            bar.start()

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
