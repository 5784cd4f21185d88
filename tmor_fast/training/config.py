"""What a run can be told: dataclasses that a YAML file and the command line fill."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from tmor_fast.atomic import new_file
from tmor_fast.data.clip_batches import AugmentationConfig
from tmor_fast.errors import check_range, missing
from tmor_fast.nn.options import TMOROptions
from tmor_fast.nn.unik_config import UNIKConfig

T = TypeVar("T")


@dataclass(frozen=True)
class BackboneConfig:
    """The UNIK encoder of a run.

    Args:
        preset: "unik", "unik-small", "unik-tiny" or "unik-micro".
        channels: 2 (image plane; 3D clips are projected from drawn views) or 3.
        persons: person slots of a clip.
        dilation: "released" or "thesis".
        init: "released" or "thesis".
        heads: dependency matrices of a block.
        tau: frames that a spatial unit sees together, odd.
        person_average: "all" slots or those "present".
    """

    preset: Literal["unik", "unik-small", "unik-tiny", "unik-micro"] = "unik"
    channels: Literal[2, 3] = 2
    persons: int = 1
    dilation: Literal["released", "thesis"] = "released"
    init: Literal["released", "thesis"] = "released"
    heads: int = 3
    tau: int = 1
    person_average: Literal["all", "present"] = "all"

    def build(self, joints: int, num_classes: int | None = None) -> UNIKConfig:
        """The encoder's configuration for skeletons of `joints` joints."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "preset"}
        return UNIKConfig.preset(self.preset, joints=joints, num_classes=num_classes, **fields)


@dataclass(frozen=True)
class OptimiserConfig:
    """Optimiser and schedule (row 20). The rate is `rate * batch_size / 256` if `scale_rate`.

    Args:
        name: "sgd" (Nesterov momentum 0.9) or "adamw".
        rate: learning rate.
        scale_rate: scale the rate with the batch.
        weight_decay: of all parameters.
        batch_size: clips a step.
        epochs: passes over the data.
        schedule: "cosine" (to zero), "steps" (a tenth at each milestone) or "constant".
        milestones: epochs at which the rate falls.
        warmup_epochs: epochs of linear warm-up.
        gradient_clip: largest gradient norm, 0 for no limit.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    rate: float = 0.1
    scale_rate: bool = True
    weight_decay: float = 1e-4
    batch_size: int = 256
    epochs: int = 200
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    milestones: tuple[int, ...] = ()
    warmup_epochs: float = 0.0
    gradient_clip: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rate", "batch_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"optimiser.{name}: got {getattr(self, name)}, must be above 0")
        for name in ("weight_decay", "epochs", "warmup_epochs", "gradient_clip"):
            check_range("optimiser", self, name, 0, float("inf"))
        if self.schedule == "steps" and not self.milestones:
            raise ValueError("optimiser.schedule='steps' needs milestones, e.g. optimiser.milestones=[10,20]")


@dataclass(frozen=True)
class CheckpointConfig:
    """When a run is saved besides the end of every epoch. It changes no result.

    Args:
        every_steps: save every so many steps, 0 for not.
        every_minutes: save at the first step so many minutes after the last save, 0 for not.
    """

    every_steps: int = 0
    every_minutes: float = 15.0

    def __post_init__(self) -> None:
        for name in ("every_steps", "every_minutes"):
            check_range("checkpoints", self, name, 0, float("inf"))


@dataclass(frozen=True)
class PretrainConfig:
    """One pre-training run: stage 1 (L_mm + L_mv), then stage 2 (+ L_mt), which starts from it.

    Args:
        backbone, augmentation, options, optimiser: see their classes; `optimiser.epochs` are those of stage 1.
        stage2_epochs: epochs of stage 2; 0 leaves it out.
        stage2_rate: learning rate of stage 2, null for the same.
        layout, normalisation: how stored clips are prepared.
        split: "train" uses the clips of that split (all clips of a data set without splits), "all" everything.
        text_teacher, video_teacher: names for `tmor_fast.teachers.get_teacher`, null for none.
        unlabelled: names of data sets whose action names and captions are not used.
        missing_text: a clip of a labelled data set without the text that stage 2 needs is an "error", or "skip": it
            trains there without L_mt.
        held_out: actions left out altogether, for zero-shot.
        precision: Lightning's precision, e.g. "32-true" or "bf16-mixed".
        checkpointing: keep the input of each encoder block alone and compute the rest again in the backward pass: less
            memory for a third more time.
        seed: of everything random.
        checkpoints: see its class.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    options: TMOROptions = field(default_factory=TMOROptions)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    stage2_epochs: int = 100
    stage2_rate: float | None = None
    layout: str = "unik17"
    normalisation: Literal["body", "screen", "none"] = "body"
    split: Literal["train", "all"] = "train"
    text_teacher: str | None = "minilm"
    video_teacher: str | None = "classical-video"
    unlabelled: tuple[str, ...] = ()
    missing_text: Literal["error", "skip"] = "error"
    held_out: tuple[str, ...] = ()
    precision: str = "32-true"
    checkpointing: bool = False
    seed: int = 1
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)


