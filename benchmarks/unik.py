"""UNIK against its released form, one convolution per head: inference, latency of one clip, training step.

    python benchmarks/run.py unik [--quick] [--set unik.persons=2 --set unik.empty=1]

The released network, 17 joints in 2D, 150 frames. Weights are the same in both forms, drawn at random with every norm
at work, so that outputs and gradients are compared with float64. On a GPU larger batches, and ours is quoted in
bfloat16: against the released form under autocast, eager and compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tmor_fast.benchmark import SECONDS, Call, Case, Claim, Contender, Settings, asked_seconds
from tmor_fast.benchmark.machine import cpu_flags

FRAMES, CLASSES = 150, 60
PRODUCT = 1024  # rows and columns of the matrices whose products are the floor
SIZES = {"inference": 32, "latency": 1, "training": 16}
QUICK_SIZES = {"inference": 4, "training": 2}
ON_GPU = {"inference": 256, "latency": 1, "training": 64}
# Largest error against float64 relative to the largest value. In few clips a single ReLU that rounding puts on the
# other side moves all gradients before it by some 1e-3, in either form; bf16 keeps 8 bits.
WRONG = {"fp32": {"scores": 1e-4, "loss": 1e-4, "last gradient": 1e-4, "first gradient": 0.05}}
WRONG["bf16"] = dict.fromkeys(WRONG["fp32"], 0.3)


def _config(settings: Settings) -> Any:
    from tmor_fast.nn import UNIKConfig

    return UNIKConfig.preset("unik", persons=int(settings.options["persons"]), num_classes=CLASSES)


def _model(released: bool, settings: Settings) -> Any:
    """The network in one of both forms with the same weights, float32 on the CPU."""
    import torch

    from tmor_fast.nn import UNIK, to_official
    from tmor_fast.nn.unik_released import ReleasedUNIK

    torch.manual_seed(0)
    model = UNIK(_config(settings))
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)  # as released they start near 0 and would hide the heads
            torch.nn.init.normal_(module.bias, std=0.1)
    if not released:
        return model
    twin = ReleasedUNIK(model.config)
    twin.load_state_dict(to_official(model))
    return twin


def _joints(clips: int, settings: Settings) -> Any:
    import torch

    config = _config(settings)
    random = torch.Generator().manual_seed(1)
    joints = torch.randn(clips, config.channels, FRAMES, config.joints, config.persons, generator=random)
    joints[..., config.persons - int(settings.options["empty"]) :] = 0
    return joints


def _labels(clips: int) -> Any:
    import torch

    return torch.randint(CLASSES, (clips,), generator=torch.Generator().manual_seed(2))


def _autocast(half: bool, device: str) -> Any:
    import torch

    return torch.autocast(device, torch.bfloat16, enabled=half)


def _inference(clips: int, released: bool, form: str, settings: Settings) -> Call:
    """Eval mode without gradients. Ours as `for_inference` gives it; form "as trained" is the module itself."""
    import torch

    from tmor_fast.nn import for_inference

    model = _model(released, settings).eval().to(settings.device)
    joints = _joints(clips, settings).to(settings.device)
    if form == "channels-last":
        model = model.to(memory_format=torch.channels_last)
    if not released and form in ("", "bf16"):
        model = for_inference(model)
    forward = torch.compile(model) if "compiled" in form else model

    def call() -> dict[str, Any]:
        with torch.no_grad(), _autocast("bf16" in form, settings.device):
            return {"scores": forward(joints).float()}

    return call


def _training(clips: int, released: bool, form: str, settings: Settings) -> Call:
    """Forward, backward and the papers' optimiser; its rate is 0, so that every step starts from the same weights."""
    import torch
    import torch.nn.functional as F

    model = _model(released, settings).train().to(settings.device)
    joints, labels = (value.to(settings.device) for value in (_joints(clips, settings), _labels(clips)))
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(learned, lr=0.0, momentum=0.9, nesterov=True)
    forward = torch.compile(model) if "compiled" in form else model
    classifier = model.fc if released else model.classifier

    def call() -> dict[str, Any]:
        optimiser.zero_grad(set_to_none=True)
        with _autocast("bf16" in form, settings.device):
            loss = F.cross_entropy(forward(joints).float(), labels)
        loss.backward()
        optimiser.step()
        # The first and the last weights of both forms have the same meaning.
        return {
            "loss": loss.detach(), "last gradient": classifier.weight.grad, "first gradient": model.data_bn.weight.grad,
        }  # fmt: skip

    return call


def _products(operations: Callable[[], float], settings: Settings) -> Call:
    """As many operations in large matrix products: what the machine can do in the minutes in which the others run."""
    import torch

    a, b = (torch.randn(PRODUCT, PRODUCT, device=settings.device) for _ in range(2))
    count = _product_count(operations())

    def call() -> None:
        for _ in range(count):
            torch.mm(a, b)

    return call


def _product_count(operations: float) -> int:
    return max(1, round(operations / (2 * PRODUCT**3)))


def _no_bf16(settings: Settings) -> str | None:
    if settings.device == "cpu" and not {"avx512_bf16", "amx_bf16", "bf16"} & set(cpu_flags()):
        return "this CPU has no bf16 instructions"
    return None


