"""Configurations: defaults, YAML, overrides, and errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from tmor_fast.training.config import (
    AugmentationConfig,
    FinetuneConfig,
    OptimiserConfig,
    PretrainConfig,
    ProbeConfig,
    load_config,
    preset_names,
    to_yaml,
)


def test_defaults_are_the_documented_ones():
    config = load_config(PretrainConfig)
    assert config == PretrainConfig()
    assert (config.augmentation.frames, config.augmentation.min_crop) == (150, 0.5)
    assert (config.optimiser.name, config.optimiser.rate, config.optimiser.epochs) == ("sgd", 0.1, 200)
    assert config.optimiser.weight_decay == 1e-4


def test_later_overrides_win_over_the_file(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("options:\n  temperature: 0.2\n  eps: 0.3\nunlabelled: [a, b]\n")
    config = load_config(PretrainConfig, file, ["options.temperature=0.5", "options.temperature=0.07"])
    assert config.options.temperature == 0.07
    assert config.options.eps == 0.3
    assert config.unlabelled == ("a", "b")


def test_the_whole_data_set_as_negatives_is_null_in_a_file_and_on_the_command_line(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("options:\n  num_negatives: null\n")
    for config in (
        load_config(PretrainConfig, file),
        load_config(PretrainConfig, None, ["options.num_negatives=null"]),
    ):
        assert config.options.num_negatives is None
        file.write_text(to_yaml(config))
        assert load_config(PretrainConfig, file) == config


@pytest.mark.parametrize("cls", [PretrainConfig, FinetuneConfig, ProbeConfig])
def test_yaml_round_trip(cls: type, tmp_path: Path):
    config = load_config(cls, None, ["optimiser.milestones=[3,4]", "seed=7", "augmentation.frames=12"])
    file = tmp_path / "c.yaml"
    file.write_text(to_yaml(config))
    assert load_config(cls, file) == config


@pytest.mark.parametrize("name", preset_names())
def test_bundled_configurations_load(name: str):
    cls = (
        FinetuneConfig
        if "scratch" in name or "few_shot" in name
        else ProbeConfig
        if "probe" in name
        else PretrainConfig
    )
    assert load_config(cls, name) != cls()


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("options.temperatur=1", "temperatur"),
        ("options.temp=1", "temp"),
        ("optimiser.name=adam", "optimiser.name"),
        ("options.temperature=-1", "temperature"),
        ("augmentation.frames=many", "augmentation.frames"),
        ("seed", "key=value"),
    ],
)
def test_mistakes_name_the_key(override: str, named: str):
    with pytest.raises(ValueError, match=named):
        load_config(PretrainConfig, None, [override])


def test_an_unknown_key_in_a_file_and_a_missing_file_are_errors(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("optons:\n  temperature: 0.2\n")
    with pytest.raises(ValueError, match="optons"):
        load_config(PretrainConfig, file)
    with pytest.raises(FileNotFoundError, match="penn_scratch"):
        load_config(PretrainConfig, "no_such_preset")


def test_impossible_values():
    with pytest.raises(ValueError, match="min_crop"):
        AugmentationConfig(min_crop=0.9, max_crop=0.5)
    with pytest.raises(ValueError, match="rate"):
        OptimiserConfig(rate=0)
    with pytest.raises(ValueError, match="share"):
        FinetuneConfig(share=5)
