"""`tmor predict`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tmor_fast.cli.stopping import stoppable

if TYPE_CHECKING:
    from tmor_fast.inference import ActionModel, Prediction, Source

# Rows of the table on the terminal; a file has all.
MOST_ROWS = 50


def predict(
    checkpoint: Annotated[Path, typer.Argument(help="model.pt, joint.pt, bone.pt, a probe's file, or a run folder.")],
    source: Annotated[Path, typer.Argument(help="A clip store, a .npz, a pose .json, or a folder of pose .json.")],
    actions: Annotated[
        str | None, typer.Option(help="Names that compete, comma-separated, for a model trained with text.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this .json or .csv file; left out: a table.")] = None,
    top: Annotated[int, typer.Option(help="How many names a clip gets.", min=1)] = 5,
    windows: Annotated[
        int | None, typer.Option(help="Frames of a window: name the actions of a long recording over time.", min=1)
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Frames from one window to the next; half a window.", min=1)
    ] = None,
    layout: Annotated[str | None, typer.Option(help="Skeleton, where a pose file does not say it: coco17, ...")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second of a pose file; left out: 30.")] = None,
    image_size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT of the images, where the clips do not say it.")
    ] = None,
    views: Annotated[int, typer.Option(help="Directions from which a 2D model sees a 3D clip.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    precision: Annotated[
        str, typer.Option(help="float32, bfloat16, float16, float64, or auto: bfloat16 where it is native.")
    ] = "float32",
) -> None:
    """Name the actions in skeletons with a trained model."""
    from rich.console import Console
    from rich.markup import escape

    from tmor_fast.inference import load, open_source, write_predictions
    from tmor_fast.inference.writing import check_ending

    if out is not None:
        check_ending(out)
    if stride is not None and windows is None:
        raise ValueError("--stride needs --windows")
    chosen = None if actions is None else [name.strip() for name in actions.split(",") if name.strip()]
    size = _size(image_size)
    said = Console(stderr=True)
    with stoppable("no file was changed; run the command again"), ExitStack() as opened:
        model = load(checkpoint, device, precision)
        said.print(escape(repr(model)), highlight=False, soft_wrap=True)
        with said.status(f"reading {escape(str(source))}"):
            found = opened.enter_context(
                open_source(source, layout=layout, persons=model.persons, fps=fps, image_size=size)
            )
        said.print(escape(f"{source}: {found}"), highlight=False, soft_wrap=True)
        predictions = _predictions(model, found, windows, stride, actions=chosen, top=top, views=views, image_size=size)
        if out is None:
            _show(predictions, windows is not None)
        else:
            about = {"model": model.describe(), "source": {"path": str(source), "kind": found.kind}, **_version()}
            write_predictions(out, predictions, about)
            said.print(escape(f"{out}: {len(predictions)} predictions"), highlight=False, soft_wrap=True)


def _predictions(
    model: ActionModel, found: Source, windows: int | None, stride: int | None, **options: Any
) -> list[Prediction]:
    if windows is not None:
        return model.predict_windows(found.clips, window=windows, stride=stride, progress=True, **options)
    # A list of clips or a store gives a list.
    return model.predict(found.clips, progress=True, **options)  # type: ignore[return-value]


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(f"--image-size {text!r}; accepted: WIDTHxHEIGHT, e.g. 1920x1080")
    return int(width), int(height)


def _version() -> dict[str, str]:
    from tmor_fast import __version__

    return {"tmor_fast": __version__}


def _show(predictions: list[Prediction], timed: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{len(predictions)} {'windows' if timed else 'clips'}")
    for heading in ("clip", *(("seconds",) if timed else ()), "action", "%", "or"):
        table.add_column(heading, justify="right" if heading in ("seconds", "%") else "left")
    for found in predictions[:MOST_ROWS]:
        others = (f"{name} {100 * score:.0f}" for name, score in zip(found.names[1:], found.scores[1:], strict=True))
        time = (f"{found.start_seconds:.2f} - {found.stop_seconds:.2f}",) if timed else ()
        table.add_row(
            escape(found.clip_id), *time, escape(found.top), f"{100 * found.score:.1f}", escape(", ".join(others))
        )
    Console().print(table)
    if len(predictions) > MOST_ROWS:
        Console().print(f"and {len(predictions) - MOST_ROWS} more; --out FILE.csv writes all")
