"""A copy of a model for inference: what does not change between calls is worked out once."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tmor_fast.nn.convolution import PackedConv2d
from tmor_fast.nn.folding import fold
from tmor_fast.nn.normalising import has_hooks
from tmor_fast.nn.unik_blocks import SpatialUnit, TemporalConv

Model = TypeVar("Model", bound=nn.Module)


@torch.inference_mode(False)
def for_inference(model: Model) -> Model:
    """A copy of a model for inference: batch norms inside the products before them, weights as the CPU reads them.

    `UNIK` in eval mode folds its norms at every call, so that weights may change between calls; the copy does it once,
    which shortens a call most where there are few clips (README, table). Outputs are those of the model in eval mode
    but for rounding; what becomes of the model later does not reach the copy.

    Args:
        model: a `UNIK`, `TMOR` or any module that holds one, in any mode, on any device, of any dtype. It stays as it
            is. Units to which somebody listens with hooks keep their norms.

    Returns:
        A copy in eval mode whose parameters take no gradient. It has its own state dict, which the model does not
        load: save the model. It moves to other devices and dtypes and can be copied and pickled; `train()` raises
        RuntimeError.

    Raises:
        TypeError: not a module.
        ValueError: there is no unit of UNIK in it (`tmor_fast.accelerate` makes no such units).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"for_inference takes a torch.nn.Module, got {type(model).__name__}")
    if not any(isinstance(module, (SpatialUnit, TemporalConv)) for module in model.modules()):
        raise ValueError(
            f"for_inference: this {type(model).__name__} holds no UNIK of this library; there is nothing to work out"
        )
    made = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, TemporalConv):
                _fold_temporal(module)
            elif isinstance(module, SpatialUnit):
                _fold_spatial(module)
    return made


def trained_state(model: nn.Module) -> dict[str, Any]:
    """The state dict of a model as it is trained, to be saved or to load into.

    Raises:
        ValueError: it is a copy by `for_inference`, whose weights are other ones.
    """
    if any(isinstance(module, (SpatialUnit, TemporalConv)) and module.norm is None for module in model.modules()):
        raise ValueError(
            "this model is a copy by for_inference: its batch norms are inside other weights and no checkpoint holds "
            "such a model; save, or load into, the model it was made from"
        )
    return model.state_dict()


def _fold_temporal(unit: TemporalConv) -> None:
    weight, bias, folded = fold(unit.norm, unit.conv.weight, unit.conv.bias)
    if folded and not has_hooks(unit.conv):
        unit.conv, unit.norm = PackedConv2d(unit.conv, weight, bias), None


def _fold_spatial(unit: SpatialUnit) -> None:
    weight, bias, folded = fold(unit.norm, unit.value_weight, unit.value_bias.sum(0))
    if folded and bias is not None:
        unit.value_weight, unit.value_bias, unit.norm = _constant(weight), _constant(bias[None]), None
    conv = unit.window_conv
    if conv is None:
        return
    weight, bias, folded = fold(unit.window_norm, conv.weight, conv.bias)
    if folded and bias is not None:
        conv.weight, conv.bias, unit.window_norm = _constant(weight), _constant(bias), None


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone(), requires_grad=False)