def _contenders(work: str, clips: int, settings: Settings) -> list[Contender]:
    setup = _training if work == "training" else _inference
    known = functools.partial(_flops, work, clips, settings.options["persons"])
    on_gpu = settings.device == "cuda"

    def one(released: bool, *form: str, headline: bool = False) -> Contender:
        name = ["released" if released else "tmor_fast", *form, *(["eager"] if released and not form else [])]
        precision, compiled = "bf16" if "bf16" in form else "fp32", "compiled" in form
        return Contender(
            ", ".join(name), "peer" if released else "ours", lambda: setup(clips, released, ", ".join(form), settings),
            precision=precision, unavailable=(lambda: _no_bf16(settings)) if precision == "bf16" else None,
            one_call_first=compiled, cuda_graph="graph" in form or (work != "training" and not compiled),
            headline=headline,
            flops=known if compiled or on_gpu or settings.quick else None,
        )  # fmt: skip

    if settings.quick and not on_gpu:
        return [one(False, headline=True), one(True)]
    found = [one(False, headline=not on_gpu), one(True), one(False, "bf16", headline=on_gpu), one(True, "bf16")]
    if settings.quick:
        return found
    found += [one(False, "compiled"), one(True, "compiled")]
    if on_gpu:
        found += [one(False, "bf16", "compiled"), one(True, "bf16", "compiled")]
    if on_gpu and work == "training":  # launches show there too
        found += [one(False, "bf16", "graph"), one(True, "bf16", "graph")]
    found.append(
        Contender(
            f"products of {PRODUCT} squared", "floor", lambda: _products(known, settings),
            flops=lambda: 2.0 * PRODUCT**3 * _product_count(known()),
            note="as many operations as one pass, to the next whole product",
        )
    )  # fmt: skip
    if work != "training":
        found += [one(False, "as trained"), one(True, "channels-last")]
    return found


@functools.lru_cache
def _flops(work: str, clips: int, persons: str) -> float:
    from tmor_fast.nn.flops import unik_flops

    config = _config(Settings(options={"persons": persons}))
    return float(unik_flops(config, FRAMES, clips=clips, training=work == "training"))


def _check(outputs: Mapping[str, Any], work: str, clips: int, settings: Settings) -> dict[str, dict[str, Any]]:
    """Errors against the released form in float64, relative to the largest value."""
    import torch
    import torch.nn.functional as F

    twin = _model(True, settings).to(settings.device, torch.float64)
    joints = _joints(clips, settings).to(settings.device, torch.float64)
    if work == "training":
        loss = F.cross_entropy(twin.train()(joints), _labels(clips).to(settings.device))
        loss.backward()
        truth = {
            "loss": loss.detach(), "last gradient": twin.fc.weight.grad, "first gradient": twin.data_bn.weight.grad,
        }  # fmt: skip
    else:
        with torch.no_grad():
            truth = {"scores": twin.eval()(joints)}
    truth = {name: value.cpu() for name, value in truth.items()}
    facts: dict[str, dict[str, Any]] = {}
    for contender, output in outputs.items():
        if not set(truth) <= set(output or ()):
            continue  # the floor computes something else
        errors = {
            name: float((output[name].double() - value).abs().max() / value.abs().max())
            for name, value in truth.items()
        }
        facts[contender] = {f"{name} error": f"{error:.1e}" for name, error in errors.items()}
        allowed = WRONG["bf16" if "bf16" in contender else "fp32"]
        wrong = [name for name, error in errors.items() if not error < allowed[name]]
        if wrong:
            facts[contender]["wrong"] = f"{', '.join(wrong)} against float64"
    return facts


def cases(settings: Settings) -> Sequence[Case]:
    """Inference on a batch, one clip alone, a training step."""
    sizes = SIZES
    if settings.device == "cuda":
        sizes = ON_GPU
    elif settings.quick:
        sizes = QUICK_SIZES
    asked = [name for name in settings.options["work"].split(",") if name]
    unknown = sorted(set(asked) - set(sizes))
    if unknown:
        raise ValueError(f"unik.work: unknown {', '.join(unknown)}; accepted: {', '.join(sizes)}")
    return [
        Case(
            f"{work}, {clips} clip" + ("s" if clips > 1 else ""),
            {
                "clips": clips,
                "frames": FRAMES,
                "joints": 17,
                "persons": int(settings.options["persons"]),
                "empty": int(settings.options["empty"]),
            },
            _contenders(work, clips, settings),
            check=lambda outputs, work=work, clips=clips: _check(outputs, work, clips, settings),  # type: ignore[misc]
            seconds=asked_seconds(settings),
            amount=("clips", clips),
        )
        for work, clips in sizes.items()
        if not asked or work in asked
    ]


CLAIM = Claim(
    "UNIK against its released form",
    cases,
    options={
        "persons": ("1", "person slots of a clip"),
        "empty": ("0", "how many of them hold nobody, the last ones"),
        "work": ("", "inference, latency, training, comma-separated; empty: all"),
        "seconds": SECONDS,
    },
)
