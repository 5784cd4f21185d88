"""What importing the data room brings in."""

from __future__ import annotations

import os
import subprocess
import sys


def test_no_optional_library_is_imported() -> None:
    code = (
        "import sys; import tmor_fast.data; "
        "print([name for name in ('pyarrow', 'scipy', 'pandas', 'rich', 'typer', 'lightning') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert result.stdout.strip() == "[]"
