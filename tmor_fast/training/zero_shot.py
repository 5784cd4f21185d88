"""Zero-shot recognition: the nearest action name in the shared space, with motion alone or with video too."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from tmor_fast.data.clip_batches import AugmentationConfig, ClipBatches
from tmor_fast.data.packed import PackedClips
from tmor_fast.evaluation.features import embed_in_batches
from tmor_fast.evaluation.metrics import ClassificationReport, classification_report
from tmor_fast.evaluation.zero_shot import embed_actions, zero_shot_scores
from tmor_fast.nn.tmor import TMOR
from tmor_fast.teachers import Teacher
from tmor_fast.training.recording import top_predictions


@dataclasses.dataclass
class ZeroShotResult:
    """Outcome of zero-shot recognition.

    Args:
        reports: metrics for "motion" and, with a video teacher, "motion+video".
        actions: the names that competed.
        chance: accuracy of guessing.
        metric: what to name first: "top1", "mean_per_class" or "both" (`tmor options`, row 24).
        predictions: first actions of some clips by result (`recording.top_predictions`).
    """

    reports: dict[str, ClassificationReport]
    actions: list[str]
    chance: float
    metric: str = "both"
    predictions: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def headline(self) -> str:
        """One line a result, in the metric that the options ask for."""
        names = {"top1": "top-1", "mean_per_class": "mean per class"}
        chosen = list(names) if self.metric == "both" else [self.metric]
        lines = []
        for result, report in self.reports.items():
            values = ", ".join(f"{names[name]} {100 * getattr(report, name):.1f} %" for name in chosen)
            lines.append(f"{result}: {values} (chance {100 * self.chance:.1f} %)")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        reports = {name: report.to_dict() for name, report in self.reports.items()}
        return {"actions": self.actions, "chance": self.chance, "reports": reports, "predictions": self.predictions}


def zero_shot(
    model: TMOR,
    packed: PackedClips,
    teacher: Teacher,
    actions: Sequence[str] | None = None,
    *,
    augmentation: AugmentationConfig,
    video: str | None = None,
    views: int = 1,
    captions: Sequence[Sequence[str]] | None = None,
) -> ZeroShotResult:
    """Recognise actions by name.

    Args:
        model: trained through stage 2.
        packed: the data set.
        teacher: the text encoder the model was trained with.
        actions: names that compete (their clips are tested); None takes all of the data set.
        augmentation: clip length and view range of the training.
        video: name of a video teacher whose embeddings `packed` carries: adds the "motion+video" result.
        views: directions from which a 2D network sees a 3D clip; their embeddings are averaged.
        captions: several descriptions of each action instead of its name.

    Raises:
        ValueError: an action that the data set does not have or that is named twice, no clip of any action, captions
            or embeddings that do not fit, or a model without text head.
    """
    names = list(packed.label_names) if actions is None else list(actions)
    if len(set(names)) < len(names):
        raise ValueError(f"an action is named twice: {', '.join(names)}")
    if captions is not None and len(captions) != len(names):
        raise ValueError(f"{len(names)} actions and descriptions of {len(captions)}; give one list an action")
    if video is not None and video not in packed.embeddings:
        have = ", ".join(packed.embeddings) or "none"
        raise ValueError(f"no embeddings of a teacher {video!r} with the clips, there are: {have}; see `tmor embed`")
    unknown = [name for name in names if name not in packed.label_names]
    if unknown:
        raise ValueError(f"the data set has no action {unknown[0]!r}; it has: {', '.join(packed.label_names)}")
    number = {packed.label_names.index(name): i for i, name in enumerate(names)}
    index = torch.tensor([i for i, label in enumerate(packed.label.tolist()) if label in number])
    if not len(index):
        raise ValueError(f"no clip of the data set shows any of the actions: {', '.join(names) or 'none was named'}")
    labels = torch.tensor([number[int(packed.label[i])] for i in index])
    batches = ClipBatches(packed, augmentation, channels=model.backbone.config.channels, stream=model.options.stream)
    text = embed_actions(model, teacher, names if captions is None else captions)
    motion = torch.stack(
        [embed_in_batches(model, batches, index, kind="projection", view=view).cpu() for view in range(views)]
    ).mean(0)
    scores = {"motion": zero_shot_scores(motion, text)}
    if video is not None:
        with torch.no_grad():
            device = next(model.parameters()).device
            visual = model.embed_video(packed.embeddings[video][index].float().to(device)).cpu()
        # A clip without video is scored by motion alone; the head's bias would give it a direction.
        visual[~packed.has_embedding(video)[index].cpu()] = 0
        fuse = model.options.zero_shot_fusion
        temperature = float(torch.as_tensor(model.temperature).detach())
        scores["motion+video"] = zero_shot_scores(motion, text, visual, fuse=fuse, temperature=temperature)
    reports = {name: classification_report(s, labels, names) for name, s in scores.items()}
    clip_ids = [packed.clip_ids[i] for i in index.tolist()]
    predictions = {}
    for name, rows in scores.items():
        kind: Any = "probability" if name == "motion+video" and model.options.zero_shot_fusion == "score" else "cosine"
        predictions[name] = top_predictions(rows, labels, clip_ids, names, kind=kind)
    return ZeroShotResult(reports, names, 1 / len(names), model.options.zero_shot_metric, predictions)
