"""The whole page: complete, honest about what is absent, small, and deaf to what names and captions say."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from made_runs import ACTIONS, EVIL, write_log, write_model, write_results, write_store

from tmor_fast.data.store import ClipStore
from tmor_fast.errors import DataError
from tmor_fast.report import MAX_BYTES, write_report

SECTIONS = ["results", "confusion", "skeletons", "embeddings", "training", "clusters", "data", "configuration"]


class Reader(HTMLParser):
    """Tags with their attributes, ids, and what is left open."""

    VOID = ("meta", "link", "input", "br", "path", "circle", "line")

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("out") / "r.html"
    assert write_report(run, out, projection="pca") == out
    assert [path.name for path in out.parent.iterdir()] == ["r.html"]
    return out.read_text(encoding="utf-8")


def test_a_whole_run_lacks_nothing(page: str):
    reader = read(page)
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert [name for tag, a in reader.tags if tag == "section" and (name := a["id"])] == SECTIONS
    assert "Not here" not in page
    for words in (
        "motion to text", "noise (in no cluster)", "eps = 0.125", "stage 2 begins", "after epoch 2",
        "Biggest confusions", "text_teacher: minilm", "All 40 clips of the stores", "last clustering",
    ):  # fmt: skip
        assert words in page, words


def test_the_script_gets_the_run(page: str, store: ClipStore):
    data = data_of(page)
    assert len(data["map"]["x"]) == len(data["map"]["cluster"]) == len(store)
    assert data["map"]["actions"] == sorted(ACTIONS)
    labels = [data["map"]["actions"][place] for place in data["map"]["action"]]
    assert labels == [ACTIONS[label] for label in store.column("label").tolist()]
    (matrix,) = data["matrices"]
    cells = np.array(matrix["cells"]).reshape(-1, 3)
    assert cells[:, 2].sum() == sum(matrix["support"]) == 14
    assert len(data["clips"]) == 12
    assert any(-1 in clip["values"] for clip in data["clips"])


def test_strings_of_the_data_are_never_markup(page: str):
    tags = [tag for tag, _ in read(page).tags]
    assert tags.count("script") == 2
    assert "img" not in tags
    assert 'title="owned"' not in page
    # They are there, as text.
    assert "&lt;script&gt;document.title=" in page
    assert any(EVIL[:50] in caption for caption in data_of(page)["map"]["caption"])
    assert page.count("<h1>") == 1
    assert "T-MOR report: a &lt;b&gt;run&lt;" in page or "T-MOR report: b&gt;" in page


def test_nothing_is_fetched(page: str):
    for tag, attributes in read(page).tags:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith("#") or value == "data:,", (tag, attributes)
        assert "style" not in attributes, "the page's policy allows no inline style"
        assert not any(name.startswith("on") for name in attributes)
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in page


def test_images_and_controls_have_names(page: str):
    reader = read(page)
    for tag, attributes in reader.tags:
        if tag == "canvas" and attributes["id"] != "matrix":  # named by the script with the chosen result
            assert attributes.get("aria-label"), attributes
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
    assert len([tag for tag, _ in reader.tags if tag == "h2"]) == len(SECTIONS)
    assert ("html", {"lang": "en"}) in reader.tags


def test_a_run_without_store_says_how_to_give_one(run: Path, tmp_path: Path):
    write_log(tmp_path / "stage1", [{"epoch": 0, "loss": 1.0}])
    write_model(tmp_path / "model.pt")
    page = write_report(tmp_path).read_text()
    assert page.count("Not here") == 7
    assert "<code>tmor report RUN --store STORE</code>" in page
    assert "<code>tmor probe STORE --checkpoint RUN/model.pt --out RUN/probe.json</code>" in page
    assert data_of(page) == {"map": None, "matrices": [], "clips": []}


def test_results_alone(run: Path, tmp_path: Path):
    page = write_report(run / "probe.json", tmp_path / "r.html").read_text()
    assert "probe · probe" in page
    assert "<code>tmor pretrain STORE --out RUN</code>" in page


def test_store_and_checkpoint_can_be_given(run: Path, store: ClipStore, tmp_path: Path):
    write_results(tmp_path / "probe.json", ["clip_000", "clip_002"], torch.tensor([0, 2]))
    page = write_report(
        tmp_path, stores=[store.path], checkpoint=run / "model.pt", projection="pca", max_points=15, max_clips=2
    ).read_text()
    assert "15 clips drawn from 40" in page
    data = data_of(page)
    assert len(data["map"]["x"]) == 15
    assert len(data["clips"]) == 2
    # Clusters of another run's log are not these clips' clusters.
    assert "found for this report" in page


def test_a_damaged_model_costs_the_map_alone(run: Path, store: ClipStore, tmp_path: Path):
    (tmp_path / "model.pt").write_bytes((run / "model.pt").read_bytes()[:2000])
    write_results(tmp_path / "probe.json", ["clip_000", "clip_002"], torch.tensor([0, 2]))
    page = write_report(tmp_path, stores=[store.path]).read_text()
    assert "model.pt: cannot be read" in page
    assert len(data_of(page)["clips"]) == 2
    with pytest.raises(DataError, match="cannot be read"):
        write_report(tmp_path, stores=[store.path], checkpoint=tmp_path / "model.pt")


def test_what_was_asked_for_must_be_there(run: Path, tmp_path: Path):
    with pytest.raises(DataError, match="is no clip store"):
        write_report(run, tmp_path / "r.html", stores=[tmp_path])
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        write_report(run, tmp_path / "r.html", checkpoint=tmp_path / "gone.pt")
    with pytest.raises(ValueError, match="max_points"):
        write_report(run, tmp_path / "r.html", max_points=0)
    assert not (tmp_path / "r.html").exists()


def test_a_classifier_without_recorded_predictions_makes_them(store: ClipStore, tmp_path: Path):
    from tmor_fast.nn.checkpoint import save_classifier
    from tmor_fast.nn.unik import UNIK
    from tmor_fast.nn.unik_config import UNIKConfig

    metadata = {"layout": "unik17", "normalisation": "body", "frames": 8, "stream": "joint", "label_names": ACTIONS[:3]}
    save_classifier(tmp_path / "joint.pt", UNIK(UNIKConfig.preset("unik-micro", num_classes=3)), metadata)
    write_log(tmp_path / "joint", [{"epoch": e, "loss": 2.0 - e, "accuracy": 0.5} for e in range(2)])
    page = write_report(tmp_path, stores=[store.path], projection="pca").read_text()
    assert "Predicted by joint classifier" in page
    assert "Accuracy on training clips" in page
    assert "a classifier is not trained with clusters" in page
    assert data_of(page)["map"]["cluster"] is None


def test_a_large_run_stays_small(tmp_path: Path):
    names = [f"action {i} " + "long " * 60 for i in range(250)]
    draw = np.random.default_rng(0)
    for number in range(14):
        confusion = draw.integers(0, 50, (250, 250)).tolist()
        report = {"confusion": confusion, "label_names": names, "top1": 0.1, "top5": 0.3, "mean_per_class": 0.1}
        (tmp_path / f"r{number}.json").write_text(json.dumps(report))
    found = {"clusters": 1234.0, "noise_share": 0.123456789, "largest_cluster_share": 0.1, "eps": 0.1}
    rows = [{"epoch": e, "loss": float(np.sin(e)), "mm": 1.0, "mv": 1.0, "mt": 1.0, **found} for e in range(5_000)]
    for stage in ("stage1", "stage2"):
        write_log(tmp_path / stage, rows)
    (tmp_path / "config.yaml").write_text("key: " + "x" * 10**6)
    store = write_store(tmp_path / "made", 6)
    write_results(tmp_path / "probe.json", [str(name) for name in store.column("clip_id")], torch.arange(6) % 4)
    written = write_report(tmp_path)
    assert written.stat().st_size < MAX_BYTES == 15_000_000
    page = written.read_text()
    assert "3 more results are in the table alone" in page
    read(page)
