"""`tmor options`: the method's named options."""

from __future__ import annotations


def options() -> None:
    """Every choice the papers leave open: option, default, alternatives, what it decides."""
    from rich.console import Console
    from rich.table import Table

    from tmor_fast.nn.options import option_table

    table = Table(title="T-MOR options (--set options.NAME=VALUE)")
    for heading in ("row", "option", "default", "also", "decides"):
        table.add_column(heading, justify="right" if heading == "row" else "left")
    for row, *cells in option_table():
        table.add_row(str(row), *cells)
    Console().print(table)
    Console().print(
        "Rows 18 (clip length, crop, rotation) and 20 (optimiser) are 'augmentation.*' and 'optimiser.*' of a run."
    )
