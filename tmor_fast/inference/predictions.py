"""What a prediction is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """Action names for one clip, or for one window of a recording.

    Args:
        clip_id: name of the clip.
        names: action names, the most probable first.
        scores: their probabilities over all names that competed, in the same order.
        start, stop: the frames it is about: start to stop - 1.
        fps: frames a second of the clip.
        embedding: (F,) float32 on the CPU, the encoder's feature of the clip (see `ActionModel.embed`).
    """

    clip_id: str
    names: tuple[str, ...]
    scores: tuple[float, ...]
    start: int
    stop: int
    fps: float
    embedding: Tensor = field(repr=False, compare=False)

    @property
    def top(self) -> str:
        """The most probable name."""
        return self.names[0]

    @property
    def score(self) -> float:
        """Probability of the most probable name."""
        return self.scores[0]

    @property
    def start_seconds(self) -> float:
        """When its first frame begins, from the start of the clip."""
        return self.start / self.fps

    @property
    def stop_seconds(self) -> float:
        """When its last frame ends."""
        return self.stop / self.fps

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; without the embedding."""
        return {
            "clip_id": self.clip_id,
            "start": self.start,
            "stop": self.stop,
            "start_seconds": round(self.start_seconds, 6),
            "stop_seconds": round(self.stop_seconds, 6),
            "predictions": [
                {"name": name, "score": score} for name, score in zip(self.names, self.scores, strict=True)
            ],
        }
