"""`tmor data`: make clip stores and look into them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tmor_fast.cli.check import check

if TYPE_CHECKING:
    from tmor_fast.data.store import ClipStore

app = typer.Typer(no_args_is_help=True, help="Make clip stores from official files and look into them.")
importing = typer.Typer(no_args_is_help=True, help="Make a clip store from a data set's official files.")
app.add_typer(importing, name="import")
app.command("check")(check)

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a store that exists.")]
Out = Annotated[Path, typer.Argument(help="Folder of the clip store to make.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave bad clips out, listed here and in dataset.json; else the first stops.")
]
Name = Annotated[str | None, typer.Option(help="Name of the data set; left out: from the file.")]
Licence = Annotated[str, typer.Option(help="Licence of the data, noted in the store.")]
Fps = Annotated[float, typer.Option(help="Frames a second to note; the files do not say.")]
Layout = Annotated[str | None, typer.Option(help="Skeleton layout; left out: by the number of joints.")]
Axes = Annotated[
    str | None,
    typer.Option(help="Axes of the coordinates: 2D image, image-up; 3D store, kinect, z-up. Left out: by the layout."),
]
LabelNames = Annotated[
    Path | None, typer.Option(help="Text file with the name of a class a line; they become captions too.")
]


@importing.command("penn")
def import_penn(
    source: Annotated[Path, typer.Argument(help="Penn Action's labels.tar.xz as it is, or its folder of .mat files.")],
    out: Out,
    fps: Annotated[float, typer.Option(help="Frames a second to note; the files do not say.")] = 30.0,
    sides: Annotated[
        str,
        typer.Option(help="anatomical: swap the files' left and right, which are the viewer's; official: keep them."),
    ] = "anatomical",
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
) -> None:
    """Penn Action: 2,326 clips, 15 actions, 13 joints in pixels, with the official split."""
    from tmor_fast.data.importers.penn import import_penn as run

    _show(run(source, out, fps=fps, sides=sides, skip_bad=skip_bad, overwrite=overwrite, progress=True))


@importing.command("npz")
def import_npz(
    source: Annotated[Path, typer.Argument(help="A .npz file with joints, offsets and joint_names (and more).")],
    out: Out,
    name: Name = None,
    hold_out: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN=VALUE,VALUE: clips with one of the values are the test split. May be repeated."),
    ] = None,
    licence: Licence = "",
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
) -> None:
    """Any data set in one .npz file; its keys are described in tmor_fast.data.importers.npz."""
    from tmor_fast.data.importers.npz import import_npz as run

    with Console(stderr=True).status(f"importing {escape(str(source))}"):
        store = run(
            source,
            out,
            name=name,
            hold_out=_parse_hold_out(hold_out),
            licence=licence,
            skip_bad=skip_bad,
            overwrite=overwrite,
        )
    _show(store)


@importing.command("pyskl")
def import_pyskl(
    source: Annotated[
        Path, typer.Argument(help="A pyskl annotation pickle, e.g. ntu60_hrnet.pkl or ntu60_3danno.pkl.")
    ],
    out: Out,
    split: Annotated[str | None, typer.Option(help="Which official split to note, e.g. xsub or xview.")] = None,
    label_names: LabelNames = None,
    layout: Layout = None,
    axes: Axes = None,
    name: Name = None,
    fps: Fps = 30.0,
    licence: Licence = "",
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
) -> None:
    """pyskl's annotation pickles, 2D and 3D; the pickle is read as plain data, code in it never runs."""
    from tmor_fast.data.importers.pyskl import import_pyskl as run

    store = run(
        source,
        out,
        name=name,
        split=split,
        label_names=_read_names(label_names),
        layout=layout,
        axes=axes,
        fps=fps,
        licence=licence,
        skip_bad=skip_bad,
        overwrite=overwrite,
        progress=True,
    )
    _show(store)


