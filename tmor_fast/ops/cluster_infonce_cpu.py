"""The compiled CPU kernels of `cluster_infonce`: from tensors to pointers and back.

Every query's sums over the bank are the same, bit for bit, for any number of threads: the bank is cut by the sizes
alone and the parts are merged in their order (csrc/cluster_infonce/cpu_forward.cpp).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tmor_fast.build import compiled, extension
from tmor_fast.ops.cluster_infonce_reference import Rows
from tmor_fast.ops.launch import FLOATS, Launch, dtype_code, single

NAME = "cluster_infonce"
_FORMS = {"sum": 0, "mean": 1, "supcon": 2}
_DENOMINATORS = {"all": 0, "negatives": 1}
# Asked once: torch.compile cannot trace through a call of the compiled module.
_MISSING = compiled(NAME, "cpu")


def unavailable(query: Tensor, keys: Tensor, positive: Tensor | None) -> str | None:
    """None if the CPU kernel can take these tensors, else the reason why not."""
    if query.device.type != "cpu":
        return f"it takes CPU tensors, query is on {query.device}"
    for name, value in (("query", query), ("keys", keys), ("positive", positive)):
        if value is not None and value.dtype not in FLOATS:
            accepted = ", ".join(map(str, FLOATS))
            return f"it takes {accepted}, {name} is {value.dtype} (backends 'tiled' and 'reference' take it)"
    return _MISSING


def _rows_contiguous(keys: Tensor) -> Tensor:
    """`keys`, copied only where the numbers of one row do not lie side by side."""
    return keys if keys.stride(1) == 1 or keys.shape[1] == 1 else keys.contiguous()


class KernelCall:
    """The arguments that all compiled kernels share; keeps what was converted alive until the kernel has run.

    Arguments as in `tiled_forward`; everything becomes float32 but the keys.
    """

    def __init__(
        self,
        query: Tensor,
        keys: Tensor,
        positive: Tensor | None,
        temperature: Tensor,
        rows: Rows,
        chosen: Tensor | None,
        form: str,
        denominator: str,
    ) -> None:
        self.query, self.keys = single(query), _rows_contiguous(keys.detach())
        self.positive = None if positive is None else single(positive)
        self.rows = Rows(*(None if r is None else r.contiguous() for r in rows))  # type: ignore[arg-type]
        self.weight = None if rows.key_log_weight is None else single(rows.key_log_weight)
        self.chosen = None if chosen is None or not chosen.shape[1] else chosen.contiguous()
        self.listed = chosen is not None
        self.temperature = temperature
        self.form, self.denominator = _FORMS[form], _DENOMINATORS[denominator]

    def arguments(self, launch: Launch) -> dict[str, Any]:
        """Sizes, modes and pointers by the names that the compiled module has for them."""
        size, width, bank = self.query.shape[0], self.query.shape[1], self.keys.shape[0]
        result: dict[str, Any] = {
            "key_dtype": dtype_code(self.keys.dtype),
            "batch": size,
            "bank": bank,
            "dimensions": width,
            "key_stride": self.keys.stride(0) if bank > 1 else width,
            "chosen_count": 0 if self.chosen is None else self.chosen.shape[1],
            "has_chosen": self.listed,
            "form": self.form,
            "denominator": self.denominator,
            "query": launch.pointer("query", self.query, dtypes=(torch.float32,)),
            "keys": launch.pointer("keys", self.keys, dtypes=FLOATS, shape=(None, width), contiguous=False),
            "positive": launch.pointer("positive", self.positive, dtypes=(torch.float32,), shape=(size, width)),
            "key_log_weight": launch.pointer("key_log_weight", self.weight, dtypes=(torch.float32,), shape=(bank,)),
            "chosen": launch.pointer("chosen", self.chosen, dtypes=(torch.int64,), shape=(size, None)),
        }
        for name, value in self.rows._asdict().items():
            if name != "key_log_weight":
                length = size if name.startswith("query") else bank
                result[name] = launch.pointer(name, value, dtypes=(torch.int64,), shape=(length,))
        return result


def _cpu_arguments(call: KernelCall, launch: Launch) -> dict[str, Any]:
    own = {"temperature": float(call.temperature), "threads": torch.get_num_threads(), "isa": ""}
    return call.arguments(launch) | own


def cpu_forward(
    query: Tensor,
    keys: Tensor,
    positive: Tensor | None,
    temperature: Tensor,
    rows: Rows,
    chosen: Tensor | None,
    positives: str,
    denominator: str,
    save_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss and what its gradients need, float32; arguments and results as in `tiled_forward`.

    B and N are at least 1. With "supcon" the statistics LP, a are another pair than `tiled_forward`'s that gives the
    same derivatives.
    """
    size, width = query.shape
    call = KernelCall(query, keys, positive, temperature, rows, chosen, positives, denominator)
    like = call.query
    loss, own_gradient, statistics = like.new_empty(size), like.new_empty(size), like.new_empty(4, size)
    gradient = like.new_empty(size, width if save_gradient else 0)
    with Launch(NAME, query.device) as launch:
        out = {"loss": loss, "own_gradient": own_gradient, "statistics": statistics}
        pointers = {name: launch.pointer(name, value, dtypes=(torch.float32,)) for name, value in out.items()}
        pointers["gradient"] = launch.pointer("gradient", gradient, dtypes=(torch.float32,)) if save_gradient else 0
        extension().cluster_infonce_cpu(_cpu_arguments(call, launch), **pointers)
    return loss, gradient, own_gradient, statistics


