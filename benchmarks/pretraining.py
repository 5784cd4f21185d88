"""A step of pre-training in stage 2, from packed clips to moved weights: clips a second.

    python benchmarks/run.py pretraining [--quick] [--device cuda]

Two random views of every clip, the encoder, the key encoder, three losses over banks of all samples, the backward
pass, SGD, the step of the momentum encoder: all that a step does but Lightning's own part. On a GPU the whole UNIK, 150
frames and 65,536 samples; on a CPU the five-block preset, 32 frames and 8,192 samples. The peer is the same step with
the reference equations of every op; the floor is the encoder's part. Weights do not move (the rate is 0) and every call
is the same step, so that losses can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from only_reference import only_reference

from tmor_fast.benchmark import SECONDS, Call, Case, Claim, Contender, Settings, asked_seconds

# Preset, frames, samples and clips of a step.
SIZES = {"cpu": ("unik-micro", 32, 8_192, 64), "cuda": ("unik", 150, 65_536, 1024)}
QUICK = ("unik-micro", 32, 2_048, 32)
ACTIONS, VIDEO, TEXT = 60, 512, 384  # and the widths of the teachers' embeddings
OPS = ("cluster_infonce", "dependency_attention", "batch_norm_relu", "temporal_convolution")
# Largest difference of a loss, relative, from the same step with reference equations.
APART = {"fp32": 1e-3, "bf16": 5e-2}


def _size(settings: Settings) -> tuple[str, int, int, int]:
    return QUICK if settings.quick and settings.device == "cpu" else SIZES[settings.device]


def _packed(samples: int, frames: int, device: str) -> Any:
    """Clips of 2D joints that walk at random, `frames` long."""
    import torch

    from tmor_fast.data.layout import get_layout
    from tmor_fast.data.packed import PackedClips

    layout = get_layout("unik17")
    random = torch.Generator(device).manual_seed(0)
    joints = torch.randn(samples * frames, 1, layout.num_joints, 2, generator=random, device=device)
    names, texts = [f"clip {i}" for i in range(samples)], [""] * samples
    return PackedClips(
        joints=joints, valid=torch.ones(joints.shape[:3], dtype=torch.bool, device=device),
        offsets=torch.arange(samples + 1, device=device) * frames, label=torch.arange(samples, device=device) % ACTIONS,
        planar=torch.ones(samples, dtype=torch.bool, device=device), clip_ids=names, captions=texts, splits=texts,
        subjects=texts, views=texts, label_names=[f"action {i}" for i in range(ACTIONS)], layout=layout,
    )  # fmt: skip


def _objective(preset: str, samples: int, device: str) -> Any:
    """Model, key encoder and banks; the bank holds a row of every sample, half of the samples are in 800 clusters."""
    import torch

    from tmor_fast.nn import TMOR, Objective, TeacherFeatures, TMOROptions, UNIKConfig

    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    model = TMOR(UNIKConfig.preset(preset, persons=1), TMOROptions(), video_dim=VIDEO, text_dim=TEXT)
    teachers = TeacherFeatures(
        torch.randn(samples, VIDEO, generator=random), torch.randn(ACTIONS, TEXT, generator=random),
        torch.arange(samples) % ACTIONS,
    )  # fmt: skip
    objective = Objective(model, samples, teachers).to(device)
    rows = torch.nn.functional.normalize(torch.randn(samples, model.embedding_dim, generator=random), dim=1)
    objective.bank.update(torch.arange(samples, device=device), rows.to(device))
    clusters = torch.randint(800, (samples,), generator=random)
    clusters[::2] = -1
    objective.set_clusters(clusters.to(device))
    return objective.train()


def _step(settings: Settings, half: bool, form: str = "") -> Call:
    """Form "reference" takes the reference of every op, "encoder" leaves out views and losses."""
    import torch

    from tmor_fast.data.clip_batches import AugmentationConfig, ClipBatches

    preset, frames, samples, clips = _size(settings)
    batches = ClipBatches(_packed(samples, frames, settings.device), AugmentationConfig(frames=frames))
    objective = _objective(preset, samples, settings.device)
    learned = [p for p in objective.model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(learned, lr=0.0, momentum=0.9, nesterov=True)
    index = torch.randperm(samples, generator=torch.Generator().manual_seed(2))[:clips].to(settings.device)
    ready = batches.plain(index)
    before = objective.bank.gather(index)

    def losses() -> dict[str, Any]:
        draw = torch.Generator().manual_seed(3)
        query, key = (batches.random(index, draw, crop=crop) for crop in (False, True))
        found: dict[str, Any] = objective(query, key, index, stage=2)
        return found

    def encoder() -> dict[str, Any]:
        positive = objective.keys(ready)
        return {"loss": objective.model.backbone.features(ready).float().mean() + 0 * positive.float().mean()}

    def call() -> dict[str, Any]:
        objective.step.zero_()
        objective.bank.update(index, before, check=False)
        optimiser.zero_grad(set_to_none=True)
        with ExitStack() as stack:
            if form == "reference":
                stack.enter_context(only_reference(OPS))
            with torch.autocast(settings.device, torch.bfloat16, enabled=half):
                found = encoder() if form == "encoder" else losses()
            found["loss"].backward()
        optimiser.step()
        objective.after_step()
        return {name: value.detach() for name, value in found.items()}

    return call


def _check(outputs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Losses, and how far they are from those of the reference in the same precision."""
    facts: dict[str, dict[str, Any]] = {}
    for name, output in outputs.items():
        if "mm" not in output:
            continue
        precision = "bf16" if "bf16" in name else "fp32"
        truth = outputs.get("reference equations" + (", bf16" if precision == "bf16" else ""))
        facts[name] = {loss: f"{float(value):.4f}" for loss, value in output.items()}
        if truth is None or not name.startswith("tmor_fast"):
            continue
        apart = max(abs(float(output[loss]) / float(value) - 1) for loss, value in truth.items())
        facts[name]["from reference"] = f"{apart:.1e}"
        if not apart <= APART[precision]:
            facts[name]["wrong"] = f"a loss is {apart:.1e} from that of the reference equations"
    return facts


def _operations(settings: Settings) -> float:
    """Of the encoder: forward and backward of the queries, forward of the keys."""
    from tmor_fast.nn import UNIKConfig
    from tmor_fast.nn.flops import unik_flops

    preset, frames, _, clips = _size(settings)
    config = UNIKConfig.preset(preset, persons=1)
    return float(unik_flops(config, frames, clips=clips, training=True) + unik_flops(config, frames, clips=clips))


def cases(settings: Settings) -> Sequence[Case]:
    """One step."""
    preset, frames, samples, clips = _size(settings)
    contenders = []
    for half in (True, False) if settings.device == "cuda" else (False,):
        for name, role, form in (
            ("tmor_fast", "ours", ""),
            ("reference equations", "peer", "reference"),
            ("encoder alone", "floor", "encoder"),
        ):
            contenders.append(
                Contender(
                    name + (", bf16" if half else ""), role,
                    lambda half=half, form=form: _step(settings, half, form),  # type: ignore[misc]
                    flops=lambda: _operations(settings), precision="bf16" if half else "fp32",
                    headline=not contenders, note="operations: those of the encoder",
                )
            )  # fmt: skip
    return [
        Case(
            f"a step of {clips} clips, {samples:,} samples",
            {"preset": preset, "frames": frames, "samples": samples, "clips": clips},
            contenders,
            check=_check,
            seconds=asked_seconds(settings),
            amount=("clips", clips),
        )
    ]


CLAIM = Claim("A step of T-MOR's pre-training, end to end", cases, options={"seconds": SECONDS})
