"""The real data sets hold no errors, and the check sees what is known about them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tmor_fast.data import import_bandai, import_cmu
from tmor_fast.data.check.paths import check_path

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


def test_penn_has_no_errors_and_two_frames_without_anybody(real_data: Path) -> None:
    report = check_path(real_data / "penn_action" / "labels.tar.xz")
    assert report.ok
    assert (report.clips, report.frames) == (2326, 163_841)
    assert 1 - report.observed / report.joints == pytest.approx(0.0880, abs=1e-4)
    counted = Counter(found.kind for found in report)
    assert counted["frames-missing"] == 2
    assert set(counted) == {"frames-missing", "frozen", "teleport"}, "annotated joints that stay put for two seconds"


def test_cmu_and_bandai_have_no_errors(real_data: Path, tmp_path: Path) -> None:
    cmu = import_cmu(real_data / "cmu_exercise6" / "continuous.npz", tmp_path / "cmu")
    assert cmu.column("split") == ["train", "train", "train", "test", "test"]
    bandai = import_bandai(real_data / "bandai2" / "data.npz", tmp_path / "bandai")
    assert bandai.column("split").count("test") == 715
    assert [found.kind for found in check_path(cmu.path)] == ["caption"], "its labels are of frames"
    assert check_path(bandai.path).findings == []
