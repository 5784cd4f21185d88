"""Whole runs on claims that only add numbers: what is left when something dies, breaks or is interrupted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tmor_fast.benchmark import command, runner, turns
from tmor_fast.benchmark.case import find_claims
from tmor_fast.benchmark.machine import busy, commit, machine, software
from tmor_fast.benchmark.runner import Request, command_line, parse_options, run
from tmor_fast.benchmark.turns import Plan

DYING = 'Case("dying", {"n": 20}, [Contender("mine", "ours", working(), **ANY), Contender("d", "peer", dying, **ANY)])'
CHECKED = (
    'Case("checked", {"n": 30}, [Contender("mine", "ours", working(), **ANY)], '
    'check=lambda outputs: {"mine": {"wrong": f"value {outputs[\'mine\'][\'value\']}"}})'
)
MINE = 'Case("second", {"n": 40}, [Contender("mine", "ours", working(), **ANY)])'
CEILINGS = {
    "fp32": {"flops_per_second": 1e9, "route": "mm", "refused": {}}, "copy": {"bytes_per_second": 1e9},
}  # fmt: skip
Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def quick_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ceilings without measuring, and hardly any time for each contender."""
    monkeypatch.setattr(runner._Run, "_ceilings", lambda self: self.record.update(ceilings=CEILINGS))
    monkeypatch.setattr(turns, "QUICK", Plan(seconds=0.01, rounds=2, warm_seconds=0.0, together=True))


def measured(folder: Path, out: Path, **more: Any) -> dict[str, Any]:
    run(Request(folder, out, quick=True, command="test", **more))
    return json.loads(out.read_text())


