"""`tmor data check`: everything that is wrong with a store or a source, in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

if TYPE_CHECKING:
    from tmor_fast.data.check.findings import Finding, Report

FIRST = 20
COLOUR = {"error": "red", "warning": "yellow"}


def check(
    path: Annotated[Path, typer.Argument(help="A clip store, or the files of a data set as an importer takes them.")],
    format: Annotated[
        str | None, typer.Option(help="store, penn, npz, pyskl, unik or pose-json; left out: found out.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Label pickle of a UNIK array; left out: beside it.")] = None,
    label_names: Annotated[
        Path | None, typer.Option(help="Text file with the name of a class a line; labels must be inside.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="Skeleton layout, where the number of joints does not tell.")
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help=f"List every finding, not the first {FIRST}.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write all findings to this file.")] = None,
) -> None:
    """Find every bad file, clip, frame and joint, and say what to do. Exit status 1 if there are errors."""
    from tmor_fast.data.check.paths import check_path, find_format
    from tmor_fast.data.check.stores import count_clips
    from tmor_fast.data.importers.writing import read_label_names

    names = None if label_names is None else read_label_names(label_names)
    kind = format or (find_format(path) if path.exists() else "")
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(f"checking {escape(str(path))}", total=count_clips(path) if kind == "store" else None)
        report = check_path(
            path,
            format=kind or None,
            labels=labels,
            label_names=names,
            layout=layout,
            advance=lambda clips: bar.advance(task, clips),
        )
    if json is not None:
        report.write(json)
    show(report, show_all)
    if not report.ok:
        raise typer.Exit(1)


def show(report: Report, show_all: bool = False) -> None:
    """Tables of a report: how many of each kind, then the findings themselves, errors first."""
    console = Console()
    if report.findings:
        console.print(_counts(report))
        console.print(_list(report, None if show_all else FIRST))
    share = f"; {100 * report.observed / report.joints:.1f} % of the joints were observed" if report.joints else ""
    if report.ok:
        verdict = "every clip is sound" if not report.findings else "no errors"
        console.print(f"{verdict}{share}", highlight=False)
    else:
        errors, warnings = report.count("error"), report.count("warning")
        console.print(f"[red]{errors:,} errors[/red] and {warnings:,} warnings in {report.clips:,} clips{share}")


def _counts(report: Report) -> Table:
    table = Table(title=escape(f"{report.path} ({report.format}): {report.clips:,} clips, {report.frames:,} frames"))
    for title in ("severity", "kind"):
        table.add_column(title)
    for title in ("findings", "clips"):
        table.add_column(title, justify="right")
    for severity, kind, number, clips in report.kinds():
        colour = COLOUR[severity]
        table.add_row(f"[{colour}]{severity}[/{colour}]", kind, f"{number:,}", f"{clips:,}" if clips else "")
    return table


def _list(report: Report, most: int | None) -> Table:
    ordered = sorted(report.findings, key=lambda found: found.severity)  # errors before warnings, else as found
    shown = ordered if most is None else ordered[:most]
    table = Table(title="findings" if len(shown) == len(ordered) else f"the first {len(shown)} of {len(ordered):,}")
    for title in ("", "file", "clip", "frame", "joint", "what is wrong", "what to do"):
        table.add_column(title, overflow="fold")
    for found in shown:
        table.add_row(*_row(found))
    if len(shown) < len(ordered):
        table.caption = "--all lists the others, --json FILE writes them"
    return table


def _row(found: Finding) -> list[str]:
    colour = COLOUR[found.severity]
    person = f"person {found.person}" if found.person else ""
    joint = ", ".join(part for part in (person, found.joint) if part)
    cells = (Path(found.file).name, found.clip, found.frames, joint, found.what, found.remedy)
    return [f"[{colour}]{found.severity}[/{colour}]", *(escape(cell) for cell in cells)]
