"""Sections about what came out: results, confusions, skeletons, the map, and what the run was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tmor_fast.data.store import ClipStore
from tmor_fast.evaluation.zero_shot import action_text
from tmor_fast.report.gather import Drawing, Material
from tmor_fast.report.html import absent, clean, details, percent, table, text
from tmor_fast.report.results import Result, biggest_confusions

MOST_RESULTS, MOST_CELLS, MOST_CLASSES, MOST_GROUPS = 12, 40_000, 500, 500
CONFIG_LETTERS = 100_000
PROBE = "`tmor probe STORE --checkpoint RUN/model.pt --out RUN/probe.json` makes some."
STORE = "Give the stores: `tmor report RUN --store STORE`."


def results_section(material: Material) -> str:
    """One row a result."""
    results = material.run.results
    if not results:
        return absent("results of a probe, of fine-tuning or of zero-shot", PROBE)
    rows = [
        (r.name, str(r.clips), str(int((r.support > 0).sum())), percent(r.top1), f"{percent(r.top5)} (top-{r.top_k})",
         percent(r.mean_per_class), percent(r.chance))
        for r in results
    ]  # fmt: skip
    headings = ("what", "test clips", "classes", "top-1", "top-k", "mean per class", "chance")
    return table(headings, rows, caption="Share of test clips recognised")


def confusion_section(material: Material) -> tuple[str, list[dict[str, Any]]]:
    """The confusion matrix of a chosen result, its biggest confusions in words and its classes; and the matrices."""
    results = material.run.results[:MOST_RESULTS]
    if not results:
        return absent("a confusion matrix", PROBE), []
    # The best of several is looked at first, others by choice.
    results = sorted(results, key=lambda result: -result.above_chance)
    options = "".join(f'<option value="{i}">{text(result.name)}</option>' for i, result in enumerate(results))
    hint = "Hover, tap or use the arrow keys: a cell's clips are named here."
    parts = [
        '<p>Each row is a true class and adds up to 100&nbsp;%: <b class="right">blue</b> is what was recognised, '
        "<b>orange</b> what was taken for something else.</p>",
        f'<p class="controls"><label>Result <select id="matrix-choice">{options}</select></label></p>',
        f'<p class="readout" id="matrix-readout" aria-live="polite" data-hint="{text(hint)}">{text(hint)}</p>',
        '<div class="scroll matrix"><canvas id="matrix" role="img" tabindex="0" width="1" height="1"></canvas></div>',
    ]
    matrices = []
    for number, result in enumerate(results):
        parts.append(f'<div data-result="{number}"{" hidden" if number else ""}>{_confusions(result)}</div>')
        matrices.append(_matrix(result))
    hidden = len(material.run.results) - len(results)
    if hidden:
        parts.append(f'<p class="soft">{hidden} more results are in the table alone.</p>')
    return "".join(parts), matrices


def _confusions(result: Result) -> str:
    found = biggest_confusions(result)
    if found:
        lines = "".join(
            f"<li><strong>{text(true)}</strong> was taken for <strong>{text(taken)}</strong>: "
            f"{count} of {clips} clips ({100 * count / clips:.0f}&nbsp;%)</li>"
            for true, taken, count, clips in found
        )
        words = f"<h3>Biggest confusions: {text(result.name)}</h3><ol>{lines}</ol>"
    else:
        words = f"<p>{text(result.name)}: no clip was taken for another class.</p>"
    support, hits = result.support.tolist(), result.confusion.diagonal().tolist()
    rows = [
        (name, str(clips), percent(hit / clips) if clips else "no test clips")
        for name, clips, hit in list(zip(result.label_names, support, hits, strict=True))[:MOST_CLASSES]
    ]
    shown = table(("class", "test clips", "recognised"), rows, caption=f"Classes of {result.name}")
    return words + details("Every class", shown)


def _matrix(result: Result) -> dict[str, Any]:
    rows, columns = np.nonzero(result.confusion)
    counts = result.confusion[rows, columns]
    # The largest cells where there are too many; a cell left out has fewer clips than any kept.
    order = np.argsort(-counts, kind="stable")[:MOST_CELLS]
    return {
        "name": clean(result.name),
        "labels": [clean(name, 80) for name in result.label_names],
        "support": result.support.tolist(),
        "cells": np.stack((rows[order], columns[order], counts[order]), axis=1).ravel().tolist(),
    }


def skeletons_section(material: Material) -> tuple[str, list[dict[str, Any]]]:
    """The player's page elements, and its clips."""
    drawings = material.drawings
    if not drawings:
        remedy = f"{STORE} Predictions come with results of `tmor probe --out`, `tmor zeroshot --out`, `tmor finetune`."
        return absent("moving skeletons with predictions", remedy, material.reasons.get("skeletons", "")), []
    turn = ""
    if any(drawing.data["channels"] == 3 for drawing in drawings):
        turn = '<label>Turn 3D clips <input type="range" id="turn" min="-180" max="180" value="20" step="5"></label>'
    controls = (
        '<div class="controls"><button type="button" id="play">Play</button>'
        '<label>Time <input type="range" id="scrub" min="0" max="1" step="0.01" value="0"></label>'
        '<output id="time" for="scrub">0.00 s</output>'
        '<label>Speed <select id="speed"><option value="0.25">¼</option><option value="0.5">½</option>'
        f'<option value="1" selected>1</option><option value="2">2</option></select></label>{turn}</div>'
    )
    unit = "; ".join(sorted({d.prediction.unit for d in drawings}))
    wrong = sum(not d.prediction.right for d in drawings)
    intro = (
        f"<p>{len(drawings)} clips, {wrong} of them taken for something else; chosen, not drawn at random: up to half "
        f"are mistakes, of many actions. Below each: its true action and the first predictions ({text(unit)}). "
        "Shorter clips repeat. Joints that were not observed, and bones that end in one, are not drawn. "
        "Orange is the body's left side, blue its right.</p>"
    )
    cards = "".join(_card(number, drawing) for number, drawing in enumerate(drawings))
    return f'{intro}{controls}<ol id="clips">{cards}</ol>', [drawing.data for drawing in drawings]


