"""The report of a run: one HTML file that needs nothing else, see `write_report`."""

from __future__ import annotations

from tmor_fast.report.gather import Material, gather
from tmor_fast.report.page import MAX_BYTES, render, write_report

__all__ = ["MAX_BYTES", "Material", "gather", "render", "write_report"]