def cases(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {case["name"]: case for claim in record["claims"] for case in claim["cases"]}


def statuses(case: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(entry["contender"], entry["allocator"]): entry["status"] for entry in case["measurements"]}


def test_a_run_leaves_its_record_and_page(claim_folder: Make, tmp_path: Path) -> None:
    record = measured(claim_folder(), tmp_path / "out" / "r.json")
    assert record["complete"]
    assert record["ceilings"] == CEILINGS
    (case,) = cases(record).values()
    assert statuses(case) == {("mine", "default"): "ok", ("theirs", "default"): "ok", ("theirs", "tuned"): "ok"}
    for entry in case["measurements"]:
        assert entry["seconds"]["n"] >= 3
        assert entry["share_of_compute"] == pytest.approx(1e6 / entry["seconds"]["median"] / 1e9)
    assert 1 < case["summary"]["ratio"] < 20  # five times the work
    assert case["floors"][0]["seconds"] == 1e-3
    assert set(record["allocators"]) == {"default", "tuned"}
    assert record["machine"]["cpus"] >= 1
    assert record["software"]["tmor_fast"]["backends"]["dbscan"][0] == "reference"
    assert "A claim of the tests" in (tmp_path / "out" / "r.html").read_text()
    assert str(tmp_path) not in (tmp_path / "out" / "r.json").read_text()


def test_a_crash_is_recorded_and_the_rest_goes_on(claim_folder: Make, tmp_path: Path) -> None:
    record = measured(claim_folder(DYING, MINE), tmp_path / "r.json")
    dying, second = cases(record).values()
    assert statuses(dying) == {("mine", "default"): "ok", ("d", "default"): "crashed", ("d", "tuned"): "crashed"}
    assert "exit status 7" in dying["measurements"][1]["reason"]
    assert dying["summary"]["ratio"] is None
    assert statuses(second) == {("mine", "default"): "ok"}
    assert record["complete"]


def test_a_claim_file_that_breaks_does_not_take_the_others_with_it(claim_folder: Make, tmp_path: Path) -> None:
    folder = claim_folder(name="good")
    claim_folder("1 / 0", name="bad")
    record = measured(folder, tmp_path / "r.json")
    bad, good = record["claims"]
    assert (bad["name"], bad["reason"], bad["cases"]) == ("bad", "ZeroDivisionError: division by zero", [])
    assert len(good["cases"]) == 1
    assert command._problems(record)


def test_an_interrupted_run_keeps_the_finished_cases(
    claim_folder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = runner.take_turns, []

    def interrupted(lanes: Any, *rest: Any) -> None:
        seen.append(lanes)
        if len(seen) == 2:
            for lane in lanes:
                lane.worker.stop()
            raise KeyboardInterrupt
        original(lanes, *rest)

    monkeypatch.setattr(runner, "take_turns", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measured(claim_folder(MINE, DYING), tmp_path / "r.json")
    record = json.loads((tmp_path / "r.json").read_text())
    assert list(cases(record)) == ["second"]
    assert (record["complete"], record["interrupted"]) == (False, True)
    assert "not complete" in (tmp_path / "r.html").read_text()


def test_outputs_reach_the_check_and_what_is_wrong_is_a_failure(claim_folder: Make, tmp_path: Path) -> None:
    record = measured(claim_folder(CHECKED), tmp_path / "r.json")
    assert cases(record)["checked"]["check"] == {"mine": {"wrong": f"value {sum(range(1000))}"}}
    assert command._problems(record)
    # A claim in which only a peer dies has no problem of ours.
    record["claims"][0]["cases"][0]["check"] = {}
    assert not command._problems(record)


def test_options_reach_the_claim(claim_folder: Make, tmp_path: Path) -> None:
    record = measured(claim_folder(), tmp_path / "r.json", options=["sums.amount=7"])
    assert record["claims"][0]["options"] == {"amount": "7"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"names": ["differences"]}, "no claim 'differences'; there are: sums"),
        ({"options": ["sums.size=1"]}, "no option size in the claim"),
        ({"options": ["products.size=1"]}, "no claim 'products' in the option"),
        ({"options": ["amount=1"]}, "claim.option=value"),
    ],
)
def test_what_does_not_exist_is_named_before_anything_runs(
    claim_folder: Make, tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measured(claim_folder(), tmp_path / "r.json", **more)
    assert not (tmp_path / "r.json").exists()


def test_no_benchmarks_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run from a clone, or name the folder with --path"):
        measured(tmp_path, tmp_path / "r.json")


def test_claims_are_found_without_running_any_file(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("from tmor_fast.benchmark import Claim\nCLAIM: Claim = make()\n")
    (tmp_path / "b.py").write_text("raise SystemExit\n")
    (tmp_path / "c.py").write_text("def f():\n    CLAIM = 1\n")
    assert list(find_claims(tmp_path)) == ["a"]


def test_a_claim_may_import_files_of_its_folder(claim_folder: Make, tmp_path: Path) -> None:
    folder = claim_folder(CHECKED.replace("working()", "working(AMOUNT)"))
    claim = folder / "sums.py"
    claim.write_text(f"from amount_of_the_sums import AMOUNT\n{claim.read_text()}")
    (folder / "amount_of_the_sums.py").write_text("AMOUNT = 30\n")
    assert list(find_claims(folder)) == ["sums"]
    before = list(sys.path)
    record = measured(folder, tmp_path / "r.json")
    assert cases(record)["checked"]["check"] == {"mine": {"wrong": f"value {sum(range(30))}"}}
    assert sys.path == before


def test_the_command_holds_no_folder_of_this_machine() -> None:
    typed = ["/home/me/benchmarks/run.py", "--out", "/home/me/r.json", "--set", "a.b=c d"]
    assert command_line(typed) == "run.py --out r.json --set 'a.b=c d'"


def test_options_by_claim() -> None:
    claims = {"a": Path("a.py"), "b": Path("b.py")}
    assert parse_options(["a.x=1", "a.y=p=q", "b.x="], claims) == {"a": {"x": "1", "y": "p=q"}, "b": {"x": ""}}


def test_a_busy_machine_is_warned_of() -> None:
    assert busy(0.3, 2) is None
    assert busy(None, 2) is None
    assert "load average 1.80 on 2 CPUs" in str(busy(1.8, 2))


def test_the_machine_and_the_commit(tmp_path: Path) -> None:
    found = machine("cpu")
    assert found["gpu"] is None
    assert found["cpu"]
    assert software()["torch_threads"] >= 1
    assert commit(tmp_path) == {"commit": None, "dirty": None}
    quiet = {"cwd": tmp_path, "check": True, "capture_output": True}
    subprocess.run(["git", "init", "-q"], **quiet)
    (tmp_path / "f").write_text("1")
    subprocess.run(["git", "add", "f"], **quiet)
    author = ["-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run(["git", *author, "commit", "-qm", "m"], **quiet)
    clean = commit(tmp_path)
    assert (len(clean["commit"]), clean["dirty"]) == (40, False)
    (tmp_path / "f").write_text("2")
    assert commit(tmp_path)["dirty"]


def test_both_command_lines(claim_folder: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typer = pytest.importorskip("typer.testing")
    from tmor_fast.cli.app import app

    folder = claim_folder()
    shown = typer.CliRunner().invoke(app, ["bench", "--list", "--path", str(folder)])
    assert shown.exit_code == 0, shown.output
    assert "sums: A claim of the tests" in shown.output
    assert "--set sums.amount=1000" in shown.output
    out = tmp_path / "r.json"
    ran = typer.CliRunner().invoke(app, ["bench", "sums", "--quick", "--path", str(folder), "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    assert json.loads(out.read_text())["complete"]
    refused = typer.CliRunner().invoke(app, ["bench", "--path", str(folder), "--device", "tpu"])
    assert isinstance(refused.exception, ValueError)
    program = "from tmor_fast.benchmark.command import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "nothing", "--path", str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "error: no claim 'nothing'; there are: sums"