def cpu_key_gradient(
    grad: Tensor,
    query: Tensor,
    keys: Tensor,
    temperature: Tensor,
    rows: Rows,
    chosen: Tensor | None,
    statistics: Tensor,
) -> Tensor:
    """Gradient of the keys (N, d), float32; arguments as in `tiled_key_gradient`."""
    call = KernelCall(query, keys, None, temperature, rows, chosen, "sum", "all")
    pair_key = pair_query = pair_value = None
    if call.chosen is not None:
        pair_key, pair_query, pair_value = _listed_pairs(call, statistics)
    result = call.query.new_empty(keys.shape)
    upstream, statistics = single(grad), single(statistics)
    with Launch(NAME, query.device) as launch:
        extension().cluster_infonce_keys_cpu(
            _cpu_arguments(call, launch),
            upstream=launch.pointer("grad", upstream, dtypes=(torch.float32,), shape=(query.shape[0],)),
            statistics=launch.pointer("statistics", statistics, dtypes=(torch.float32,), shape=(4, query.shape[0])),
            pair_key=launch.pointer("pair_key", pair_key, dtypes=(torch.int64,)),
            pair_query=launch.pointer("pair_query", pair_query, dtypes=(torch.int64,)),
            pair_value=launch.pointer("pair_value", pair_value, dtypes=(torch.float32,)),
            pairs=0 if pair_key is None else pair_key.shape[0],
            key_gradient=launch.pointer("key_gradient", result, dtypes=(torch.float32,)),
        )
    return result


def _listed_pairs(call: KernelCall, statistics: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Pairs of a drawn key and its query, by key: both positions and the derivative of the loss by the logit."""
    assert call.chosen is not None
    key, order = call.chosen.flatten().sort(stable=True)
    first = int(torch.searchsorted(key, 0))  # -1: no row
    key, order = key[first:], order[first:]
    if not key.numel():
        return None, None, None
    query = order // call.chosen.shape[1]
    logit = (call.query[query].double() * call.keys[key].double()).sum(1) / float(call.temperature)
    if call.weight is not None:
        logit += call.weight[key]
    positive_log, share, plain = statistics[1:, query].double()
    value = share * torch.exp(logit - positive_log) - plain
    return key, query, value.float()