@dataclass(frozen=True)
class FinetuneConfig:
    """Supervised training of a whole encoder, from scratch or from a checkpoint.

    Args:
        backbone: used from scratch; a checkpoint brings its own.
        augmentation, optimiser: see their classes.
        protocol: split and metric, a name of `tmor_fast.evaluation.protocols`; "official" takes the store's split.
        streams: "joint", "bone" or both, whose scores are fused.
        share: share of the labelled training clips used (few-shot: 0.05, 0.1).
        few_shot: how they are drawn: "stratified" (by class, at least one each) or "uniform".
        fusion: what is summed over streams: "softmax" (the papers) or "logits" (the released test script).
        label_smoothing: of the cross entropy.
        layout, normalisation: how stored clips are prepared from scratch.
        precision: Lightning's precision.
        checkpointing: of the encoder's blocks, as in pre-training.
        seed: of everything random.
        checkpoints: see its class.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    protocol: str = "official"
    streams: tuple[Literal["joint", "bone"], ...] = ("joint",)
    share: float = 1.0
    few_shot: Literal["stratified", "uniform"] = "stratified"
    fusion: Literal["softmax", "logits"] = "softmax"
    label_smoothing: float = 0.0
    layout: str = "unik17"
    normalisation: Literal["body", "screen", "none"] = "body"
    precision: str = "32-true"
    checkpointing: bool = False
    seed: int = 1
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share: got {self.share}, must be above 0 and at most 1 (0.05 is five per cent)")
        if not self.streams:
            raise ValueError("streams: name at least one of 'joint', 'bone'")


@dataclass(frozen=True)
class ProbeConfig:
    """Linear probe: one linear layer on frozen features, which are computed once.

    Args:
        backbone, augmentation, layout, normalisation: used for a random backbone; a checkpoint brings its own.
        optimiser: of the linear layer.
        standardise: bring every feature to mean 0 and deviation 1 over the training clips first; a linear map, folded
            into the layer. The papers' probe does not, which weak features suffer from more than good ones.
        views: augmented views of each training clip besides the plain one.
        stream: input stream, "joint" or "bone"; a checkpoint brings its own.
        protocol, share, few_shot, seed: as in `FinetuneConfig`.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    standardise: bool = False
    views: int = 0
    stream: Literal["joint", "bone"] = "joint"
    protocol: str = "official"
    share: float = 1.0
    few_shot: Literal["stratified", "uniform"] = "stratified"
    layout: str = "unik17"
    normalisation: Literal["body", "screen", "none"] = "body"
    seed: int = 1


PRESET_FOLDER = Path(__file__).parent / "configs"


def preset_names() -> list[str]:
    """Names of the configurations that come with the library."""
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml"))


def load_config(cls: type[T], source: str | Path | None = None, overrides: Sequence[str] = ()) -> T:
    """Build a configuration from defaults, then a YAML file, then overrides.

    Args:
        cls: the dataclass.
        source: a YAML file, or the name of one that comes with the library (`preset_names`).
        overrides: "options.temperature=0.07" and the like, later ones win.

    Raises:
        ValueError: an unknown key or a value of the wrong type; the message says which and what is accepted.
        FileNotFoundError: no such file or preset.
    """
    try:
        import jsonargparse
    except ImportError as error:
        raise missing("jsonargparse", "train", "Reading a configuration") from error
    parser = jsonargparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_class_arguments(cls, as_group=False)
    parser.add_argument("--config", action="config")
    arguments = [] if source is None else ["--config", str(_find(source))]
    for override in overrides:
        if "=" not in override:
            raise ValueError(f"override {override!r}: write key=value, e.g. optimiser.epochs=50")
        arguments.append(f"--{override}")
    try:
        parsed: Any = parser.parse_args(arguments)
        parsed.pop("config", None)
        # `instantiate` came with 4.49; older versions know the long name alone.
        instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
        values = vars(instantiate(parsed))
    except (jsonargparse.ArgumentError, TypeError) as error:
        raise ValueError(f"{cls.__name__}: {error}") from error
    return cls(**values)


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    preset = PRESET_FOLDER / f"{source}.yaml"
    if preset.is_file():
        return preset
    raise FileNotFoundError(f"no configuration {source}; give a YAML file or one of: {', '.join(preset_names())}")


def to_yaml(config: Any) -> str:
    """A configuration as YAML that `load_config` reads back."""
    import yaml

    return yaml.safe_dump(plain_values(config), sort_keys=False)


def plain_values(config: Any) -> dict[str, Any]:
    """A configuration (a dataclass) as dicts, lists, strings and numbers."""
    return {name: _plain(value) for name, value in dataclasses.asdict(config).items()}


def save_config(folder: Path, config: Any) -> None:
    """Write `config.yaml` to a run folder, under a temporary name first."""
    with new_file(folder / "config.yaml") as temporary:
        temporary.write_text(to_yaml(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
