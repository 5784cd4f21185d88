"""From token embeddings to a sentence embedding, as a sentence-transformers model folder describes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

# Returns the local path of one file of a model, or None where the model has no such file.
FileLookup = Callable[[str], "Path | None"]

# Flags of the older 1_Pooling/config.json, in the order in which their outputs are concatenated.
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLING_MODES = tuple(_POOLING_FLAGS.values())
_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "Identity": nn.Identity,
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
}


@dataclass
class SentenceConfig:
    """How a sentence encoder turns strings into vectors.

    Attributes:
        pooling: modes out of `POOLING_MODES`; several are concatenated.
        dense: layers behind the pooling, in order.
        normalise: whether the model ends with l2 normalisation.
        max_length: longest input in tokens, or None for what the tokenizer allows.
        lower_case: whether strings are lower-cased first.
        prompt: text put before every string.
    """

    pooling: tuple[str, ...] = ("mean",)
    dense: list[nn.Module] = field(default_factory=list)
    normalise: bool = True
    max_length: int | None = None
    lower_case: bool = False
    prompt: str = ""


def read_sentence_config(find: FileLookup) -> SentenceConfig:
    """The configuration written in a sentence-transformers folder; mean pooling, l2 normalised, where there is none.

    Args:
        find: returns the path of a file of the model by its relative name, or None.

    Raises:
        ValueError: the model has a module or a pooling mode that is not supported here.
    """
    modules_path = find("modules.json")
    if modules_path is None:
        return SentenceConfig()
    config = SentenceConfig(normalise=False)
    for module in json.loads(modules_path.read_text(encoding="utf-8")):
        kind = str(module["type"]).rsplit(".", 1)[-1]
        folder = str(module.get("path", ""))
        if kind == "Transformer":
            options = _read_json(find, f"{folder}/sentence_bert_config.json".lstrip("/"))
            config.max_length = _positive_int(options.get("max_seq_length"))
            config.lower_case = bool(options.get("do_lower_case", False))
        elif kind == "Pooling":
            config.pooling = _pooling_modes(_read_json(find, f"{folder}/config.json"))
        elif kind == "Dense":
            config.dense.append(_dense_layer(find, folder))
        elif kind == "Normalize":
            config.normalise = True
        elif kind != "Dropout":
            raise ValueError(
                f"the sentence encoder has a module of type {module['type']!r}; supported: Transformer, Pooling, "
                "Dense, Normalize, Dropout. Encode with its own library and pass the result as precomputed embeddings"
            )
    general = _read_json(find, "config_sentence_transformers.json")
    default_prompt = general.get("default_prompt_name")
    prompts = general.get("prompts")
    if default_prompt and isinstance(prompts, dict):
        config.prompt = str(prompts.get(default_prompt, ""))
    return config


def pool_tokens(tokens: Tensor, mask: Tensor, modes: tuple[str, ...]) -> Tensor:
    """Sentence vectors from token vectors.

    Args:
        tokens: (n, L, D) last hidden states.
        mask: (n, L), 1 for a token, 0 for padding.
        modes: out of `POOLING_MODES`; several are concatenated along the last axis.

    Returns:
        (n, D * len(modes)).
    """
    weight = mask.to(tokens.dtype).unsqueeze(-1)
    count = weight.sum(1).clamp(min=1e-9)
    rows = torch.arange(tokens.shape[0], device=tokens.device)
    outputs: list[Tensor] = []
    for mode in modes:
        if mode == "cls":
            outputs.append(tokens[rows, mask.to(torch.int64).argmax(1)])  # the first real token, left padding or right
        elif mode == "max":
            outputs.append(tokens.masked_fill(weight == 0, float("-inf")).amax(1))
        elif mode == "mean":
            outputs.append((tokens * weight).sum(1) / count)
        elif mode == "mean_sqrt_len_tokens":
            outputs.append((tokens * weight).sum(1) / count.sqrt())
        elif mode == "weightedmean":
            ramp = weight * torch.arange(1, tokens.shape[1] + 1, device=tokens.device, dtype=tokens.dtype).view(
                1, -1, 1
            )
            outputs.append((tokens * ramp).sum(1) / ramp.sum(1).clamp(min=1e-9))
        elif mode == "lasttoken":
            last = tokens.shape[1] - 1 - mask.to(torch.int64).flip(1).argmax(1)
            outputs.append(tokens[rows, last])
        else:
            raise ValueError(f"pooling mode {mode!r} is not one of {', '.join(POOLING_MODES)}")
    return torch.cat(outputs, -1)


def _read_json(find: FileLookup, name: str) -> dict[str, object]:
    path = find(name)
    if path is None:
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _positive_int(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _pooling_modes(options: Mapping[str, object]) -> tuple[str, ...]:
    named = options.get("pooling_mode")
    if isinstance(named, str):
        modes: tuple[str, ...] = (named,)
    elif isinstance(named, (list, tuple)):
        modes = tuple(str(mode) for mode in named)
    else:
        modes = tuple(mode for flag, mode in _POOLING_FLAGS.items() if options.get(flag))
    unknown = [mode for mode in modes if mode not in POOLING_MODES]
    if unknown:
        raise ValueError(f"pooling mode {unknown[0]!r} is not one of {', '.join(POOLING_MODES)}")
    return modes or ("mean",)


def _dense_layer(find: FileLookup, folder: str) -> nn.Module:
    from safetensors.torch import load_file

    options = _read_json(find, f"{folder}/config.json")
    name = str(options.get("activation_function", "torch.nn.modules.activation.Tanh")).rsplit(".", 1)[-1]
    if name not in _ACTIVATIONS or options.get("use_residual"):
        raise ValueError(
            f"the dense layer {folder!r} of the sentence encoder uses activation {name!r}, residual "
            f"{bool(options.get('use_residual'))}; supported: {', '.join(_ACTIVATIONS)} without a residual"
        )
    weights_path = find(f"{folder}/model.safetensors")
    if weights_path is not None:
        state = load_file(str(weights_path))
    else:
        legacy_path = find(f"{folder}/pytorch_model.bin")
        if legacy_path is None:
            raise ValueError(f"the dense layer {folder!r} of the sentence encoder has no weights file")
        state = torch.load(legacy_path, map_location="cpu", weights_only=True)
    weight = state["linear.weight"]
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias="linear.bias" in state)
    linear.load_state_dict({key.removeprefix("linear."): value for key, value in state.items()})
    return nn.Sequential(linear, _ACTIVATIONS[name]())
