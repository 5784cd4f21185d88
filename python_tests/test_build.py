from __future__ import annotations

import builtins
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tmor_fast
from tmor_fast.build import OPS, build_config, compiled
from tmor_fast.cli import doctor

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("lightning", "pyarrow", "scipy", "cv2", "transformers", "typer", "rich", "sklearn", "matplotlib", "pandas")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_version_is_the_projects() -> None:
    project = ROOT / "pyproject.toml"
    if not project.is_file():
        pytest.skip("pyproject.toml is not beside the tests")
    match = re.search(r'^version = "(.+)"$', project.read_text(), re.MULTILINE)
    assert match is not None
    assert tmor_fast.__version__ == match[1]


def test_config_of_the_compiled_module() -> None:
    config = build_config()
    assert config["version"] == tmor_fast.__version__
    assert set(config["backends"]) == set(OPS)
    for op, names in config["backends"].items():
        assert names[0] == "reference"
        for name in names[1:]:
            assert compiled(op, name) is None
    if not config["extension"]:
        pytest.skip(config["extension_error"])
    assert "cpu" in config["backends"]["dbscan"]
    assert set(config["isa_supported"]) <= set(config["isa_compiled"])
    assert config["isa_compiled"][0] == "portable"
    assert config["compiler"]
    if config["cuda"]:
        assert config["cuda_architectures"]
        assert config["cuda_reason"] == ""
    else:
        assert config["cuda_architectures"] == []
        assert config["cuda_reason"]


def test_what_is_not_compiled_says_so() -> None:
    reason = compiled("dbscan", "abacus")
    assert reason is not None
    assert "abacus" in reason or "cannot be imported" in reason


def test_without_the_compiled_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tmor_fast.build._load", lambda: (None, "ImportError: libgomp.so.1"))
    config = build_config()
    assert not config["extension"]
    assert config["extension_error"] == "ImportError: libgomp.so.1"
    assert all(names == ["reference"] for names in config["backends"].values())
    reason = compiled("dbscan", "cpu")
    assert reason is not None
    assert "libgomp.so.1" in reason
    entry = next(entry for entry in doctor.report() if entry.name == "compiled module")
    assert not entry.ok
    assert "libgomp.so.1" in entry.value
    assert entry.remedy.startswith("pip install")


def test_import_is_light() -> None:
    result = run(
        f"import sys; import tmor_fast, tmor_fast.ops, tmor_fast.cluster, tmor_fast.cli.doctor;"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
    result = run("import sys, tmor_fast; print('torch' in sys.modules, tmor_fast.ops.__name__)")
    assert result.stdout.strip() == "False tmor_fast.ops", result.stdout + result.stderr


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tmor_fast.nothing
    assert "cluster" in dir(tmor_fast)


def test_doctor_reports_every_part() -> None:
    entries = doctor.report()
    assert {entry.section for entry in entries} == {"built", "machine", "libraries"}
    names = {entry.name for entry in entries}
    assert {"compiled module", "CUDA", "op dbscan", "PyTorch", "CPUs", "pyarrow", "transformers"} <= names
    for entry in entries:
        assert entry.value
        assert entry.remedy == "" or not entry.ok


def test_doctor_names_the_command_for_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    remedies = {entry.name: entry.remedy for entry in doctor.report() if entry.section == "libraries"}
    assert remedies["pyarrow"] == "pip install 'tmor_fast[train]'"
    assert remedies["transformers"] == "pip install 'tmor_fast[teachers]'"
    assert all(remedies.values())


@pytest.mark.parametrize("with_rich", [True, False])
def test_doctor_prints(with_rich: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if with_rich:
        pytest.importorskip("rich")
        monkeypatch.setenv("COLUMNS", "200")
    else:
        original = builtins.__import__

        def without_rich(name: str, *args: object, **kwargs: object) -> object:
            if name.startswith("rich"):
                raise ImportError(name)
            return original(name, *args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(builtins, "__import__", without_rich)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    doctor.print_report()
    printed = capsys.readouterr().out
    assert "op dbscan" in printed
    assert "pip install 'tmor_fast[train]'" in printed


@pytest.mark.gpu
def test_doctor_proves_that_kernels_launch() -> None:
    if not build_config()["cuda"]:
        pytest.skip("this build has no CUDA")
    assert doctor.probe(0) == ""
    assert any(entry.name == "cuda:0" and "kernels run" in entry.value for entry in doctor.report())
