"""From a data set's official files to a clip store."""

from __future__ import annotations

from tmor_fast.data.importers.mocap import import_bandai, import_cmu
from tmor_fast.data.importers.npz import import_npz
from tmor_fast.data.importers.penn import import_penn
from tmor_fast.data.importers.pyskl import import_pyskl
from tmor_fast.data.importers.unik import import_unik

__all__ = ["import_bandai", "import_cmu", "import_npz", "import_penn", "import_pyskl", "import_unik"]