def _card(number: int, drawing: Drawing) -> str:
    predicted, clip, data = drawing.prediction, drawing.clip, drawing.data
    verdict = "✓ recognised" if predicted.right else "✗ taken for something else"
    facts = [clean(drawing.store.name), f"{data['seconds']:.1f} s", f"{clip.fps:g} frames/s"]
    facts += ["the camera follows"] if data["followed"] else []
    if data["persons"] < clip.joints.shape[1]:
        facts.append(f"{clip.joints.shape[1] - data['persons']} more persons not drawn")
    lines = []
    for name, score in predicted.top:
        kind = ' class="true"' if name == predicted.label else ""
        shown = f"{100 * score:.0f}\u00a0%" if predicted.unit == "probability" else f"{score:.2f}"
        meter = f'<meter min="0" max="1" value="{min(1.0, max(0.0, score)):.4f}" aria-hidden="true"></meter>'
        lines.append(f"<li{kind}><span>{text(name)}</span><span>{shown}</span>{meter}</li>")
    # Some data sets repeat the action's name.
    told = clip.caption if action_text(clip.caption) != action_text(predicted.label) else ""
    caption = f"<p>“{text(told)}”</p>" if told else ""
    return (
        f'<li><canvas id="clip-{number}" role="img" width="1" height="1" '
        f'aria-label="Moving skeleton of clip {text(predicted.clip_id)}: {text(predicted.label)}"></canvas>'
        f"<h3>{text(predicted.label)}</h3>{caption}"
        f'<p class="soft">{text(predicted.clip_id)} · {text(" · ".join(facts), 300)}</p>'
        f'<p class="verdict">{verdict}</p><p class="soft">Predicted by {text(predicted.source)}:</p>'
        f'<ol class="top">{"".join(lines)}</ol></li>'
    )


