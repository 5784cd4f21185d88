"""`tmor export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tmor_fast.cli.stopping import stoppable


def export(
    checkpoint: Annotated[Path, typer.Argument(help="joint.pt, bone.pt, a probe's file, model.pt, or a run folder.")],
    out: Annotated[Path, typer.Argument(help="The file: .pt2 (torch.export) or .onnx.")],
    output: Annotated[
        str | None, typer.Option(help="scores, features or embeddings; left out: scores where there is a classifier.")
    ] = None,
) -> None:
    """Write a trained model to a file that runs without this library, with torch or ONNX Runtime alone."""
    from rich.console import Console
    from rich.markup import escape

    from tmor_fast.inference.export import export_model

    said = Console(stderr=True)
    with (
        stoppable(f"{out} was not changed; run the command again"),
        said.status(f"exporting {escape(str(checkpoint))}"),
    ):
        metadata = export_model(checkpoint, out, output=output)  # type: ignore[arg-type]
    _show(out, metadata)


def _show(out: Path, metadata: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    taken, given, names = metadata["input"], metadata["output"], metadata["label_names"]
    table = Table(title=f"{out.name}, {out.stat().st_size / 1e6:.1f} MB", show_header=False)
    rows = [
        (
            "input",
            f"{taken['name']} ({', '.join(map(str, taken['shape']))}) {taken['dtype']}: {', '.join(taken['axes'])}",
        ),
        ("layout", f"{taken['layout']['name']}, {taken['coordinates']}"),
        ("stream", f"{taken['stream']}: {taken['stream_means']}"),
        ("normalisation", f"{taken['normalisation']}: {taken['normalisation_means']}"),
        ("frames", f"{taken['shape'][2]}, {taken['sampling']}: {taken['sampling_means']}"),
        ("missing", taken["missing"]),
        ("output", f"{given['name']} ({', '.join(map(str, given['shape']))}): {given['means']}"),
        *([("classes", ", ".join(names))] if names else []),
    ]
    for heading, text in rows:
        # Text, not markup: names may hold brackets.
        table.add_row(Text(heading), Text(text))
    Console().print(table)
