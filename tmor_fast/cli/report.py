"""`tmor report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress


def report(
    run: Annotated[Path, typer.Argument(help="Run folder of pretrain, finetune or demo; or with result files.")],
    store: Annotated[
        list[Path] | None, typer.Option(help="A clip store, may be repeated; left out: those the run knows of.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The HTML file; left out: RUN/report.html.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Model for the map; left out: the run's own.")] = None,
    projection: Annotated[str, typer.Option(help="Of the map: pca, tsne, or auto (t-SNE with scikit-learn).")] = "auto",
    points: Annotated[int, typer.Option(help="Clips on the map, at most.")] = 3000,
    clips: Annotated[int, typer.Option(help="Moving skeletons, at most.")] = 12,
) -> None:
    """One HTML file about a run: results, confusions, skeletons, embedding map, losses, clusters, configuration."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    from tmor_fast.report import write_report

    with Progress(transient=True) as bar:
        written = write_report(
            run, out, stores=store or [], checkpoint=checkpoint,
            projection=projection,  # type: ignore[arg-type]
            max_points=points, max_clips=clips, advance=shown_on(bar),
        )  # fmt: skip
    size = written.stat().st_size / 1e6
    Console().print(
        f"report: [bold]{escape(str(written))}[/bold] ({size:.1f} MB, opens in any browser)", soft_wrap=True
    )


def shown_on(bar: Progress) -> Callable[[str, int, int], None]:
    """What `write_report` tells, as one line of a progress bar."""
    from rich.markup import escape

    # Names of stores are not markup.
    task = bar.add_task("report", total=None)

    def advance(doing: str, done: int, total: int) -> None:
        bar.update(task, description=escape(doing), completed=done, total=total if total > 1 else None)

    return advance
