"""How many floating-point operations UNIK takes: 2 per multiply-add of every matrix product and convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from tmor_fast.nn.convolution import has_fused_convolution
from tmor_fast.nn.unik import UNIK
from tmor_fast.nn.unik_config import UNIKConfig


def dependency_attention_flops(
    x_shape: torch.Size, query_key_shape: torch.Size, value_shape: torch.Size, num_heads: int
) -> int:
    """Operations of one forward `dependency_attention`.

    Args:
        x_shape: (N, T, V, Cin).
        query_key_shape: (2 * H * Ce, Cin).
        value_shape: (Cout, H * Cin).
        num_heads: H.
    """
    clips, frames, joints, channels = x_shape
    rows = clips * frames * joints
    embeddings = 2 * rows * channels * query_key_shape[0]
    logits = rows * joints * query_key_shape[0]
    mixing = 2 * rows * joints * num_heads * channels
    values = 2 * rows * value_shape[0] * value_shape[1]
    return embeddings + logits + mixing + values


def _forward(
    x: torch.Size,
    query_key_weight: torch.Size,
    query_key_bias: torch.Size,
    dependency: torch.Size,
    value_weight: torch.Size,
    *args: Any,
    **kwargs: Any,
) -> int:
    return dependency_attention_flops(x, query_key_weight, value_weight, dependency[0])


def _backward(grad: torch.Size, *args: Any, **kwargs: Any) -> int:
    # Every product has two factors, so two products of its size; what the kernel computes again is not counted.
    return 2 * _forward(*args, **kwargs)


def _fused_convolution(x: torch.Size, *args: Any, out_shape: torch.Size, **kwargs: Any) -> int:
    # With a shortcut its shape comes before the weight's.
    weight = args[1] if args[1] is not None and len(args[1]) == len(x) else args[0]
    return conv_flop_count(list(x), list(weight), list(out_shape))


def _temporal_forward(x: torch.Size, weight: torch.Size, *args: Any, out_shape: torch.Size, **kwargs: Any) -> int:
    clips, frames, joints, channels = out_shape
    return 2 * clips * frames * joints * channels * weight[1] * weight[2]


def _temporal_backward(
    grad: torch.Size, x: torch.Size, weight: torch.Size, *args: Any, out_shape: Any, **kwargs: Any
) -> int:
    needed = args[3]
    return sum(needed[:2]) * _temporal_forward(x, weight, out_shape=grad)


def flop_formulas() -> dict[Any, Callable[..., int]]:
    """The `custom_mapping` with which `torch.utils.flop_counter.FlopCounterMode` knows the ops that UNIK calls.

    They are this library's, and oneDNN's fused convolution where torch has it.
    """
    ops = torch.ops.tmor_fast
    fused = {torch.ops.mkldnn._convolution_pointwise: _fused_convolution} if has_fused_convolution() else {}
    return {
        **fused,
        ops.dependency_attention: _forward,
        ops.dependency_attention_statistics: _forward,
        ops.dependency_attention_backward: _backward,
        ops.temporal_convolution: _temporal_forward,
        ops.temporal_convolution_backward: _temporal_backward,
    }


def unik_flops(config: UNIKConfig, frames: int, *, clips: int = 1, training: bool = False) -> int:
    """Operations of UNIK on `clips` clips of `frames` frames with all person slots. Nothing is computed.

    Args:
        config: the network; without `num_classes` the classifier is left out.
        frames: T.
        clips: N.
        training: count the backward pass too.

    Returns:
        Operations, e.g. 13.1e9 for the released network, one clip, 150 frames, two persons.
    """
    counter = FlopCounterMode(display=False, custom_mapping=flop_formulas())
    # Fake tensors carry shapes through the real code without computing.
    with FakeTensorMode(), torch.set_grad_enabled(training):
        model = UNIK(config).eval()
        joints = torch.empty(clips, config.channels, frames, config.joints, config.persons)
        with counter:
            output = model(joints)
            if training:
                output.sum().backward()
    return counter.get_total_flops()