@importing.command("unik")
def import_unik(
    source: Annotated[Path, typer.Argument(help="The .npy array (clips, coordinates, frames, joints, persons).")],
    labels: Annotated[Path, typer.Argument(help="The .pkl with (names, labels).")],
    out: Out,
    split: Annotated[str, typer.Option(help="train, test or auto: by the name of the array.")] = "auto",
    label_names: LabelNames = None,
    layout: Layout = None,
    dims: Annotated[int | None, typer.Option(help="2 or 3 coordinates, where the array has both.")] = None,
    axes: Axes = None,
    name: Name = None,
    fps: Fps = 30.0,
    licence: Licence = "",
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
) -> None:
    """Arrays of UNIK, 2s-AGCN and ST-GCN; the array is mapped, the pickle read as plain data."""
    from tmor_fast.data.importers.unik import import_unik as run

    store = run(
        source,
        labels,
        out,
        name=name,
        split=split,
        label_names=_read_names(label_names),
        layout=layout,
        dims=dims,
        axes=axes,
        fps=fps,
        licence=licence,
        skip_bad=skip_bad,
        overwrite=overwrite,
        progress=True,
    )
    _show(store)


@importing.command("cmu")
def import_cmu(
    source: Annotated[Path, typer.Argument(help="The .npz file with 31 joints and a label a frame.")],
    out: Out,
    test_subjects: Annotated[str, typer.Option(help="Subjects of the test split, comma-separated.")] = "14",
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
) -> None:
    """CMU exercise sequences with a label for every frame, for frame-wise detection."""
    from tmor_fast.data.importers.mocap import import_cmu as run

    with Console(stderr=True).status(f"importing {escape(str(source))}"):
        store = run(source, out, test_subjects=_words(test_subjects), skip_bad=skip_bad, overwrite=overwrite)
    _show(store)


@importing.command("bandai")
def import_bandai(
    source: Annotated[Path, typer.Argument(help="The .npz file with 21 joints, actions and styles.")],
    out: Out,
    test_styles: Annotated[str, typer.Option(help="Styles of the test split, comma-separated.")] = "elderly,youthful",
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
) -> None:
    """Bandai-Namco Motiondataset 2: 10 actions in 7 styles, with captions."""
    from tmor_fast.data.importers.mocap import import_bandai as run

    with Console(stderr=True).status(f"importing {escape(str(source))}"):
        store = run(source, out, test_styles=_words(test_styles), skip_bad=skip_bad, overwrite=overwrite)
    _show(store)


@app.command()
def info(store: Annotated[Path, typer.Argument(help="A clip store.")]) -> None:
    """What a clip store holds: sizes, classes, splits, columns, teacher embeddings. 'check' verifies it."""
    from tmor_fast.data.store import ClipStore

    _show(ClipStore(store))


