"""The three losses of one T-MOR step, forward and backward, against logits in memory: time, memory, differences.

    python benchmarks/run.py infonce_step [--quick] [--set infonce_step.work=objective]

Motion-motion over a bank, motion-video and motion-text over projected keys that need a gradient too: 256 queries, three
banks of 65,536 keys of width 128, 800 clusters, a fifth of the rows noise. Once from ready embeddings, once as
pre-training computes it, whose projections every form pays; a quick run does the first alone. The peer is the
reference of the same op, eager and, in a full run, compiled. On a GPU 1024 queries, the ready embeddings in float32 and
in bfloat16, replayed as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infonce_data import BANKS, QUERIES, TEMPERATURE, WIDTH, WRONG, WRONG_HALF, backends, data, too_large

from tmor_fast.benchmark import SECONDS, Call, Case, Claim, Contender, Settings, asked_seconds

CAPTIONS, DRAWN = 60, 4
VIDEO, TEXT = 512, 384  # width of the teachers' embeddings: ViCLIP, a small sentence encoder


ON_GPU = 1024  # queries


@dataclass(frozen=True)
class Step:
    """One size of the step: rows of each bank, queries, and what the banks are held in."""

    keys: int
    queries: int = QUERIES
    bank: str = "float32"

    @property
    def flops(self) -> float:
        """Both products of mm; of mv and mt four each: logits are computed again for the gradient of the keys."""
        return 2.0 * self.queries * self.keys * WIDTH * (2 + 4 + 4)


def _step(step: Step, settings: Settings, backend: str, compiled: bool = False) -> Call:
    """The three losses of one step of stage 2 with the method's defaults, forward and backward, from embeddings on."""
    import torch

    from tmor_fast.ops import cluster_infonce

    queries = step.queries
    given = data(step.keys, settings.device, queries=queries, bank_dtype=step.bank)
    query, bank = given.pop("query").requires_grad_(), given.pop("keys")
    video = bank.flip(1).contiguous().requires_grad_()
    text = bank.roll(1, 1).contiguous().requires_grad_()
    caption = given["key_id"] % CAPTIONS
    captions = {"query_caption": caption[:queries].clone(), "key_caption": caption}
    own = [video.detach()[:queries].clone(), text.detach()[:queries].clone()]
    common: dict[str, Any] = {"temperature": TEMPERATURE, "backend": backend}
    motion, rows = given.pop("positive"), given

    def total(query: Any, video: Any, text: Any) -> Any:
        mm = cluster_infonce(query, bank, motion, **rows, **common, max_positives=DRAWN, seed=1)
        mv = cluster_infonce(query, video, own[0], **rows, **common, positives="instance")
        mt = cluster_infonce(query, text, own[1], **rows, **captions, **common, positives="instance")
        return torch.stack([mm.mean(), mv.mean(), mt.mean()])

    run = torch.compile(total) if compiled else total

    def call() -> dict[str, Any]:
        losses = run(query, video, text)
        found = torch.autograd.grad(losses.sum(), (query, video, text))
        return {"loss": losses.detach()} | dict(zip(("gradient", "video", "text"), found, strict=True))

    return call


def _objective(keys: int, settings: Settings, backend: str) -> Call:
    """One step of pre-training from the encoder's features on: banks, projections of the teachers, the three losses.

    `backend` "projections" stops after the projected teacher banks and their gradient, which every form pays.
    """
    import functools
    from unittest import mock

    import torch
    from torch import nn

    from tmor_fast import ops
    from tmor_fast.nn import TMOR, Objective, TeacherFeatures, TMOROptions, UNIKConfig
    from tmor_fast.nn.objective import PROJECTED_AT_ONCE

    class Ready(nn.Module):
        """An encoder whose features are its input."""

        def features(self, joints: Any) -> Any:
            return joints

    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    options = TMOROptions(momentum=0, bank_dtype="float32", num_negatives=None)
    model = TMOR(UNIKConfig.preset("unik-micro"), options, video_dim=VIDEO, text_dim=TEXT)
    features = torch.randn(QUERIES, model.backbone.feature_dim, generator=random).to(settings.device).requires_grad_()
    model.backbone = Ready()  # type: ignore[assignment]
    teachers = TeacherFeatures(
        torch.randn(keys, VIDEO, generator=random), torch.randn(CAPTIONS, TEXT, generator=random),
        torch.arange(keys) % CAPTIONS,
    )  # fmt: skip
    objective = Objective(model, keys, teachers).to(settings.device)
    given = data(keys, settings.device)
    objective.bank.update(given["key_id"], given["keys"])
    objective.set_clusters(given["key_cluster"])
    index, chosen = (
        torch.arange(QUERIES, device=settings.device),
        functools.partial(ops.cluster_infonce, backend=backend),
    )

    def projections() -> Any:
        rows = objective.video.project(
            given["key_id"], model.video_head, grad=True, check=False, block=PROJECTED_AT_ONCE
        )
        return {"loss": rows.sum()}

    def call() -> dict[str, Any]:
        objective.zero_grad()
        features.grad = None
        if backend == "projections":
            found = projections()
        else:
            objective.step.zero_()  # every call draws the same positives
            with mock.patch.object(ops, "cluster_infonce", chosen):
                found = objective(features, features, index, stage=2)
        found["loss"].backward()
        return {"loss": found["loss"].detach(), "gradient": features.grad}

    return call


