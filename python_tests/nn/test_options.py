"""The method's options: every open question is covered, defaults are the documented ones, bad values are named."""

from __future__ import annotations

import dataclasses

import pytest

from tmor_fast.nn.options import TMOROptions, choices_of, option_table

# Questions 18 (clip length, rotation, crop) and 20 (optimiser) belong to the run's configuration.
IN_THE_RUN = {18, 20}


def test_every_open_question_has_an_option():
    assert {row for row, *_ in option_table()} | IN_THE_RUN == set(range(1, 25))


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("denominator", "all"), ("positives", "sum"), ("max_positives", 4), ("cross_positives", "instance"),
        ("text_negatives", "text_or_cluster"), ("num_negatives", 65536), ("motion_bank", "sample"),
        ("momentum", 0.994), ("temperature", 0.1), ("embedding_dim", 128), ("cluster_input", "features"),
        ("eps", None), ("min_samples", 4), ("noise", "singleton"), ("warmup_epochs", 1), ("cluster_every", 1),
        ("stage2_clusters", "motion"), ("symmetric", False), ("negative_gradient", True), ("text", "label"),
        ("detection_head", "fc"), ("stream", "joint"), ("zero_shot_fusion", "embedding"), ("zero_shot_metric", "both"),
    ],
)  # fmt: skip
def test_defaults(name: str, default: object):
    assert getattr(TMOROptions(), name) == default


@pytest.mark.parametrize("field", [f for f in dataclasses.fields(TMOROptions) if choices_of(f)], ids=lambda f: f.name)
def test_named_choices_are_accepted_and_others_listed(field: dataclasses.Field):
    for choice in choices_of(field):
        TMOROptions(**{field.name: choice})
    with pytest.raises(ValueError, match=rf"{field.name}.*nonsense.*{choices_of(field)[0]}"):
        TMOROptions(**{field.name: "nonsense"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 0.0), ("momentum", 1.5), ("max_positives", -1), ("num_negatives", 0), ("max_cluster_share", 2.0)],
)
def test_numbers_out_of_range_are_refused(name: str, value: float):
    with pytest.raises(ValueError, match=name):
        TMOROptions(**{name: value})


def test_null_takes_the_whole_data_set_as_negatives():
    assert TMOROptions(num_negatives=None).num_negatives is None
    assert any(
        name == "num_negatives" and "null = the whole data set" in text for _, name, _, _, text in option_table()
    )
