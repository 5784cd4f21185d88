"""The page: one HTML file with its style, script and data inside, and nothing to fetch."""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from tmor_fast import __version__
from tmor_fast.atomic import new_file
from tmor_fast.report import sections, training_sections
from tmor_fast.report.embedding_map import Projection
from tmor_fast.report.encoder import Advance
from tmor_fast.report.gather import Material, gather
from tmor_fast.report.html import percent, script_data, text

MAX_BYTES = 15_000_000
SCRIPTS = ("common.js", "map.js", "matrix.js", "player.js")


def write_report(
    run: str | Path,
    out: str | Path | None = None,
    *,
    stores: Sequence[str | Path] = (),
    checkpoint: str | Path | None = None,
    projection: Projection = "auto",
    max_points: int = 3000,
    max_clips: int = 12,
    advance: Advance = lambda *_: None,
) -> Path:
    """Write the report of a run: results, confusions, skeletons, embedding map, losses, clusters, configuration.

    What the run lacks is said in its place, with the command that makes it. The file needs no network and no other
    file; it is written under a temporary name first.

    Args:
        run: folder of `tmor pretrain`, `finetune` or `demo`, a folder with result files, or one result file.
        out: the HTML file; None writes report.html into the folder.
        stores: clip stores; none takes those in the run folder or noted in it.
        checkpoint: the model for the map; None takes the run's own.
        projection: "pca", "tsne" or "auto" (t-SNE where scikit-learn is installed).
        max_points: clips on the map, at most; drawn at random from more.
        max_clips: moving skeletons, at most.
        advance: called with what is being done, steps done and steps in all.

    Returns:
        The file.

    Raises:
        FileNotFoundError, DataError: no run there, or a store or checkpoint that was asked for cannot be used.
        ValueError: limits out of range, or a report above `MAX_BYTES`.
    """
    if not 1 <= max_points <= 20_000 or not 0 <= max_clips <= 24:
        raise ValueError(
            f"max_points {max_points} and max_clips {max_clips}; accepted: 1 to 20000 points and 0 to 24 clips"
        )
    material = gather(
        run, stores=stores, checkpoint=checkpoint, projection=projection, max_points=max_points, max_clips=max_clips,
        advance=advance,
    )  # fmt: skip
    target = material.run.folder / "report.html" if out is None else Path(out)
    page = render(material).encode("utf-8")
    if len(page) > MAX_BYTES:
        raise ValueError(
            f"the report would have {len(page) / 1e6:.1f} MB, at most {MAX_BYTES / 1e6:.0f} are meant to be; lower "
            "max_points and max_clips"
        )
    with new_file(target) as temporary:
        temporary.write_bytes(page)
    return target


def render(material: Material) -> str:
    """The report as one HTML page."""
    confusion, matrices = sections.confusion_section(material)
    skeletons, clips = sections.skeletons_section(material)
    plane, points = sections.map_section(material)
    parts = [
        ("results", "Results", sections.results_section(material)),
        ("confusion", "Confusion matrix", confusion),
        ("skeletons", "Moving skeletons", skeletons),
        ("embeddings", "Embedding map", plane),
        ("training", "Training", training_sections.training_section(material)),
        ("clusters", "Clusters", training_sections.clusters_section(material)),
        ("data", "Data", sections.data_section(material)),
        ("configuration", "Configuration", sections.configuration_section(material)),
    ]
    if material.run.problems:
        parts.append(("problems", "Files that could not be used", sections.problems_section(material.run.problems)))
    links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, _ in parts)
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{title}</h2>{content}</section>'
        for key, title, content in parts
    )
    data = script_data({"map": points, "matrices": matrices, "clips": clips})
    style = _asset("report.css")
    script = "(() => {\n" + "".join(_asset(name) for name in SCRIPTS) + "})();\n"
    name = text(material.run.folder.name or "run")
    # Only this style and this script may run, and nothing may be fetched, whatever a clip is called.
    policy = (
        f"default-src 'none'; style-src '{_fingerprint(style)}'; script-src '{_fingerprint(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>T-MOR report: {name}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'{_header(material, name)}<nav aria-label="Sections"><ul>{links}</ul></nav>\n'
        "<noscript><p>Confusion matrix, skeletons and map are drawn by a script, which is off here.</p></noscript>\n"
        f'<main>{body}</main>\n<script type="application/json" id="report-data">{data}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _header(material: Material, name: str) -> str:
    made = datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z")
    tiles = [
        (result.name, percent(result.top1), f"top-1 of {result.clips} test clips")
        for result in sorted(material.run.results, key=lambda result: -result.above_chance)[:4]
    ]
    for group in [material.own_stages] if material.own_stages else material.run.stages[:1]:
        epochs = training_sections.epochs_of(group)
        tiles.append(
            ("pre-training", str(epochs), f"epoch{'s' * (epochs != 1)} in {len(group)} stage{'s' * (len(group) > 1)}")
        )
        last = next((row for log in group[::-1] for row in log.rows[::-1] if "clusters" in row), None)
        if last is not None:
            noise = percent(last.get("noise_share"))
            tiles.append(("clusters", f"{last['clusters']:.0f}", f"at the end, {noise} of the clips noise"))
    shown = "".join(
        f"<div><dt>{text(what)}</dt><dd>{text(value)}<small>{text(unit)}</small></dd></div>"
        for what, value, unit in tiles
    )
    listed = f'<dl class="tiles">{shown}</dl>' if tiles else ""
    return (
        f'<header><h1>T-MOR report: {name}</h1><p class="soft">Made {text(made)} by tmor_fast '
        f"{text(__version__)}. This file needs no network.</p>{listed}</header>\n"
    )


def _asset(name: str) -> str:
    return (resources.files("tmor_fast.report") / "assets" / name).read_text(encoding="utf-8")


def _fingerprint(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode()
