"""What is found in a run folder, and that a damaged file spoils nothing but itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_runs import write_log, write_store

from tmor_fast.errors import DataError
from tmor_fast.report.run_files import read_run


def test_a_whole_run(run: Path, store):
    found = read_run(run)
    ((stage1, stage2),) = found.stages
    assert [row["loss"] for row in stage1.rows] == [9.0, 8.0, 7.0]
    assert stage1.clustering is None
    assert stage2.clustering is not None
    assert stage2.clustering.eps == 0.125
    assert found.streams == []
    assert [name for name, _ in found.configs] == ["config.yaml"]
    assert [result.name for result in found.results] == ["probe · probe"]
    assert {prediction.source for prediction in found.predictions} == {"probe · probe"}
    assert [model.name for model in found.models] == ["model.pt"]
    assert found.stores == [store.path.resolve()]
    assert found.problems == []


def test_a_store_in_the_folder_that_is_also_noted_counts_once(tmp_path: Path):
    write_log(tmp_path / "run" / "stage1", [{"epoch": 0, "loss": 1.0}])
    write_store(tmp_path / "synthetic", 4)
    (tmp_path / "run" / "stores.json").write_text(json.dumps([str(tmp_path / "synthetic")]))
    assert read_run(tmp_path).stores == [(tmp_path / "synthetic").resolve()]


def test_logs_of_a_resumed_run_are_joined_and_the_later_one_wins(tmp_path: Path):
    write_log(tmp_path / "stage1", [{"epoch": 0, "loss": 5.0}, {"epoch": 1, "loss": 4.0}], "metrics_1.csv")
    write_log(tmp_path / "stage1", [{"epoch": 1, "loss": 3.5}, {"epoch": 2, "loss": 3.0}])
    ((log,),) = read_run(tmp_path).stages
    assert [row["loss"] for row in log.rows] == [5.0, 3.5, 3.0]


def test_streams_of_fine_tuning_belong_together(tmp_path: Path):
    for stream in ("joint", "bone"):
        write_log(tmp_path / stream, [{"epoch": 0, "loss": 1.0, "accuracy": 0.5}])
    ((bone, joint),) = read_run(tmp_path).streams
    assert (bone.folder.name, joint.folder.name) == ("bone", "joint")


def test_one_result_file_is_enough(run: Path):
    found = read_run(run / "probe.json")
    assert [result.name for result in found.results] == ["probe · probe"]
    assert found.logs == []


def test_damaged_files_are_named_and_the_rest_is_read(tmp_path: Path):
    write_log(tmp_path / "stage1", [{"epoch": 0, "loss": 1.0}])
    write_log(tmp_path / "stage2", [{"epoch": 0, "loss": "many"}])  # type: ignore[dict-item]
    (tmp_path / "stage1/log/clusters.npz").write_bytes(b"PK\x03\x04half")
    (tmp_path / "probe.json").write_text('{"confusion": [[1]], "label_names"')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "zero.json").write_text(json.dumps({"confusion": [[1, 2]], "label_names": ["a"]}))
    (tmp_path / "stores.json").write_text(json.dumps([str(tmp_path / "gone")]))
    found = read_run(tmp_path)
    assert [len(log.rows) for log in found.logs] == [1]
    said = "\n".join(found.problems)
    for name in ("stage2/log/metrics.csv", "clusters.npz", "probe.json", "deep.json", "zero.json", "'gone'"):
        assert name in said, name


@pytest.mark.parametrize("content", [None, "notes.txt", "dataset"])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, content: str | None):
    if content == "dataset":
        write_store(tmp_path / "made", 2)
    elif content:
        (tmp_path / content).write_text("nothing")
    with pytest.raises(DataError, match="no logs, results or models"):
        read_run(tmp_path)


def test_no_folder_at_all(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no run at"):
        read_run(tmp_path / "gone")
