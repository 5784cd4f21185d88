"""A trained model that names what people do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tmor_fast.data.layout import SkeletonLayout
from tmor_fast.errors import DataError, missing
from tmor_fast.inference.clips import Joints, Recording, Recordings, build_batch, grouped, recordings
from tmor_fast.inference.naming import Actions, TextNames, as_captions, class_probabilities
from tmor_fast.inference.network import Network
from tmor_fast.inference.predictions import Prediction
from tmor_fast.inference.windows import cut_windows, window_starts
from tmor_fast.nn.tmor import TMOR
from tmor_fast.teachers.protocol import Teacher

# From features (views, n, F) of each network to probabilities (n, K).
Scorer = Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True)
class _Run:
    """What holds for every clip of one call."""

    layout: SkeletonLayout
    channels: int
    units: str | None
    batch_size: int
    views: int
    min_confidence: float
    skip_empty: bool = False


class ActionModel:
    """A trained model that names actions; made by `tmor_fast.load`.

    Args:
        networks: one, or the classifiers that are fused.
        paths: their files.
        text_teacher: text encoder to use instead of the one the checkpoint names.

    Raises:
        ValueError: networks that cannot be fused: not all classifiers of the same classes.
    """

    def __init__(
        self, networks: Sequence[Network], paths: Sequence[str], *, text_teacher: Teacher | str | None = None
    ) -> None:
        first = networks[0].settings
        if len(networks) > 1:
            persons, channels = networks[0].config.persons, networks[0].config.channels
            for network, path in zip(networks, paths, strict=True):
                if isinstance(network.module, TMOR):
                    raise ValueError(f"{path} has no classifier; scores of classifiers alone are fused")
                if network.settings.label_names != first.label_names:
                    raise ValueError(f"{paths[0]} and {path} name different classes; they cannot be fused")
                if (network.config.persons, network.config.channels) != (persons, channels):
                    raise ValueError(
                        f"{paths[0]} and {path} see different persons or coordinates; they cannot be fused"
                    )
                if network.settings.fusion != first.fusion:
                    raise ValueError(f"{paths[0]} and {path} were trained for different ways of fusion")
        self._networks, self._paths = list(networks), list(paths)
        self._text = TextNames(networks[0], self._paths[0], text_teacher)

    # ------------------------------------------------------------------------------------------------------------
    # What it is
    # ------------------------------------------------------------------------------------------------------------

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names it chooses from: a classifier's classes; of a model trained with text, what it was trained on."""
        return self._networks[0].settings.label_names

    @property
    def layout(self) -> SkeletonLayout:
        """The skeleton its clips are converted to."""
        return self._networks[0].settings.layout

    @property
    def channels(self) -> int:
        """2 or 3 coordinates of its input; a 2D model sees 3D clips from directions."""
        return self._networks[0].config.channels

    @property
    def frames(self) -> int:
        """Frames of its input, to which clips of any length are brought."""
        return self._networks[0].settings.frames

    @property
    def persons(self) -> int:
        """How many persons of a clip it sees, the first ones."""
        return self._networks[0].config.persons

    @property
    def supports_text(self) -> bool:
        """Whether it can choose between any action names (zero-shot)."""
        return self._networks[0].settings.text_teacher is not None

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self._networks[0].module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes."""
        return next(self._networks[0].module.parameters()).dtype

    def describe(self) -> dict[str, Any]:
        """What it is, in plain values."""
        return {
            "files": list(self._paths),
            "training": self._networks[0].settings.training,
            "streams": [network.settings.stream for network in self._networks],
            "layout": self.layout.name,
            "channels": self.channels,
            "frames": self.frames,
            "persons": self.persons,
            "supports_text": self.supports_text,
            "label_names": list(self.label_names),
        }

    def __repr__(self) -> str:
        about = self.describe()
        names = f"{len(self.label_names)} actions" if self.label_names else "no classifier"
        if self.supports_text:
            names = f"{names}, and any by name" if self.label_names else "any actions by name"
        return (
            f"ActionModel({about['training']}, {' + '.join(about['streams'])}; {names}; {self.layout.name}, "
            f"{self.channels}D, {self.frames} frames, {self.persons} person{'s' if self.persons > 1 else ''}; "
            f"{self.device}, {str(self.dtype).removeprefix('torch.')}; {', '.join(self._paths)})"
        )

    # ------------------------------------------------------------------------------------------------------------
    # What it does
    # ------------------------------------------------------------------------------------------------------------

    def predict(
        self,
        joints: Joints,
        *,
        layout: str | SkeletonLayout | None = None,
        valid: Any = None,
        confidence: Any = None,
        min_confidence: float = 0.0,
        clip_ids: Sequence[str] | str | None = None,
        image_size: tuple[int, int] | None = None,
        units: str | None = None,
        fps: float = 30.0,
        actions: Actions | None = None,
        top: int | None = 5,
        views: int = 1,
        batch_size: int = 64,
        progress: bool = False,
    ) -> Prediction | list[Prediction]:
        """Name the action of each clip.

        Clips are prepared as in the training's tests: gaps filled, layout converted, normalised, brought to the
        model's number of frames; a clip of one frame is a still pose.

        Args:
            joints: numpy or torch, any real dtype: one clip (T, V, C) or (T, M, V, C), a batch (N, T, M, V, C), a list
                of clips of any lengths; or a `Clip`, a list of them, a `ClipStore`. T frames, M persons, V joints,
                C = 2 (x right, y down) or 3 (x right, y up, z towards the viewer). NaN: the joint is missing. Of more
                persons than the model sees, the first count.
            layout: skeleton of V joints; None takes the only known one with V joints that can be converted.
            valid: bool, shaped as joints without C (a list for a list): False where a joint is missing.
            confidence: in [0, 1], shaped likewise; joints of 0 are missing unless `valid` says what is.
            min_confidence: joints below it are missing.
            clip_ids: a name for each clip. Where a 2D model sees 3D clips, the name fixes the direction as in the
                training's tests; a clip without a name is seen from the front, along its z axis.
            image_size: (width, height) in pixels, which models of normalisation "screen" need.
            units: "pixels", "metres" or "normalised"; said for 3D, a third coordinate within [0, 1] is not suspected
                to be a confidence.
            fps: frames a second, for times in seconds.
            actions: names that compete, or {name: captions}; needs a model trained with text. None: `label_names`.
            top: how many names each prediction holds, None for all.
            views: directions from which a 2D model sees a 3D clip; the embeddings are averaged.
            batch_size: clips at a time.
            progress: show a progress bar (needs rich).

        Returns:
            A `Prediction` for one clip, a list in the order of the clips for several.

        Raises:
            TypeError, ValueError: arguments that fit none of this, or names asked of a model that knows no text.
            DataError: a clip that shows nobody, or an infinite value; the message says where.
            MissingDependencyError: the text encoder's library is not installed.
        """
        given = recordings(
            joints, self.layout, layout=layout, valid=valid, confidence=confidence, clip_ids=clip_ids,
            image_size=image_size, units=units, fps=fps,
        )  # fmt: skip
        run = self._run(given, batch_size, views, min_confidence)
        names, scorer = self._scorer(actions)
        found = list(self._predict(given.each, len(given.lengths), run, names, scorer, top, progress))
        return found[0] if given.single else found

    def predict_windows(
        self,
        joints: Joints,
        *,
        window: int,
        stride: int | None = None,
        layout: str | SkeletonLayout | None = None,
        valid: Any = None,
        confidence: Any = None,
        min_confidence: float = 0.0,
        clip_ids: Sequence[str] | str | None = None,
        image_size: tuple[int, int] | None = None,
        units: str | None = None,
        fps: float = 30.0,
        actions: Actions | None = None,
        top: int | None = 5,
        views: int = 1,
        batch_size: int = 64,
        progress: bool = False,
    ) -> list[Prediction]:
        """Name the action of every window of a long recording; each window is prepared as a clip of its own.

        Frames are read batch by batch, so a memory-mapped array may be larger than memory.

        Args:
            window: frames of a window. Another starts every `stride` frames; the last one ends with the recording. A
                shorter recording is one window.
            stride: None is half a window.
            joints: as in `predict`, as are all other arguments.

        Returns:
            Predictions in order, `start` and `stop` in frames of the recording. A window that shows nobody has none.

        Raises:
            as `predict`; DataError: no window shows anybody.
        """
        stride = max(1, window // 2) if stride is None else stride
        if window < 1 or stride < 1:
            raise ValueError(f"window and stride must be at least 1 frame, got {window} and {stride}")
        given = recordings(
            joints, self.layout, layout=layout, valid=valid, confidence=confidence, clip_ids=clip_ids,
            image_size=image_size, units=units, fps=fps,
        )  # fmt: skip
        run = self._run(given, batch_size, views, min_confidence, skip_empty=True)
        names, scorer = self._scorer(actions)
        total = sum(sum(1 for _ in window_starts(length, window, stride)) for length in given.lengths)
        found = list(self._predict(cut_windows(given.each, window, stride), total, run, names, scorer, top, progress))
        if given.lengths and not found:
            raise DataError("no window shows anybody: no joint is present in any frame")
        return found

    def embed(
        self,
        joints: Joints,
        *,
        shared: bool = False,
        layout: str | SkeletonLayout | None = None,
        valid: Any = None,
        confidence: Any = None,
        min_confidence: float = 0.0,
        clip_ids: Sequence[str] | str | None = None,
        image_size: tuple[int, int] | None = None,
        units: str | None = None,
        views: int = 1,
        batch_size: int = 64,
    ) -> Tensor:
        """Features of clips.

        Args:
            joints: as in `predict`, as are all other arguments.
            shared: unit embeddings in the space that pre-training shares with video and text, instead of the encoder's
                pooled features.

        Returns:
            (N, F) float32 on the CPU, N = 1 for a single clip; of fused models their features side by side.

        Raises:
            as `predict`; ValueError: `shared` of a classifier, which has no such space.
        """
        if shared and not isinstance(self._networks[0].module, TMOR):
            raise ValueError("a classifier has no shared space; load the model.pt of a pre-training run")
        given = recordings(
            joints, self.layout, layout=layout, valid=valid, confidence=confidence, clip_ids=clip_ids,
            image_size=image_size, units=units,
        )  # fmt: skip
        run = self._run(given, batch_size, views, min_confidence)
        first = self._networks[0]
        width = sum(network.encoder.feature_dim for network in self._networks)
        if shared and isinstance(first.module, TMOR):
            width = first.module.embedding_dim
        rows = [torch.zeros(0, width)]
        for _, features in self._features(given.each, run):
            rows.append(first.projections(features[0]) if shared else _side_by_side(features))
        return torch.cat(rows)

    # ------------------------------------------------------------------------------------------------------------

    def _run(
        self, given: Recordings, batch_size: int, views: int, min_confidence: float, *, skip_empty: bool = False
    ) -> _Run:
        for name, value in (("batch_size", batch_size), ("views", views)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if not 0 <= min_confidence <= 1:
            raise ValueError(f"min_confidence {min_confidence}; accepted: 0 to 1")
        if given.channels < self.channels:
            raise ValueError("this model sees 3D skeletons and the clips are 2D; it needs (x, y, z) of every joint")
        return _Run(given.layout, given.channels, given.units, batch_size, views, min_confidence, skip_empty)

    def _features(self, each: Iterable[Recording], run: _Run) -> Iterator[tuple[list[Recording], list[Tensor]]]:
        """Recordings in batches with features (views, n, F) of each network."""
        for group in grouped(iter(each), run.batch_size):
            batch, kept = build_batch(
                group, run.layout, run.channels, self.persons, run.units, skip_empty=run.skip_empty
            )
            if batch is None:
                continue
            named = [recording.named for recording in kept]
            # Directions matter only where there is a third coordinate to look past.
            views = run.views if run.channels > self.channels else 1
            yield (
                kept,
                [
                    network.features(batch, run.layout, named, views, run.batch_size, run.min_confidence)
                    for network in self._networks
                ],
            )

    def _predict(
        self,
        each: Iterable[Recording],
        total: int,
        run: _Run,
        names: Sequence[str],
        scorer: Scorer,
        top: int | None,
        progress: bool,
    ) -> Iterator[Prediction]:
        if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 1):
            raise ValueError(f"top must be a whole number of at least 1 or None, got {top!r}")
        shown = len(names) if top is None else min(top, len(names))
        with _bar(total, progress) as advance:
            for kept, features in self._features(each, run):
                # Stable, so that equal scores rank as in evaluation: the first class first.
                scores, order = (
                    ranked[:, :shown] for ranked in scorer(features).sort(dim=1, descending=True, stable=True)
                )
                embeddings = _side_by_side(features)
                for row, recording in enumerate(kept):
                    yield Prediction(
                        clip_id=recording.clip_id,
                        names=tuple(names[place] for place in order[row].tolist()),
                        scores=tuple(scores[row].tolist()),
                        start=recording.start,
                        stop=recording.start + len(recording),
                        fps=recording.fps,
                        embedding=embeddings[row],
                    )
                advance(len(kept))

    def _scorer(self, actions: Actions | None) -> tuple[Sequence[str], Scorer]:
        """The names that compete, and what scores them."""
        network, path = self._networks[0], self._paths[0]
        if not isinstance(network.module, TMOR):
            if actions is not None:
                raise ValueError(
                    f"{path} is a classifier of {len(self.label_names)} actions and knows no others; names of your own "
                    "need the model.pt of a pre-training run with text"
                )
            return self.label_names, lambda features: class_probabilities(self._networks, features)
        if not self.supports_text:
            raise ValueError(
                f"{path} was pre-trained without text and has no classifier, so it names nothing: embed() gives its "
                "features; `tmor probe --save` or `tmor finetune` makes a classifier of it, stage 2 teaches it text"
            )
        if actions is None and not self.label_names:
            raise ValueError(
                f"{path} does not say which actions it was trained on; pass the names that compete as actions"
            )
        names, captions = as_captions(self.label_names if actions is None else actions)
        return names, lambda features: self._text.probabilities(features[0], captions)


def _side_by_side(features: Sequence[Tensor]) -> Tensor:
    """(n, F) on the CPU: each network's features (views, n, F) averaged over the views, next to each other."""
    return torch.cat([rows.mean(0).cpu() for rows in features], dim=1)


@contextmanager
def _bar(total: int, wanted: bool) -> Iterator[Callable[[int], None]]:
    """Yields a function that counts clips done."""
    if not wanted:
        yield lambda count: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError as error:
        raise missing("rich", "train", "A progress bar") from error
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("predicting", total=total)
        yield lambda count: bar.advance(task, count)
