"""What was built: the compiled module `tmor_fast._C`, or why there is none."""

from __future__ import annotations

import functools
import importlib
from typing import Any

OPS = ("dependency_attention", "cluster_infonce", "dbscan", "batch_norm_relu", "temporal_convolution")


@functools.lru_cache(maxsize=1)
def _load() -> tuple[Any, str]:
    try:
        return importlib.import_module("tmor_fast._C"), ""
    except ImportError as error:
        return None, f"{type(error).__name__}: {error}"


def extension() -> Any:
    """The compiled module, or None if it cannot be imported; `extension_error` then says why."""
    return _load()[0]


def extension_error() -> str:
    """Why the compiled module cannot be imported; empty if it can."""
    return _load()[1]


def compiled(op: str, backend: str) -> str | None:
    """None if the build contains `backend` of `op`, else the reason why not (a check for `ops.registry.choose`)."""
    module = extension()
    if module is None:
        return (
            f"the compiled module tmor_fast._C cannot be imported ({extension_error()}); "
            "reinstall with: pip install --force-reinstall --no-deps tmor_fast"
        )
    info = module.build_info()
    if backend in info["backends"].get(op, ()):
        return None
    if backend.startswith("cuda") and not info["cuda"]:
        return f"this build has no CUDA: {info['cuda_reason']}"
    return f"this build has no {backend} kernel of {op}"


def multiplies_bfloat16() -> bool:
    """Whether this CPU has products of bfloat16, in which torch is then faster than in float32."""
    return "avx512_bf16" in build_config()["isa_supported"]


def build_config() -> dict[str, Any]:
    """What this installation was built with.

    Returns:
        A dictionary with the keys
        `version`: of tmor_fast; `extension`: whether the compiled module imports; `extension_error`: why not;
        `compiler`: name and version; `openmp`: its date code, 0 without;
        `isa_compiled`, `isa_supported`: instruction sets in the build, and those of them that this CPU runs;
        `cuda`: nvcc's version or None; `cuda_architectures`: compiled for; `cuda_reason`: why there is no CUDA;
        `backends`: op -> the backends that are really there, "reference" (plain PyTorch) always among them.
    """
    import tmor_fast

    module = extension()
    info: dict[str, Any] = module.build_info() if module is not None else {}
    backends = info.get("backends", {})
    cuda = info.get("cuda") or None
    return {
        "version": tmor_fast.__version__,
        "extension": module is not None,
        "extension_error": extension_error(),
        "compiler": info.get("compiler", ""),
        "openmp": info.get("openmp", 0),
        "isa_compiled": list(info.get("isa_compiled", [])),
        "isa_supported": list(info.get("isa_supported", [])),
        "cuda": cuda,
        "cuda_architectures": [arch for arch in info.get("cuda_architectures", "").split(";") if arch],
        "cuda_reason": "" if cuda else info.get("cuda_reason", "the compiled module cannot be imported"),
        "backends": {op: ["reference", *backends.get(op, ())] for op in OPS},
    }
