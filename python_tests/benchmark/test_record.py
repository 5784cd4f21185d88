"""What is recorded and quoted, and how it is shown in the terminal and on the page."""

from __future__ import annotations

import builtins
import json
import re
import socket
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tmor_fast.benchmark import Case, Contender, Floor, table
from tmor_fast.benchmark.page import render, write_page
from tmor_fast.benchmark.record import case_record, complete, save, scrub, summary
from tmor_fast.benchmark.turns import Lane


def contender(name: str, role: str, **more: Any) -> Contender:
    return Contender(name, role, lambda: lambda: None, flops=4e9, bytes=1e9, **more)


def lane(name: str, allocator: str, *samples: float, status: str = "ok", reason: str = "") -> Lane:
    facts = {
        "setup_seconds": 0.5, "threads": 2, "notes": [], "peak_bytes": 3 << 20, "method": "VmHWM", "page_faults": 7,
    }  # fmt: skip
    return Lane(name, allocator, None, {}, status=status, reason=reason, samples=list(samples), turns=[], facts=facts)  # type: ignore[arg-type]


def a_case(size: int = 1000, scale: float = 1.0) -> dict[str, Any]:
    case = Case(
        f"{size} points", {"n": size},
        [contender("slow twin", "ours"), contender("mine", "ours", headline=True), contender("<peer>", "peer"),
         contender("other", "peer"), contender("gone", "peer")],
        floors=[Floor("half", 1e9, "fp32")],
    )  # fmt: skip
    lanes = [
        lane("slow twin", "default", 3.0),
        lane("mine", "default", *(scale * s for s in (0.9, 1.0, 1.1))), lane("mine", "tuned", 0.5),
        lane("<peer>", "default", 4 * scale, 4 * scale), lane("<peer>", "tuned", 2 * scale),
        lane("other", "default", 3 * scale),
        lane("gone", "default", status="crashed", reason="signal SIGKILL in /home/me/site/lib.so"),
        lane("gone", "tuned", status="crashed", reason="signal SIGKILL in /home/me/site/lib.so"),
    ]  # fmt: skip
    return case_record(case, lanes, {"": {"clusters": 5}, "mine": {"labels": "equal"}})


def a_record(*cases: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": "tmor_fast.benchmark", "schema_version": 1, "command": "run.py sums", "started": "2026-01-02",
        "complete": True, "quick": False, "seconds": 3.0, "interrupted": False,
        "machine": {"cpu": "A CPU", "cpus": 2, "instruction_sets": ["avx2"], "governor": None, "load_average": 0.1,
                    "memory_bytes": 1 << 34, "busy": None, "gpu": None},
        "software": {"libraries": {"torch": "2.9", "faiss-cpu": None}, "torch_threads": 2, "python": "3.11",
                     "tmor_fast": {"version": "0.1.0", "compiler": "GNU", "isa_supported": ["avx2"], "cuda": None}},
        "commit": {"commit": "abc123", "dirty": True},
        "allocators": {"default": {"note": "as the system has it"}},
        "ceilings": {"fp32": {"flops_per_second": 8e9, "route": "linear", "refused": {}},
                     "int8": {"flops_per_second": None, "route": None, "refused": {"torch._int_mm": "no such thing"}},
                     "copy": {"bytes_per_second": 4e9}},
        "claims": [{"name": "sums", "title": "Sums & more", "sweep": "n", "reason": "", "cases": list(cases)}],
    }  # fmt: skip


def test_ratios_are_against_the_better_peer_and_ours_under_the_default_allocator() -> None:
    found = a_case()["summary"]
    assert found == {
        "ours": "mine", "best_peer": "<peer>", "best_peer_allocator": "tuned", "ratio": 2.0,
        "ratio_default_allocator": 3.0,
    }  # fmt: skip


def test_without_peers_or_ours_there_is_no_ratio() -> None:
    entries = a_case()["measurements"]
    for role in ("peer", "ours"):
        found = summary([entry for entry in entries if entry["role"] != role])
        assert found["ratio"] is None
        assert table.quoted({"summary": found}).startswith("no ratio")
    assert summary([])["ours"] is None


def test_rates_shares_and_floors_follow_from_the_ceilings() -> None:
    record = complete(a_record(a_case()))
    case = record["claims"][0]["cases"][0]
    mine = next(entry for entry in case["measurements"] if entry["contender"] == "mine")
    assert mine["flops_per_second"] == 4e9
    assert (mine["share_of_compute"], mine["share_of_copy"]) == (0.5, 0.25)
    assert case["floors"][0]["seconds"] == 0.125
    gone = next(entry for entry in case["measurements"] if entry["contender"] == "gone")
    assert gone["seconds"] is None
    assert "share_of_compute" not in gone


