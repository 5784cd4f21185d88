"""The three losses of one T-MOR step, forward and backward, against logits in memory: time, memory, differences.

    python benchmarks/run.py infonce_step [--quick] [--set infonce_step.work=objective]

Motion-motion over a bank, motion-video and motion-text over projected keys that need a gradient too: 256 queries, three
banks of 65,536 keys of width 128, 800 clusters, a fifth of the rows noise. Once from ready embeddings, once as
pre-training computes it, whose projections every form pays; a quick run does the first alone. The peer is the
reference of the same op, eager and, in a full run, compiled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infonce_data import BANKS, QUERIES, TEMPERATURE, WIDTH, WRONG, backends, data, too_large

from tmor_fast.benchmark import SECONDS, Call, Case, Claim, Contender, Settings, asked_seconds

CAPTIONS, DRAWN = 60, 4
VIDEO, TEXT = 512, 384  # width of the teachers' embeddings: ViCLIP, a small sentence encoder


def _step(keys: int, settings: Settings, backend: str, compiled: bool = False) -> Call:
    """The three losses of one step of stage 2 with the method's defaults, forward and backward, from embeddings on."""
    import torch

    from tmor_fast.ops import cluster_infonce

    given, teacher = data(keys, settings.device), data(keys, settings.device)
    query, bank = given.pop("query").requires_grad_(), given.pop("keys")
    video = teacher["keys"].flip(1).contiguous().requires_grad_()
    text = teacher["keys"].roll(1, 1).contiguous().requires_grad_()
    caption = given["key_id"] % CAPTIONS
    captions = {"query_caption": caption[:QUERIES].clone(), "key_caption": caption}
    own = [video.detach()[:QUERIES].clone(), text.detach()[:QUERIES].clone()]
    common: dict[str, Any] = {"temperature": TEMPERATURE, "backend": backend}
    motion, rows = given.pop("positive"), given

    def total(query: Any, video: Any, text: Any) -> Any:
        mm = cluster_infonce(query, bank, motion, **rows, **common, max_positives=DRAWN, seed=1)
        mv = cluster_infonce(query, video, own[0], **rows, **common, positives="instance")
        mt = cluster_infonce(query, text, own[1], **rows, **captions, **common, positives="instance")
        return torch.stack([mm.mean(), mv.mean(), mt.mean()])

    run = torch.compile(total) if compiled else total

    def call() -> dict[str, Any]:
        query.grad = video.grad = text.grad = None
        losses = run(query, video, text)
        losses.sum().backward()
        return {"loss": losses.detach(), "gradient": query.grad, "video": video.grad, "text": text.grad}

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


def _step_check(outputs: Mapping[str, Any], settings: Settings) -> dict[str, dict[str, Any]]:
    """Largest differences from the eager reference, relative to its largest value."""
    facts: dict[str, dict[str, Any]] = {}
    exact = outputs.get("logits, eager")
    for name, output in outputs.items() if exact is not None else ():
        apart = max(float((output[k] - v).abs().max() / v.abs().max()) for k, v in exact.items())
        facts[name] = {"from eager": f"{apart:.1e}"}
        if not apart <= WRONG:
            facts[name]["wrong"] = f"a difference of {apart:.1e} from the eager reference"
    return facts


def _step_case(keys: int, settings: Settings) -> Case:
    # Both products of mm, and three of mv and mt each, whose logits are computed again for the gradient of the keys.
    flops = 2.0 * QUERIES * keys * WIDTH * (2 + 4 + 4)
    contenders = [
        Contender(
            f"tmor_fast, {backend}", "ours", lambda backend=backend: _step(keys, settings, backend),  # type: ignore[misc]
            flops=flops, headline=place == 0,
        )
        for place, backend in enumerate(backends(settings))
    ]  # fmt: skip
    for compiled in (False,) if settings.quick else (False, True):
        contenders.append(
            Contender(
                "logits, compiled" if compiled else "logits, eager", "peer",
                lambda compiled=compiled: _step(keys, settings, "reference", compiled),  # type: ignore[misc]
                unavailable=lambda: too_large(3 * keys, settings), one_call_first=compiled,
                flops=flops, note="backend 'reference' of the same op",
            )
        )  # fmt: skip
    return Case(
        f"one T-MOR step, three banks of {keys:,}",
        {"kind": "mm + mv + mt", "bank": keys, "queries": QUERIES, "width": WIDTH},
        contenders,
        check=lambda outputs: _step_check(outputs, settings),
        seconds=asked_seconds(settings),
    )


def _objective_case(keys: int, settings: Settings) -> Case:
    """The same inside pre-training: with the banks' rows gathered and the teachers' features projected on the fly."""
    first = backends(settings)[0]
    # Forward and both gradients of the two layers of the video head; then the losses, as above.
    projections = 3 * 2.0 * keys * VIDEO * (VIDEO + WIDTH)
    flops = projections + 2.0 * QUERIES * keys * WIDTH * (2 + 4 + 4)
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
            {name: value for name, value in outputs.items() if name != "projections alone"}, settings
        ),
        seconds=asked_seconds(settings),
    )


def cases(settings: Settings) -> Sequence[Case]:
    """The losses from ready embeddings, and inside pre-training."""
    forms = {"losses": _step_case, "objective": _objective_case}
    asked = [name for name in settings.options["work"].split(",") if name]
    asked = asked or list(forms)[: 1 if settings.quick else None]
    unknown = sorted(set(asked) - set(forms))
    if unknown:
        raise ValueError(f"infonce_step.work: unknown {', '.join(unknown)}; accepted: {', '.join(forms)}")
    return [case(BANKS[0], settings) for name, case in forms.items() if name in asked]


CLAIM = Claim(
    "The three losses of a T-MOR step without logits in memory",
    cases,
    options={
        "work": ("", "losses, objective (inside pre-training), comma-separated; empty: both, quick: losses"),
        "seconds": SECONDS,
    },
)
