"""Every choice that the T-MOR papers leave open, as one validated dataclass.

Each option names the question it answers (`row`, 1 to 24: loss form, banks, clusters, text, transfer), its default and
the alternatives. `option_table()` is the documentation: `tmor options` prints it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal


def _option(default: Any, row: int, question: str, **limits: float) -> Any:
    return dataclasses.field(default=default, metadata={"row": row, "question": question, **limits})


@dataclass(frozen=True)
class TMOROptions:
    """The method's named options (paper: T-MOR, equations 1 to 9; the papers leave them open)."""

    denominator: Literal["all", "negatives"] = _option(
        "all", 1, "are the positives in the denominator (paper eq. 6: yes; thesis 6.3: no, 'negatives')"
    )
    positives: Literal["sum", "mean", "supcon"] = _option(
        "sum", 2, "several positives of motion-motion: sum inside the log, mean inside, or mean of logs"
    )
    max_positives: int | None = _option(
        4, 3, "same-cluster keys added to the own view: at most so many, drawn at random; 0 none, null all", min=0
    )
    cross_positives: Literal["instance", "cluster"] = _option(
        "instance", 4, "positives of motion-video and motion-text: the own sample, or its whole cluster"
    )
    text_negatives: Literal["text_or_cluster", "cluster"] = _option(
        "text_or_cluster", 5, "what removes a text negative: the same text or the same cluster, or the cluster alone"
    )
    num_negatives: int | None = _option(
        65536, 6, "bank rows compared with in a step, drawn without replacement; null = the whole data set", min=1
    )
    negatives: Literal["shared", "per_query"] = _option(
        "shared", 6, "one draw for the batch, or one for each query (exact but slow)"
    )
    motion_bank: Literal["sample", "fifo"] = _option(
        "sample", 7, "motion keys: one row a sample, or a first-in-first-out queue of num_negatives rows"
    )
    bank_dtype: Literal["float16", "bfloat16", "float32"] = _option("float16", 7, "precision of the motion bank")
    momentum: float = _option(0.994, 7, "momentum of the key encoder; 0 = the online encoder, detached", min=0, max=1)
    temperature: float = _option(0.1, 8, "softmax temperature", min=1e-4)
    learn_temperature: bool = _option(False, 8, "train the temperature (in log space)")
    embedding_dim: int = _option(128, 9, "size of the shared embedding space", min=1)
    head_layers: int = _option(2, 9, "layers of each projection head; 0 = none, normalised features", min=0)
    head_hidden: int | None = _option(
        None, 9, "hidden width of the projection heads; null = that of the head's input", min=1
    )
    head_batch_norm: bool = _option(False, 9, "batch normalisation inside the heads")
    per_loss_heads: bool = _option(False, 9, "one motion head a loss instead of a shared one")
    cluster_input: Literal["features", "projection"] = _option(
        "features", 10, "what is clustered: pooled backbone features, or projected embeddings (both l2-normalised)"
    )
    eps: float | None = _option(
        None, 11, "DBSCAN radius (cosine distance); null = knee of the k-distance curve at the first clustering", min=0
    )
    min_samples: int = _option(4, 11, "DBSCAN min_samples, the point itself included", min=1)
    refresh_eps: bool = _option(False, 11, "estimate eps at every clustering instead of the first alone")
    noise: Literal["singleton", "not_negative", "no_loss"] = _option(
        "singleton", 12, "noise points: own view as positive and negative for all, no negatives for others, or no loss"
    )
    warmup_epochs: int = _option(1, 13, "epochs of instance discrimination before the first clustering", min=0)
    max_cluster_share: float = _option(
        0.5, 13, "a clustering whose largest cluster holds more than this share is not used (logged)", min=0, max=1
    )
    cluster_every: int = _option(1, 14, "epochs between clusterings", min=1)
    stage2_clusters: Literal["motion", "labels"] = _option(
        "motion", 15, "clusters of stage 2: motion, or action labels"
    )
    symmetric: bool = _option(False, 16, "also video-to-motion and text-to-motion")
    negative_gradient: bool = _option(True, 17, "gradient to the teacher heads from sampled bank rows")
    text: Literal["label", "caption", "both"] = _option(
        "label", 19, "text of a clip: action name, caption, or the mean embedding of both"
    )
    detection_head: Literal["fc", "tcn"] = _option("fc", 21, "frame-wise head: one linear layer, or a dilated TCN")
    stream: Literal["joint", "bone"] = _option("joint", 22, "input stream of the encoder; scores of two streams fuse")
    zero_shot_fusion: Literal["embedding", "score"] = _option(
        "embedding", 23, "zero-shot with motion and video: mean of embeddings, or mean of softmax scores"
    )
    zero_shot_metric: Literal["both", "top1", "mean_per_class"] = _option(
        "both", 24, "what zero-shot reports first: top-1, mean per-class accuracy, or both"
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            choices = choices_of(field)
            if choices and value not in choices:
                raise ValueError(f"TMOROptions.{field.name}: got {value!r}, accepted: {', '.join(map(repr, choices))}")
            low, high = field.metadata.get("min"), field.metadata.get("max")
            if value is not None and ((low is not None and value < low) or (high is not None and value > high)):
                upper = "" if high is None else f" and at most {high}"
                raise ValueError(f"TMOROptions.{field.name}: got {value!r}, must be at least {low}{upper}")


def choices_of(field: dataclasses.Field) -> tuple[str, ...]:
    """The accepted strings of a Literal option, () for numbers and booleans."""
    import typing

    hint = typing.get_type_hints(TMOROptions)[field.name]
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def option_table() -> list[tuple[int, str, str, str, str]]:
    """Rows (number of the open question, option, default, alternatives, what it decides), in order of the numbers.

    Questions 18 (clip length, rotation, crop) and 20 (optimiser) are settled by `AugmentationConfig` and
    `OptimiserConfig` of `tmor_fast.training`, since they belong to a run rather than to the method.
    """
    rows = []
    for field in dataclasses.fields(TMOROptions):
        other = [repr(c) for c in choices_of(field) if c != field.default]
        rows.append(
            (field.metadata["row"], field.name, repr(field.default), ", ".join(other), field.metadata["question"])
        )
    return sorted(rows, key=lambda row: row[0])
