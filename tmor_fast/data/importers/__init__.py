"""From a data set's official files to a clip store."""

from __future__ import annotations

from tmor_fast.data.importers.npz import import_npz
from tmor_fast.data.importers.penn import import_penn

__all__ = ["import_npz", "import_penn"]
