"""The README's Python block runs as it stands, and the files and commands it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tmor_fast.data.synthetic import write_synthetic_store
from tmor_fast.nn import UNIK, UNIKConfig, to_official

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save(to_official(UNIK(UNIKConfig.preset("unik", num_classes=320))), tmp_path / "weights-posetics.pt")
    write_synthetic_store(tmp_path / "penn", clips=4, seed=0)
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    names: dict[str, object] = {}
    exec(compile(code[1], "README.md", "exec"), names)
    loss = names["loss"]
    assert isinstance(loss, torch.Tensor)
    assert torch.isfinite(loss)
    assert len(names["clips"]) == 4  # type: ignore[arg-type]


def test_files_it_links_to_are_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_verbs_it_names_are_there():
    from typer.main import get_command

    from tmor_fast.cli.app import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"`tmor ([a-z]+)", README)) <= known
