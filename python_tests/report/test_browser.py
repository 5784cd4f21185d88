"""The report in a real browser, at desktop and phone width: nothing fails to load or draw, everything answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from browser import Page, find_browser, open_browser
from made_runs import ACTIONS, write_log, write_results

from tmor_fast.report import write_report

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium or Chrome on the path to open the report with")

DESKTOP, PHONE = 1280, 390
# Pixels of a canvas that are not of its most frequent value.
PAINTED = """(selector => {
    const canvas = document.querySelector(selector);
    const pixels = new Uint32Array(
        canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
    const counts = new Map();
    for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) || 0) + 1);
    return pixels.length - Math.max(...counts.values());
})"""
PRINT = (
    "(selector => document.querySelector(selector).toDataURL().length + document.querySelector(selector).toDataURL())"
)


@pytest.fixture(scope="module")
def report(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(run, tmp_path_factory.mktemp("page") / "report.html", projection="pca")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert PROGRAM is not None
    with open_browser(PROGRAM, tmp_path_factory.mktemp("profile")) as page:
        yield page


def settle(tab: Page) -> None:
    tab.eval("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_everything_loads_and_is_drawn(tab: Page, report: Path, width: int, dark: bool):
    tab.open(report, width, dark=dark, phone=width == PHONE)
    assert tab.eval("document.title").startswith("T-MOR report")
    settle(tab)
    for canvas in tab.eval("[...document.querySelectorAll('canvas')].map(c => c.id)"):
        tab.scroll_to(f"#{canvas}")
        settle(tab)
        assert tab.eval(f"{PAINTED}('#{canvas}')") > 100, canvas
    charts = tab.eval("[...document.querySelectorAll('svg.chart')].map(s => s.getBoundingClientRect().height)")
    assert len(charts) == 5
    assert min(charts) > 100
    # Nothing sticks out, nothing but the file is asked for, nothing is complained about.
    assert tab.eval("document.documentElement.scrollWidth") <= width
    assert tab.requests == [report.resolve().as_uri()]
    assert tab.failures == []


def test_the_skeletons_play_pause_and_scrub(tab: Page, report: Path):
    tab.open(report, DESKTOP)
    frame = "Number(document.getElementById('clip-3').dataset.frame)"
    tab.scroll_to("#play")
    # They start by themselves when they come into sight.
    tab.wait("document.getElementById('play').textContent === 'Pause'")
    before = tab.eval(f"{PRINT}('#clip-3')")
    seen = {tab.eval(frame)}
    end = time.monotonic() + 10
    while len(seen) < 3 and time.monotonic() < end:
        seen.add(tab.eval(frame))
    assert len(seen) >= 3
    tab.click("#play")
    tab.wait("document.getElementById('play').textContent === 'Play'")
    held = tab.eval(frame), tab.eval("document.getElementById('time').textContent")
    time.sleep(0.3)
    assert (tab.eval(frame), tab.eval("document.getElementById('time').textContent")) == held
    tab.eval(
        "(() => { const s = document.getElementById('scrub'); s.value = 0.2; s.dispatchEvent(new Event('input')); })()"
    )
    assert tab.eval(frame) == 6, "0.2 s at 30 frames a second"
    assert tab.eval("document.getElementById('time').textContent").startswith("0.20 of ")
    still = tab.eval(f"{PRINT}('#clip-3')")
    assert still != before
    tab.eval(
        "(() => { const t = document.getElementById('turn'); t.value = 90; t.dispatchEvent(new Event('input')); })()"
    )
    assert tab.eval(f"{PRINT}('#clip-3')") != still
    assert tab.failures == []


def test_joints_that_were_not_observed_are_not_drawn(tab: Page, report: Path):
    tab.open(report, DESKTOP)
    # Every third joint of the first clip is missing; drawing them all takes more ink.
    number = tab.eval(
        "JSON.parse(document.getElementById('report-data').textContent).clips.findIndex(c => c.values.includes(-1))"
    )
    assert number >= 0
    tab.scroll_to(f"#clip-{number}")
    settle(tab)
    others = [n for n in range(12) if n != number][:3]
    ink = tab.eval(f"{PAINTED}('#clip-{number}')")
    assert ink < min(tab.eval(f"{PAINTED}('#clip-{n}')") for n in others)


def hover_a_point(tab: Page) -> str:
    tab.scroll_to("#map")
    left, top, width, height = tab.place("#map")
    for row in range(1, 20):
        for column in range(1, 28):
            tab.move(left + width * column / 28, top + height * row / 20)
            if not tab.eval("document.getElementById('map-tip').hidden"):
                return tab.eval("document.getElementById('map-tip').textContent")
    raise AssertionError("no point of the map answers")


def test_hovering_names_a_clip_its_action_and_its_cluster(tab: Page, report: Path):
    tab.open(report, DESKTOP)
    words = hover_a_point(tab)
    assert words.startswith("clip_0")
    assert any(action in words for action in ACTIONS)
    assert "cluster" in words or "noise" in words
    assert tab.eval("document.getElementById('map-readout').textContent").startswith(words[:8])
    assert tab.failures == []


def test_colours_by_cluster_and_one_group_alone(tab: Page, report: Path):
    tab.open(report, DESKTOP)
    by_action = tab.eval(f"{PRINT}('#map')")
    names = "[...document.querySelectorAll('#map-legend .name')].map(n => n.textContent)"
    assert tab.eval(names) == sorted(ACTIONS)
    tab.click("input[name=map-by][value=cluster]")
    assert tab.eval(f"{PRINT}('#map')") != by_action
    shown = tab.eval(names)
    assert {"cluster 1", "cluster 2", "noise (in no cluster)"} <= set(shown)
    everything = tab.eval(f"{PRINT}('#map')")
    tab.click("#map-legend button")
    assert tab.eval("document.querySelector('#map-legend button').getAttribute('aria-pressed')") == "true"
    assert tab.eval(f"{PRINT}('#map')") != everything
    tab.click("#map-all")
    tab.move(1, 1)
    assert tab.eval(f"{PRINT}('#map')") == everything


def test_the_matrix_names_the_cell_under_the_pointer_and_by_keys(tab: Page, report: Path):
    tab.open(report, DESKTOP)
    tab.click("#matrix")
    readout = "document.getElementById('matrix-readout').textContent"
    tab.eval("document.getElementById('matrix').focus()")
    for _ in range(5):
        for key in ("ArrowLeft", "ArrowUp"):
            tab.call("Input.dispatchKeyEvent", type="keyDown", key=key)
    # Every fifth prediction is the class after the true one: the first clip, of four that wave.
    assert tab.eval(readout) == "wave recognised: 3 of 4 clips (75.0 %)"
    tab.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    assert tab.eval(readout) == "wave taken for squat: 1 of 4 clips (25.0 %)"


def test_a_tap_on_a_phone_names_a_clip(tab: Page, report: Path):
    tab.open(report, PHONE, 844, phone=True)
    tab.scroll_to("#map")
    left, top, width, height = tab.place("#map")
    readout = "document.getElementById('map-readout').textContent"
    for row in range(1, 12):
        for column in range(1, 12):
            where = {"x": left + width * column / 12, "y": top + height * row / 12}
            tab.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[where])
            tab.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
            if tab.eval(readout).startswith("clip_0"):
                assert tab.failures == []
                return
    raise AssertionError(tab.eval(readout))


def test_many_classes_and_an_empty_run_fit_a_phone(tab: Page, tmp_path: Path):
    names = [f"action number {i} with the left hand" for i in range(120)]
    write_results(tmp_path / "probe.json", [f"c{i}" for i in range(240)], torch.arange(240) % 120, names)
    write_log(tmp_path / "stage1", [{"epoch": 0, "loss": 1.0}])
    for width in (DESKTOP, PHONE):
        tab.open(write_report(tmp_path), width, phone=width == PHONE)
        assert tab.eval("document.documentElement.scrollWidth") <= width
        assert tab.eval(f"{PAINTED}('#matrix')") > 100
        assert tab.failures == []


def test_captions_run_no_script(tab: Page, report: Path):
    tab.open(report, DESKTOP)
    assert tab.eval("document.title") != "owned"
    assert tab.eval("document.querySelectorAll('img').length") == 0
    # The policy holds against scripts that a flaw would let in.
    tab.eval("""(() => {
        const intruder = document.createElement("script");
        intruder.textContent = "document.title = 'owned'";
        document.body.append(intruder);
    })()""")
    assert tab.eval("document.title") != "owned"
