"""Named protocols on clip names written by hand, and on the real Bandai ids where they are at hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tmor_fast.errors import DataError
from tmor_fast.evaluation import get_protocol, hold_out, protocol_names
from tmor_fast.evaluation.protocols import BANDAI2_STYLES, PENN_ACTION_CLASSES, bandai2
from tmor_fast.evaluation.smarthome import CS_CLASSES, CV_CLASSES, parse_name

SMARTHOME = [
    "Cook.Cleandishes_p02_r00_v02_c03",  # test subject; class in CS only
    "Walk_p03_r01_v05_c01.mp4",  # train subject, camera 1
    "json/WatchTV_p25_r00_v13_c02.json",  # train subject; class in CS only
    "Usetablet_p20_r03_v01_c02",  # test subject, camera 2
    "Enter_p19_r00_v01_c07",  # train subject, camera 7
    "Leave_p10_r00_v01_c05",  # test subject, camera 5
]


def test_smarthome_name() -> None:
    name = parse_name(SMARTHOME[2])
    assert (name.action, name.subject, name.camera) == ("WatchTV", 25, 2)
    for bad in ("walk.mp4", "Walk_p03_r01_v05", "Fly_p03_r01_v05_c01", ""):
        with pytest.raises(DataError, match="Smarthome"):
            parse_name(bad)


@pytest.mark.parametrize(
    ("protocol", "train", "test"),
    [("smarthome_cs", [1, 2, 4], [0, 3, 5]), ("smarthome_cv1", [1], [3]), ("smarthome_cv2", [1, 4], [3])],
)
def test_smarthome_splits(protocol: str, train: list[int], test: list[int]) -> None:
    found = get_protocol(protocol).split({"clip_ids": SMARTHOME})
    assert [side.tolist() for side in found] == [train, test]
    assert get_protocol(protocol).metric == "mean_per_class"


def test_smarthome_classes() -> None:
    assert (len(set(CS_CLASSES)), len(set(CV_CLASSES))) == (31, 19)
    assert set(CV_CLASSES) < set(CS_CLASSES)
    cs, cv = get_protocol("smarthome_cs"), get_protocol("smarthome_cv2")
    assert cs.labels({"clip_ids": SMARTHOME}).tolist() == [0, 29, 30, 28, 12, 15]
    assert cv.labels({"clip_ids": SMARTHOME}).tolist() == [-1, 18, -1, 16, 7, 9]
    assert cv.label_names({}) == CV_CLASSES


def test_uav_human_lists_and_names() -> None:
    clip = "P{:03d}S01G10B00H10UC102000LC092000A{:03d}R0_09131758"
    clips = {"clip_ids": [clip.format(person, person) for person in range(119)]}
    for name, spot_train, spot_test in (("uav_human_csv1", 118, 113), ("uav_human_csv2", 118, 116)):
        train, test = get_protocol(name).split(clips)
        assert (len(train), len(test)) == (89, 30)
        assert spot_train in train.tolist()
        assert spot_test in test.tolist()
    assert get_protocol("uav_human_csv1").labels(clips).tolist() == list(range(119))
    for bad in (clip.format(119, 0), clip.format(0, 155), "P070"):
        with pytest.raises(DataError, match="UAV-Human name"):
            get_protocol("uav_human_csv1").split({"clip_ids": [bad]})


def test_penn_action_uses_the_official_flag_and_class_names() -> None:
    protocol = get_protocol("penn_action")
    assert len(PENN_ACTION_CLASSES) == 15
    # Attributes instead of a mapping, and the data set's own numbering.
    clips = SimpleNamespace(
        splits=["train", "test", "", "test"], label=[1, 0, -1, 1], label_names=["tennis_serve", "bowl"]
    )
    train, test = protocol.split(clips)
    assert (train.tolist(), test.tolist()) == ([0], [1, 3])
    assert protocol.labels(clips).tolist() == [3, 14, -1, 3]
    assert get_protocol("official").labels(clips).tolist() == [1, 0, -1, 1]
    assert get_protocol("official").label_names(clips) == ("tennis_serve", "bowl")
    clips.label_names = ["bowling", "bowl"]
    with pytest.raises(DataError, match="no class 'bowling'"):
        protocol.labels(clips)


def test_store_columns_are_read_by_their_own_names() -> None:
    class Store:
        def column(self, name: str) -> list[str]:
            return {"split": ["test", "train"]}[name]

    train, test = get_protocol("official").split(Store())
    assert (train.tolist(), test.tolist()) == ([1], [0])


def test_hold_out() -> None:
    train, test = hold_out("subjects", ["3"]).split({"subjects": ["1", 3, "2", "3"]})
    assert (train.tolist(), test.tolist()) == ([0, 2], [1, 3])
    with pytest.raises(ValueError, match="column must be"):
        hold_out("label", ["1"])
    with pytest.raises(ValueError, match="at least one value"):
        hold_out("views", [])


def test_cmu_subjects() -> None:
    train, test = get_protocol("cmu_exercise6").split({"clip_ids": ["13_29", "14_14", "13_30"]})
    assert (train.tolist(), test.tolist()) == ([0, 2], [1])
    with pytest.raises(DataError, match="subject 13 or 14"):
        get_protocol("cmu_exercise6").split({"clip_ids": ["15_01"]})


def test_bandai2_holds_out_whole_styles() -> None:
    ids = ["dataset-2_walk-turn-left_happy_001", "dataset-2_walk_normal_002", "dataset-2_run_youthful_001"]
    train, test = bandai2().split({"clip_ids": ids[1:]})
    assert (train.tolist(), test.tolist()) == ([0], [1])
    with pytest.raises(DataError, match="dataset-2_walk_active_001"):
        bandai2().split({"clip_ids": ids})
    for styles in ([], ["happy"], BANDAI2_STYLES):
        with pytest.raises(ValueError, match="test_styles"):
            bandai2(styles)


@pytest.mark.real_data
def test_bandai2_on_real_ids(real_data: Path) -> None:
    data = np.load(real_data / "bandai2" / "data.npz")
    ids, style = data["clip_id"].tolist(), data["style_names"][data["style"]]
    train, test = get_protocol("bandai2").split({"clip_ids": ids})
    assert len(train) + len(test) == len(ids)
    assert set(style[test.numpy()]) == {"feminine", "youthful"}
    assert set(style[train.numpy()]) == set(BANDAI2_STYLES) - {"feminine", "youthful"}


def test_errors() -> None:
    assert "smarthome_cv2" in protocol_names()
    with pytest.raises(ValueError, match="accepted: bandai2"):
        get_protocol("ucf101")
    with pytest.raises(DataError, match="no column 'splits'"):
        get_protocol("penn_action").split({"clip_ids": []})
    with pytest.raises(DataError, match="2 training and 0 test clips"):
        get_protocol("official").split({"splits": ["train", "train"]})
    with pytest.raises(DataError, match="'validation'"):
        get_protocol("official").split({"splits": ["validation"]})