def map_section(material: Material) -> tuple[str, dict[str, Any] | None]:
    """The map's page elements, and its points."""
    clips, plane = material.clips, material.plane
    if clips is None or plane is None or material.encoder is None:
        remedy = f"{STORE} Another model: `--checkpoint FILE`; `tmor pretrain` makes one."
        return absent("the embedding map", remedy, material.reasons.get("map", "")), None
    count = len(plane)
    sampled = f"All {count} clips of the stores" if count == clips.total else f"{count} clips drawn from {clips.total}"
    note = material.clusters.note if material.clusters else f"No clusters: {material.reasons.get('clusters', '')}."
    choices = [("action", "action")] + ([("cluster", "cluster")] if material.clusters else [])
    radios = "".join(
        f'<label><input type="radio" name="map-by" value="{value}"{"" if i else " checked"}> {shown}</label>'
        for i, (value, shown) in enumerate(choices)
    )
    hint = "Hover, tap or use the arrow keys: a point's clip is named here."
    model = material.run.name_of(material.encoder.path)
    body = (
        f"<p>{text(sampled)}, each one point: features of <code>{text(model)}</code>. "
        f"{text(material.method)} {text(note, 600)}</p>"
        f'<div class="controls"><fieldset><legend>Colour by</legend>{radios}</fieldset>'
        '<button type="button" id="map-all" disabled>Show all</button></div>'
        f'<p class="readout" id="map-readout" aria-live="polite">{text(hint)}</p>'
        '<div class="mapped"><div class="plane"><canvas id="map" role="img" tabindex="0" width="1" height="1" '
        f'aria-label="Map of {count} clip embeddings"></canvas><div class="tip" id="map-tip" hidden></div></div>'
        '<div><p class="soft">Choose one or more to see them alone.'
        '<span id="map-repeats" hidden> There are more than 84 groups, so marks repeat.</span></p>'
        '<ul class="groups" id="map-legend" aria-label="Groups on the map"></ul></div></div>'
    )
    return body, _points(material, plane)


def _points(material: Material, plane: np.ndarray) -> dict[str, Any]:
    assert material.clips is not None
    packed, stores = material.clips.packed, list(dict.fromkeys(material.clips.store))
    used = sorted({label for label in packed.label.tolist() if label >= 0}, key=lambda label: packed.label_names[label])
    place = {label: number for number, label in enumerate(used)}
    return {
        "x": plane[:, 0].round(4).tolist(),
        "y": plane[:, 1].round(4).tolist(),
        "action": [place.get(label, -1) for label in packed.label.tolist()],
        "actions": [clean(packed.label_names[label], 80) for label in used],
        "cluster": None if material.clusters is None else material.clusters.of_point.tolist(),
        "clip": [clean(name, 80) for name in packed.clip_ids],
        "caption": [clean(caption, 100) for caption in packed.captions],
        "split": packed.splits,
        "store": [stores.index(name) for name in material.clips.store],
        "stores": [clean(name, 80) for name in stores],
    }


def data_section(material: Material) -> str:
    """The clip stores."""
    if not material.stores:
        return absent("the clip stores", STORE)
    rows = []
    for path in material.stores:
        try:
            store = ClipStore(path)
        except (ValueError, OSError) as error:
            rows.append((path.name, str(error), "", "", "", "", ""))
            continue
        body = f"{store.layout.name}, {store.layout.num_joints} joints, {store.channels}D in {store.units}"
        info = store.info
        licence = clean(info.get("licence") or "not noted")
        rows.append(
            (store.name, body, clean(info.get("source") or "not noted"), licence, str(len(store)),
             str(store.num_frames), str(len(store.label_names)))
        )  # fmt: skip
    headings = ("store", "skeletons", "source", "licence", "clips", "frames", "actions")
    return table(headings, rows, caption="Clip stores", words=4)


def configuration_section(material: Material) -> str:
    """Every config.yaml as it is, and what was saved with the model."""
    parts: list[str] = []
    for name, content in material.run.configs[:MOST_RESULTS]:
        shown = f'<div class="scroll" tabindex="0"><pre>{text(content, CONFIG_LETTERS)}</pre></div>'
        parts.append(details(name, shown, opened=not parts))
    if material.encoder is not None:
        rows = [(key, _brief(value)) for key, value in material.encoder.metadata.items()]
        facts = table(("setting", "value"), rows, caption=f"Saved with {material.encoder.name}", words=2)
        parts.append(details(f"What is saved with {material.encoder.name}", facts))
    return "".join(parts) or absent("the configuration", "`tmor pretrain` and `tmor finetune` write config.yaml.")


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items())[:150]
    if isinstance(value, (list, tuple)):
        return f"{len(value)}: {', '.join(str(item) for item in value)}" if value else "none"
    return str(value)


def problems_section(problems: Sequence[str]) -> str:
    """Files that could not be used."""
    return "<ul>" + "".join(f"<li>{text(problem, 400)}</li>" for problem in problems[:100]) + "</ul>"
