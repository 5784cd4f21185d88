"""Results on disk: JSON files that are either complete or absent."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tmor_fast.atomic import new_file


def save_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write `value` as JSON under a temporary name in the same folder, then move it to `path`.

    Args:
        path: file to write; its folder is created.
        value: what `json` can write. NaN and infinities are refused, since they are no JSON.

    Returns:
        The path.

    Raises:
        ValueError: a number is not finite.
        TypeError: something that JSON cannot hold.
        DiskFullError: there is no space for it.
    """
    path = Path(path)
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
