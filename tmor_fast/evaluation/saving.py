"""Results on disk: JSON files that are either complete or absent."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


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
    """
    path = Path(path)
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