@app.command()
def synth(
    out: Out,
    clips: Annotated[int, typer.Option(help="How many clips.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Fixes everything.")] = 0,
    dims: Annotated[int, typer.Option(help="3: metres; 2: pixels as a camera sees them.", min=2, max=3)] = 3,
    actions: Annotated[str | None, typer.Option(help="Names of actions, comma-separated; left out: all.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Synthetic clips of people doing named actions, with captions."""
    from tmor_fast.data.synthetic import write_synthetic_store

    chosen = None if actions is None else _words(actions)
    store = write_synthetic_store(
        out, clips=clips, seed=seed, dims=dims, actions=chosen, overwrite=overwrite, progress=True
    )
    _show(store)


def _words(text: str) -> list[str]:
    """ "a, b" -> ["a", "b"]."""
    return [word.strip() for word in text.split(",") if word.strip()]


def _read_names(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    from tmor_fast.data.importers.writing import read_label_names

    return read_label_names(path)


def _parse_hold_out(entries: list[str] | None) -> dict[str, list[str]] | None:
    """["style=old,young"] -> {"style": ["old", "young"]}."""
    if not entries:
        return None
    parsed: dict[str, list[str]] = {}
    for entry in entries:
        column, equals, values = entry.partition("=")
        wanted = _words(values)
        if not (column and equals and wanted):
            raise ValueError(f"--hold-out {entry!r}; accepted: COLUMN=VALUE or COLUMN=VALUE,VALUE")
        parsed.setdefault(column.strip(), []).extend(wanted)
    return parsed


def _show(store: ClipStore) -> None:
    """Tables of what a store holds."""
    console = Console()
    details = store.info
    lengths = store.column("num_frames")
    overview = Table(title=escape(store.name), show_header=False)
    rows = {
        "folder": str(store.path),
        "clips": f"{len(store):,}",
        "frames": f"{store.num_frames:,}  (a clip: {int(min(lengths))} to {int(max(lengths))})",
        "skeleton": f"{store.layout.name}: {store.layout.num_joints} joints, {store.channels}D, {store.units}",
        "persons": f"at most {store.max_persons}",
        "stored as": f"{details.get('dtype')}, Parquet files: {len(details['shards'])}",
        "splits": _counts(store.column("split")),
        "views": _counts(store.column("view")),
        "subjects": _distinct(store.column("subject")),
        "captions": _distinct(store.column("caption")),
        "teachers": ", ".join(store.teachers) or "none",
        "source": str(details.get("source", "")),
        "licence": str(details.get("licence", "")),
    }
    for name, value in rows.items():
        if value:
            overview.add_row(name, escape(value))
    console.print(overview)
    if store.label_names:
        _show_classes(console, store)
    _show_skipped(console, details.get("skipped", []))


def _show_skipped(console: Console, skipped: list[dict[str, str]], most: int = 20) -> None:
    """Clips that the import left out."""
    if not skipped:
        return
    table = Table(title=f"{len(skipped):,} clips of the source were bad and left out")
    for title in ("clip", "what is wrong"):
        table.add_column(title, overflow="fold")
    for entry in skipped[:most]:
        table.add_row(escape(entry["clip"]), escape(entry["what"]))
    if len(skipped) > most:
        table.add_row("...", f"and {len(skipped) - most} more, in dataset.json under 'skipped'")
    console.print(table)


def _counts(values: object) -> str:
    counted = Counter(str(value) for value in values if value != "")  # type: ignore[attr-defined]
    shown = ", ".join(f"{name} {count:,}" for name, count in counted.most_common(6))
    return shown + (f" and {len(counted) - 6} more" if len(counted) > 6 else "")


def _distinct(values: object) -> str:
    """How many different values there are, nothing for none."""
    count = len({str(value) for value in values} - {""})  # type: ignore[attr-defined]
    return f"{count:,} different" if count else ""


def _show_classes(console: Console, store: ClipStore, most: int = 40) -> None:
    label, split = store.column("label"), store.column("split")
    counted = Counter(zip((int(number) for number in label), split, strict=True))
    if all(number < 0 for number, _ in counted):
        _show_frame_classes(console, store)
        return
    splits = [name for name in ("train", "test", "") if any(key[1] == name for key in counted)]
    table = Table(title=f"{len(store.label_names)} classes")
    table.add_column("label", justify="right")
    table.add_column("name")
    for name in splits:
        table.add_column(name or "no split", justify="right")
    for number, name in list(enumerate(store.label_names))[:most]:
        table.add_row(str(number), escape(name), *(f"{counted[number, part]:,}" for part in splits))
    if len(store.label_names) > most:
        table.add_row("...", f"and {len(store.label_names) - most} more", *("" for _ in splits))
    console.print(table)
    unlabelled = sum(count for (number, _), count in counted.items() if number < 0)
    if unlabelled:
        console.print(f"{unlabelled:,} clips have no class of their own (label -1).")


def _show_frame_classes(console: Console, store: ClipStore) -> None:
    """Classes of a store whose labels, if any, belong to frames."""
    counted: Counter[int] = Counter()
    for batch in store.batches():
        if batch.frame_label is not None:
            counted.update(batch.frame_label.tolist())
    table = Table(title=f"{len(store.label_names)} classes of frames")
    table.add_column("label", justify="right")
    table.add_column("name")
    table.add_column("frames", justify="right")
    for number, name in enumerate(store.label_names):
        table.add_row(str(number), escape(name), f"{counted[number]:,}")
    console.print(table)