def _step_check(outputs: Mapping[str, Any], bank: str = "float32") -> dict[str, dict[str, Any]]:
    """Largest differences from the eager reference, relative to its largest value."""
    most = WRONG if bank == "float32" else WRONG_HALF
    facts: dict[str, dict[str, Any]] = {}
    exact = outputs.get("logits, eager")
    for name, output in outputs.items() if exact is not None else ():
        apart = max(float((output[k] - v).abs().max() / v.abs().max()) for k, v in exact.items())
        facts[name] = {"from eager": f"{apart:.1e}"}
        if not apart <= most:
            facts[name]["wrong"] = f"a difference of {apart:.1e} from the eager reference"
    return facts


def _step_case(step: Step, settings: Settings) -> Case:
    precision = {"float32": "fp32", "bfloat16": "bf16"}[step.bank]
    contenders = [
        Contender(
            f"tmor_fast, {backend}", "ours", lambda backend=backend: _step(step, settings, backend),  # type: ignore[misc]
            flops=step.flops, precision=precision, headline=place == 0, cuda_graph=backend == "cuda",
        )
        for place, backend in enumerate(backends(settings))
    ]  # fmt: skip
    for compiled in (False,) if settings.quick else (False, True):
        contenders.append(
            Contender(
                "logits, compiled" if compiled else "logits, eager", "peer",
                lambda compiled=compiled: _step(step, settings, "reference", compiled),  # type: ignore[misc]
                unavailable=lambda: too_large(3 * step.keys, settings), one_call_first=compiled,
                flops=step.flops, note="backend 'reference' of the same op",
            )
        )  # fmt: skip
    about = "" if step == Step(step.keys) else f", {step.queries} queries, {step.bank}"
    return Case(
        f"one T-MOR step, three banks of {step.keys:,}{about}",
        {
            "kind": "mm + mv + mt",
            "bank": step.keys,
            "queries": step.queries,
            "width": WIDTH,
            **({"dtype": step.bank} if about else {}),
        },
        contenders,
        check=lambda outputs: _step_check(outputs, step.bank),
        seconds=asked_seconds(settings),
    )


def _objective_case(keys: int, settings: Settings) -> Case:
    """The same inside pre-training: with the banks' rows gathered and the teachers' features projected on the fly."""
    first = backends(settings)[0]
    # Forward and both gradients of the two layers of the video head; then the losses, as above.
    projections = 3 * 2.0 * keys * VIDEO * (VIDEO + WIDTH)
    flops = projections + Step(keys).flops
    contenders = [
        Contender(f"tmor_fast, {first}", "ours", lambda: _objective(keys, settings, first), flops=flops, headline=True),
        Contender(
            "logits, eager", "peer", lambda: _objective(keys, settings, "reference"), flops=flops,
            unavailable=lambda: too_large(3 * keys, settings),
        ),
    ]  # fmt: skip
    contenders.append(
        Contender(
            "projections alone", "floor", lambda: _objective(keys, settings, "projections"), flops=projections,
            note=f"two layers, {VIDEO} to {WIDTH}, of every row of the video bank, forward and backward",
        )
    )  # fmt: skip
    return Case(
        f"one step of pre-training, {keys:,} samples",
        {"kind": "objective", "bank": keys, "queries": QUERIES, "video": VIDEO, "text": TEXT},
        contenders,
        check=lambda outputs: _step_check(
            {name: value for name, value in outputs.items() if name != "projections alone"}
        ),
        seconds=asked_seconds(settings),
    )


def cases(settings: Settings) -> Sequence[Case]:
    """The losses from ready embeddings, and inside pre-training."""
    forms = ("losses", "objective")
    asked = [name for name in settings.options["work"].split(",") if name]
    asked = asked or list(forms)[: 1 if settings.quick else None]
    unknown = sorted(set(asked) - set(forms))
    if unknown:
        raise ValueError(f"infonce_step.work: unknown {', '.join(unknown)}; accepted: {', '.join(forms)}")
    keys = BANKS[0]
    steps = [Step(keys)]
    if settings.device == "cuda":
        steps = [Step(keys, ON_GPU, "bfloat16"), Step(keys, ON_GPU)]
    found = [_step_case(step, settings) for step in steps] if "losses" in asked else []
    return [*found, _objective_case(keys, settings)] if "objective" in asked else found


CLAIM = Claim(
    "The three losses of a T-MOR step without logits in memory",
    cases,
    options={
        "work": ("", "losses, objective (inside pre-training), comma-separated; empty: both, quick: losses"),
        "seconds": SECONDS,
    },
)
