"""Pooling and the description files of sentence encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tmor_fast.teachers.sentence import SentenceConfig, pool_tokens, read_sentence_config

TOKENS = torch.tensor([[[1.0, -2.0], [3.0, 4.0], [50.0, 60.0]], [[5.0, 1.0], [7.0, 7.0], [9.0, -1.0]]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("cls", [[1.0, -2.0], [5.0, 1.0]]),
        ("max", [[3.0, 4.0], [9.0, 7.0]]),
        ("mean", [[2.0, 1.0], [7.0, 7 / 3]]),
        ("mean_sqrt_len_tokens", [[4 / 2**0.5, 2 / 2**0.5], [21 / 3**0.5, 7 / 3**0.5]]),
        ("weightedmean", [[7 / 3, 2.0], [46 / 6, 12 / 6]]),
        ("lasttoken", [[3.0, 4.0], [9.0, -1.0]]),
    ],
)
def test_pooling_by_hand(mode: str, expected: list[list[float]]) -> None:
    torch.testing.assert_close(pool_tokens(TOKENS, MASK, (mode,)), torch.tensor(expected))


@pytest.mark.parametrize("mode", ["cls", "lasttoken", "mean", "max"])
def test_left_padding_gives_the_same(mode: str) -> None:
    left = torch.roll(TOKENS[:1], 1, dims=1)
    mask = torch.roll(MASK[:1], 1, dims=1)
    torch.testing.assert_close(pool_tokens(left, mask, (mode,)), pool_tokens(TOKENS, MASK, (mode,))[:1])


def test_several_modes_are_concatenated() -> None:
    both = pool_tokens(TOKENS, MASK, ("cls", "mean"))
    torch.testing.assert_close(both[:, :2], TOKENS[:, 0])
    torch.testing.assert_close(both[:, 2:], pool_tokens(TOKENS, MASK, ("mean",)))
    with pytest.raises(ValueError, match="'median' is not one of"):
        pool_tokens(TOKENS, MASK, ("median",))


def _folder(path: Path, modules: list[tuple[str, str]], files: dict[str, Any]) -> Any:
    listed = [
        {"idx": number, "path": place, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, place) in enumerate(modules)
    ]
    for name, content in {"modules.json": listed, **files}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(content))
    return lambda name: path / name if (path / name).is_file() else None


def test_without_description_mean_and_normalised() -> None:
    assert read_sentence_config(lambda name: None) == SentenceConfig(pooling=("mean",), normalise=True)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, ("max", "mean")),
        ({"pooling_mode": "lasttoken", "embedding_dimension": 4}, ("lasttoken",)),
        ({"pooling_mode": ["cls", "mean"]}, ("cls", "mean")),
    ],
)
def test_description_is_followed(tmp_path: Path, options: dict[str, Any], expected: tuple[str, ...]) -> None:
    find = _folder(
        tmp_path,
        [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dropout", "2_Dropout")],
        {
            "1_Pooling/config.json": options,
            "sentence_bert_config.json": {"max_seq_length": 77, "do_lower_case": True},
            "config_sentence_transformers.json": {"prompts": {"query": "find: "}, "default_prompt_name": "query"},
        },
    )
    config = read_sentence_config(find)
    assert config.pooling == expected
    assert (config.max_length, config.lower_case, config.prompt) == (77, True, "find: ")
    assert not config.normalise, "no Normalize module, so no normalisation"


def test_dense_layer(tmp_path: Path) -> None:
    find = _folder(
        tmp_path,
        [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "3_Normalize")],
        {
            "1_Pooling/config.json": {"pooling_mode": "mean"},
            "2_Dense/config.json": {
                "in_features": 2,
                "out_features": 3,
                "activation_function": "torch.nn.modules.activation.Tanh",
            },
        },
    )
    weight, bias = torch.randn(3, 2), torch.randn(3)
    save_file({"linear.weight": weight, "linear.bias": bias}, tmp_path / "2_Dense" / "model.safetensors")
    config = read_sentence_config(find)
    assert config.normalise
    torch.testing.assert_close(config.dense[0](TOKENS[:, 0]), torch.tanh(TOKENS[:, 0] @ weight.T + bias))


def test_unknown_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="LSTM"):
        read_sentence_config(_folder(tmp_path / "a", [("LSTM", "1_LSTM")], {}))
    find = _folder(tmp_path / "b", [("Pooling", "1_Pooling")], {"1_Pooling/config.json": {"pooling_mode": "median"}})
    with pytest.raises(ValueError, match="median"):
        read_sentence_config(find)
