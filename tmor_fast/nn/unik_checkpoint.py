"""Released UNIK checkpoints in and out: one key per head there, fused tensors here."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tmor_fast.errors import DataError
from tmor_fast.nn.for_inference import trained_state
from tmor_fast.nn.unik import UNIK
from tmor_fast.nn.unik_blocks import UNIKBlock
from tmor_fast.nn.unik_config import Dilation, UNIKConfig

Source = Mapping[str, Tensor] | str | os.PathLike[str]
Encoder = Literal["q", "k"]

# What data-parallel training, the transfer wrapper, the detector and LAC's momentum pair put before the keys.
_WRAPPERS = ("module.", "model_action.", "unik.")
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class LoadReport:
    """What `load_official` left out.

    Args:
        prefix: what stood before the keys that were read.
        ignored: keys of the checkpoint that were not used: another encoder, a wrapper's head, a classifier not wanted.
        missing: keys that the checkpoint lacks; the model keeps its own values.
    """

    prefix: str
    ignored: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class _Entry:
    """One released tensor and the part of a model tensor that it fills."""

    key: str
    parameter: str
    index: tuple[slice | int, ...] = ()
    axes: int = 0  # axes of length 1 that the released 1x1 convolution has behind its matrix

    def read(self, state: Mapping[str, Tensor]) -> Tensor:
        tensor = state[self.parameter][self.index]
        return tensor.reshape(tuple(tensor.shape) + (1,) * self.axes)

    def write(self, state: Mapping[str, Tensor], value: Tensor) -> None:
        target = state[self.parameter][self.index]
        target.copy_(value.reshape(target.shape))


def to_official(model: UNIK, prefix: str = "") -> OrderedDict[str, Tensor]:
    """The weights of `model` under the released names, one tensor per head, on the CPU.

    Args:
        model: any UNIK.
        prefix: put before every key, e.g. "model_action." for the released transfer wrapper.

    Returns:
        Key -> copy of the tensor, in the released order; 362 entries for the released network with a classifier.
        `torch.save` of it is what the released code loads.

    Raises:
        ValueError: the model is a copy by `for_inference`.
    """
    state = trained_state(model)
    return OrderedDict(
        (prefix + entry.key, entry.read(state).detach().to("cpu", copy=True).contiguous()) for entry in _entries(model)
    )


@torch.no_grad()
def load_official(
    model: UNIK,
    source: Source,
    *,
    classifier: Literal["load", "keep"] = "load",
    encoder: Encoder = "q",
    strict: bool = True,
) -> LoadReport:
    """Load a released checkpoint into `model`. Either all of it is loaded or the model stays as it was.

    Args:
        model: a UNIK of the same joints, channels, persons, heads, tau and widths; see `config_from_official`.
        source: the released mapping of names to tensors, or the path of a file with it, read with `weights_only`. The
            prefixes `module.`, `model_action.`, `unik.`, `encoder_q.` and `encoder_k.` are understood.
        classifier: "load" takes `fc` from the checkpoint, "keep" keeps the model's own. A model without classifier
            has nothing to load it into and ignores it.
        encoder: which of a momentum pair to read.
        strict: raise on missing and unexpected keys; False only reports them. The joint biases, which the network
            never uses, and the counters of batches may always be missing.

    Returns:
        What was left out.

    Raises:
        DataError: not such a checkpoint, or it does not fit the model; every key at fault is named.
        ValueError: unknown `classifier` or `encoder`, or the model is a copy by `for_inference`.
    """
    if classifier not in ("load", "keep"):
        raise ValueError(f"unknown classifier {classifier!r}; accepted: 'load', 'keep'")
    state, prefix, ignored = _read(source, encoder)
    if classifier == "keep" or model.classifier is None:
        ignored += [prefix + key for key in state if key.startswith("fc.")]
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}

    target = trained_state(model)
    entries = [e for e in _entries(model) if classifier == "load" or not e.key.startswith("fc.")]
    shapes = {entry.key: tuple(entry.read(target).shape) for entry in entries}
    missing = [key for key in shapes if key not in state]
    unexpected = [key for key in state if key not in shapes]
    wrong = [key for key, shape in shapes.items() if key in state and tuple(state[key].shape) != shape]
    needed = [key for key in missing if not _is_optional(key)]
    if wrong or (strict and (needed or unexpected)):
        raise DataError(_mismatch(model, state, shapes, wrong, needed if strict else [], unexpected if strict else []))
    for entry in entries:
        if entry.key in state:
            entry.write(target, state[entry.key])
    return LoadReport(prefix, tuple(ignored + [prefix + key for key in unexpected]), tuple(missing))


def config_from_official(source: Source, *, dilation: Dilation = "released", encoder: Encoder = "q") -> UNIKConfig:
    """The configuration that a released checkpoint was trained with, read off the shapes of its tensors.

    Strides leave no trace in a shape: blocks with a projected residual are taken to have stride 2 and all others
    stride 1, as released. Dilation leaves none either.

    Args:
        source, encoder: as in `load_official`.
        dilation: to put into the configuration.

    Raises:
        DataError: not such a checkpoint.
    """
    state, _, _ = _read(source, encoder)
    blocks = 1 + max(int(match[1]) for key in state if (match := re.match(r"l(\d+)\.", key)))
    try:
        widths = tuple(state[f"l{i}.t_unit.conv.weight"].shape[0] for i in range(1, blocks))
        window = state["l1.s_unit.out_conv.weight"].shape[3] if "l1.s_unit.out_conv.weight" in state else 1
        joints = state["l1.s_unit.DepM"].shape[1] // window
        channels = state["l1.s_unit.conv_a.0.weight"].shape[1]
        return UNIKConfig(
            joints=joints,
            channels=channels,
            persons=state["data_bn.weight"].shape[0] // (joints * channels),
            num_classes=state["fc.weight"].shape[0] if "fc.weight" in state else None,
            heads=state[f"l{blocks - 1}.s_unit.DepM"].shape[0],
            tau=window,
            widths=widths,
            strides=tuple(2 if f"l{i}.residual.conv.weight" in state else 1 for i in range(1, blocks)),
            dilation=dilation,
            first_block_heads=state["l1.s_unit.DepM"].shape[0],
        )
    except KeyError as error:
        raise DataError(f"the checkpoint lacks the key {error}, so its configuration cannot be read") from None


def _entries(model: UNIK) -> Iterator[_Entry]:
    """Every released tensor of `model`, in the released order."""
    yield from _module("data_bn", "data_bn", _NORM)
    for i, block in enumerate(model.blocks):
        here, there = f"blocks.{i}.spatial", f"l{i + 1}.s_unit"
        if not isinstance(block, UNIKBlock):
            raise TypeError(f"block {i} of the model is no UNIKBlock but a {type(block).__name__}")
        unit = block.spatial
        yield _Entry(f"{there}.DepM", f"{here}.dependency")
        yield _Entry(f"{there}.bias", f"{here}.joint_bias")
        if unit.window_conv is not None:
            yield from _module(f"{there}.out_conv", f"{here}.window_conv", ("weight", "bias"))
            yield from _module(f"{there}.out_bn", f"{here}.window_norm", _NORM)
        # theta of every head, then phi of every head, stacked in one matrix.
        for name, first in (("conv_a", 0), ("conv_b", unit.heads)):
            for head in range(unit.heads):
                rows = slice((first + head) * unit.embedding, (first + head + 1) * unit.embedding)
                yield _Entry(f"{there}.{name}.{head}.weight", f"{here}.query_key_weight", (rows,), 2)
                yield _Entry(f"{there}.{name}.{head}.bias", f"{here}.query_key_bias", (rows,))
        for head in range(unit.heads):
            columns = slice(head * unit.in_channels, (head + 1) * unit.in_channels)
            yield _Entry(f"{there}.conv_d.{head}.weight", f"{here}.value_weight", (slice(None), columns), 2)
            yield _Entry(f"{there}.conv_d.{head}.bias", f"{here}.value_bias", (head,))
        if unit.shortcut is not None:
            yield from _module(f"{there}.down.0", f"{here}.shortcut.conv", ("weight", "bias"))
            yield from _module(f"{there}.down.1", f"{here}.shortcut.norm", _NORM)
        yield from _module(f"{there}.bn", f"{here}.norm", _NORM)
        units = ("temporal", "t_unit"), ("residual", "residual")
        for own, released in units if block.residual is not None else units[:1]:
            yield from _module(f"l{i + 1}.{released}.conv", f"blocks.{i}.{own}.conv", ("weight", "bias"))
            yield from _module(f"l{i + 1}.{released}.bn", f"blocks.{i}.{own}.norm", _NORM)
    if model.classifier is not None:
        yield from _module("fc", "classifier", ("weight", "bias"))


def _module(released: str, own: str, names: tuple[str, ...]) -> Iterator[_Entry]:
    for name in names:
        yield _Entry(f"{released}.{name}", f"{own}.{name}")


def _read(source: Source, encoder: Encoder) -> tuple[dict[str, Tensor], str, list[str]]:
    """The bare released keys, the prefix they had, and the keys that had another one."""
    if encoder not in ("q", "k"):
        raise ValueError(f"unknown encoder {encoder!r}; accepted: 'q', 'k'")
    where = "the checkpoint"
    content: Any = source
    if isinstance(source, (str, os.PathLike)):
        where = str(os.fspath(source))
        content = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise DataError(f"{where} is not a mapping of names to tensors; got {type(content).__name__}")
    others = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise DataError(
            f"{where} holds more than tensors ({', '.join(others[:4])}); pass the mapping of tensors inside it, "
            "e.g. checkpoint['state_dict']"
        )
    prefix = _find_prefix(content, f"encoder_{encoder}.")
    if prefix is None:
        raise DataError(
            f"{where} is no UNIK checkpoint: no key ends in 'l1.s_unit.DepM' behind the prefixes "
            f"{', '.join(_WRAPPERS)} and encoder_{encoder}.; first keys: {', '.join(list(content)[:4]) or 'none'}"
        )
    state = {key[len(prefix) :]: value for key, value in content.items() if key.startswith(prefix)}
    return state, prefix, [key for key in content if not key.startswith(prefix)]


def _find_prefix(content: Mapping[str, Tensor], encoder: str) -> str | None:
    """What stands before the keys of the network, made of known parts in any order."""
    anchor = "l1.s_unit.DepM"
    for key in content:
        rest = key.removesuffix(anchor)
        if rest == key:
            continue
        prefix = rest
        while part := next((part for part in (*_WRAPPERS, encoder) if rest.startswith(part)), None):
            rest = rest.removeprefix(part)
        if not rest:
            return prefix
    return None


def _is_optional(key: str) -> bool:
    return key.endswith(("s_unit.bias", "num_batches_tracked"))


def _mismatch(
    model: UNIK,
    state: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    wrong: list[str],
    missing: list[str],
    unexpected: list[str],
) -> str:
    """The message that names every key at fault and what to do."""
    lines = ["the checkpoint does not fit the model"]
    if wrong:
        listed = [f"{key} is {tuple(state[key].shape)}, the model has {shapes[key]}" for key in wrong]
        lines.append("shapes: " + "; ".join(listed))
    if missing:
        lines.append("missing: " + ", ".join(missing))
    if unexpected:
        lines.append("unexpected: " + ", ".join(unexpected))
    faults = wrong + missing + unexpected
    if any(key.startswith("data_bn.") for key in wrong):
        c = model.config
        lines.append(
            f"data_bn has persons x joints x channels entries, here {c.persons} x {c.joints} x {c.channels}; "
            "config_from_official(source) gives the configuration of the checkpoint"
        )
    if any(key.startswith("fc.") for key in faults):
        lines.append("to keep the model's own classifier pass classifier='keep'")
    return "\n  ".join(lines)
