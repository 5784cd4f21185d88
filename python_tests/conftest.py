"""What every test shares: the installed package is what is tested; real data is found or its tests skip."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

import tmor_fast

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts background jobs with Ctrl-C ignored, and children inherit it; here it is tested.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Test tensors are tiny: a second thread costs more than it brings. Tests of threading set their own number.
    torch.set_num_threads(1)
    source = ROOT / "tmor_fast"
    if Path(tmor_fast.__file__).resolve().parent == source and not os.environ.get("TMOR_TEST_SOURCE"):
        raise pytest.UsageError(
            f"tmor_fast was imported from the source folder {source}; install it (pip install '.[test]') and run "
            "'pytest', not 'python -m pytest'. Editable installs set TMOR_TEST_SOURCE=1."
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real data sets (`TMOR_TEST_DATA`, default `../shared/data`); skips where it is absent."""
    folder = Path(os.environ.get("TMOR_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "penn_action" / "labels.tar.xz").is_file():
        pytest.skip(f"real data not found at {folder}; set TMOR_TEST_DATA")
    return folder
