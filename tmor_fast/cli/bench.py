"""`tmor bench`: the repository's benchmarks, measured on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Claims to measure; none: all of them.")] = None,
    quick: Annotated[
        bool, typer.Option(help="Each claim in about 20 seconds, on small sizes; not to be quoted.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file; the page lies beside it. Default: under runs/.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    set_: Annotated[list[str] | None, typer.Option("--set", help="claim.option=value, may be repeated.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each process.")] = None,
    path: Annotated[Path | None, typer.Option(help="Folder of the claim files, benchmarks/ of a clone.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the claims and their options.")] = False,
) -> None:
    """Measure ours against its peers, in turn, on this machine: a table, a JSON record, one HTML page.

    Exit status 1 if something of ours failed or a check found a wrong result; the record is written all the same.
    """
    from tmor_fast.benchmark.command import bench as run

    status = run(
        names or [], quick=quick, out=out, device=device, options=set_ or [], threads=threads, folder=path, show=list_
    )
    raise typer.Exit(status)