def test_without_ceilings_shares_are_unknown() -> None:
    record = a_record(a_case())
    record["ceilings"] = None
    case = complete(record)["claims"][0]["cases"][0]
    assert case["measurements"][0]["share_of_compute"] is None
    assert case["floors"][0]["seconds"] is None
    render(record)
    assert table.ceiling_lines(record) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/me/venv/bin/python: not found", "…/python: not found"),
        ("cannot open '/root/x/data.bin' and ~/secret/key", "cannot open '…/data.bin' and …/key"),
        ("--out=/tmp/a/b.json", "--out=…/b.json"),
        ("12 GB/s, 3 and/or 4, 1/2, https://example.org/a/b", "12 GB/s, 3 and/or 4, 1/2, https://example.org/a/b"),
        ("python benchmarks/run.py --quick", "python benchmarks/run.py --quick"),
    ],
)
def test_absolute_paths_are_cut(text: str, shown: str) -> None:
    assert scrub({"a": [text]}) == {"a": [shown]}


def test_host_names_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "worker-17")
    assert scrub("lost worker-17, not worker-170") == "lost HOST, not worker-170"


def test_the_file_is_json_without_paths(tmp_path: Path) -> None:
    save(tmp_path / "deep" / "r.json", complete(a_record(a_case())))
    text = (tmp_path / "deep" / "r.json").read_text()
    assert json.loads(text)["claims"][0]["cases"][0]["measurements"][0]["memory"] == {
        "peak_bytes": 3 << 20, "method": "VmHWM",
    }  # fmt: skip
    assert "/home/" not in text
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["r.json"]


@pytest.mark.parametrize("with_rich", [True, False])
def test_tables_in_the_terminal(
    with_rich: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if with_rich:
        pytest.importorskip("rich")
    else:
        original = builtins.__import__

        def without_rich(name: str, *args: Any, **kwargs: Any) -> Any:
            if name.startswith("rich"):
                raise ImportError(name)
            return original(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", without_rich)
    table.print_record(complete(a_record(a_case())))
    shown = " ".join(capsys.readouterr().out.split())
    for text in (
        "1000 points: clusters 5", "mine", "<peer>", "1.00 s", "0.95–1.05 s", "2.00×", "3 MiB", "50 %", "25 %",
        "floor: half", "125 ms", "takes 2.00× the time of ours, mine", "mine: labels equal",
        "gone (default, tuned): crashed: signal SIGKILL", "fp32: 8 G operations/s, linear",
        "int8: none (torch._int_mm: no such thing)", "copy: 4.0 GB/s",
    ):  # fmt: skip
        assert text in shown, text


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "line", "circle", "path", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_everything_and_fetches_nothing(tmp_path: Path) -> None:
    record = complete(a_record(a_case(1000), a_case(10_000, scale=30.0)))
    write_page(tmp_path / "r.html", record)
    text = (tmp_path / "r.html").read_text()
    page = Reader()
    page.feed(text)
    assert page.open == []
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert "/home/" not in text
    assert "prefers-color-scheme: dark" in text
    for shown in ("Sums & more", "<peer> · tuned", "takes 2.00× the time of ours", "abc123 with changes", "8 G oper"):
        assert shown in page.text, shown
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags


def test_bars_are_proportional_and_growth_has_a_point_for_each_size() -> None:
    text = render(complete(a_record(a_case(1000))))
    bars = re.findall(r'<i class="(\w+)" style="width:calc\(\(100% - 4.6rem\) \* ([\d.]+)\)"></i><span>([^<]*)', text)
    shown = {(role, value): float(width) for role, width, value in bars}
    assert shown["peer", "4.00 s"] == 1.0
    assert shown["ours", "1.00 s"] == 0.25
    assert shown["floor", "125 ms"] == 0.0312  # of four seconds
    text = render(complete(a_record(a_case(1000), a_case(10_000, scale=30.0))))
    figures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(figures) == 2
    assert all(figure.count("<circle") == 4 * 2 for figure in figures)  # four finished contenders, two sizes


def test_one_size_has_no_growth() -> None:
    assert "<svg" not in render(complete(a_record(a_case())))


def test_an_unfinished_run_says_so() -> None:
    record = complete(a_record(a_case()))
    record["complete"] = False
    assert "not complete" in render(record)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.00 µs"), (2.5e-6, "2.50 µs"), (0.0125, "12.5 ms"), (0.5, "500 ms"), (171.2, "171 s"), (None, "–")],
)
def test_times_have_three_digits(seconds: float | None, text: str) -> None:
    assert table.seconds_text(seconds) == text


def test_contenders_and_cases_are_checked() -> None:
    with pytest.raises(ValueError, match="unknown role 'rival'"):
        contender("a", "rival")
    with pytest.raises(ValueError, match="unknown precision 'fp8'"):
        contender("a", "peer", precision="fp8")
    with pytest.raises(ValueError, match="names of their own"):
        Case("c", {}, [contender("a", "peer"), contender("a", "ours")])
