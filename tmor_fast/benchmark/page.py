"""One HTML page of a run: a figure and a table for each case, growth over the swept size. Nothing is fetched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tmor_fast.benchmark import table
from tmor_fast.benchmark.record import scrub

Record = Mapping[str, Any]

_STYLE = """
:root { color-scheme: light dark; --ink: #1d232b; --soft: #5c6773; --line: #d8dee5; --paper: #fff; --ours: #00798c;
  --peer: #b9c2cb; --floor: #e3e8ed; --bad: #b3261e }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaee; --soft: #98a4b0; --line: #38424c; --paper: #14181d;
  --ours: #35b5c9; --peer: #56626e; --floor: #2b333b; --bad: #ff8a80 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-top: 1px solid var(--line);
  padding-top: 1.2rem } h3 { font-size: 1rem; margin: 1.6rem 0 .4rem }
p, dd, summary { color: var(--soft) } .quote { color: var(--ink); font-weight: 600 } .bad { color: var(--bad) }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem; white-space: nowrap }
th, td { padding: .25rem .7rem .25rem 0; text-align: right; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums } th { color: var(--soft); font-weight: 500 }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
.bars { display: grid; grid-template-columns: minmax(6rem, 42%) 1fr; gap: .25rem .7rem; font-size: .85rem;
  align-items: center } .bars .name { overflow-wrap: anywhere; line-height: 1.15 }
.bar { display: flex; align-items: center; gap: .4rem } .bar i { height: .95rem; border-radius: 2px; min-width: 2px;
  flex: none; background: var(--peer) } .bar i.ours { background: var(--ours) } .bar i.floor { background: var(--floor);
  border: 1px dashed var(--soft) } .bar span { white-space: nowrap }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem 2rem }
.label { color: var(--soft); font-size: .8rem; margin: .4rem 0 }
svg { width: 100%; height: auto; font: 11px system-ui, sans-serif } svg text { fill: var(--soft) }
svg .grid { stroke: var(--line) } svg path { fill: none; stroke-width: 2 }
.k0 { color: #00798c } .k1 { color: #d1495b } .k2 { color: #8a6d1f } .k3 { color: #6a4fb3 } .k4 { color: #3d7d3d }
.k5 { color: #7a7f87 } @media (prefers-color-scheme: dark) { .k0 { color: #35b5c9 } .k1 { color: #ff7b8b }
  .k2 { color: #e0bd5c } .k3 { color: #b29bff } .k4 { color: #7fcf7f } .k5 { color: #a7b0ba } }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; list-style: none; padding: 0; margin: 0 }
.key i { display: inline-block; width: 1rem; height: .25rem; background: currentColor; margin-right: .35rem;
  vertical-align: middle } .key span { color: var(--ink) }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .8rem; font-size: .85rem } dt { font-weight: 600 }
dd { margin: 0; overflow-wrap: anywhere }
"""


def write_page(path: Path, record: Record) -> None:
    """Write `render(record)`, whole or not at all."""
    from tmor_fast.atomic import new_file

    with new_file(path) as temporary:
        temporary.write_text(render(record), encoding="utf-8")


def render(record: Record) -> str:
    """The page of a record (after `record.complete`)."""
    record = scrub(record)
    parts = [_head(record), *(_claim(claim) for claim in record["claims"]), _where(record)]
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>tmor bench</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def _head(record: Record) -> str:
    machine = record["machine"]
    where = machine["gpu"]["name"] if machine.get("gpu") else f"{machine['cpu']}, {machine['cpus']} CPUs"
    state = ""
    if not record["complete"]:
        state = '<p class="bad">This run is not complete: it was interrupted, or still goes on.</p>'
    if machine.get("busy"):
        state += f'<p class="bad">{escape(machine["busy"])}</p>'
    quick = " Quick mode: small sizes and few repeats; not to be quoted." if record["quick"] else ""
    return (
        f"<h1>Measured on {escape(where)}</h1>\n<p>{escape(record['started'])} · "
        f"<code>{escape(record['command'])}</code>.{quick} Medians; ratios are the time of the better peer, under "
        f"whichever allocator suits it best, by ours under the system's default. {escape(table.CAPTION)}.</p>\n{state}"
    )


def _claim(claim: Record) -> str:
    parts = [f"<h2>{escape(claim['title'])}</h2>"]
    if claim["reason"]:
        parts.append(f'<p class="bad">{escape(claim["reason"])}</p>')
    if claim["sweep"]:
        parts.append(_growth(claim))
    parts += [_case(case) for case in claim["cases"]]
    return "\n".join(parts)


def _case(case: Record) -> str:
    sizes = ", ".join(f"{name} = {value:,}" if isinstance(value, int) else f"{name} = {value}"
                      for name, value in case["sizes"].items())  # fmt: skip
    checks = "".join(f"<p>{escape(line)}</p>" for line in table.lines(case)[1:])
    head = "".join(f"<th>{escape(heading)}</th>" for heading in table.HEADINGS)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in table.rows(case)
    )
    return (
        f"<h3>{escape(table.title(case))}</h3>\n<p>{escape(sizes)}</p>\n"
        f'<p class="quote">{escape(table.quoted(case))}</p>\n{_bars(case)}\n{checks}\n'
        f'<details><summary>Numbers</summary><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></details>"
    )


def _bars(case: Record) -> str:
    finished = [entry for entry in case["measurements"] if entry["status"] == "ok"]
    times = [
        (f"{entry['contender']} · {entry['allocator']}", entry["role"], entry["seconds"]["median"])
        for entry in finished
    ]
    times += [(f["name"], "floor", f["seconds"]) for f in case["floors"] if f["seconds"]]
    memory = [
        (f"{entry['contender']} · {entry['allocator']}", entry["role"], entry["memory"]["peak_bytes"])
        for entry in finished
        if entry["memory"]["peak_bytes"] is not None
    ]
    return (
        '<div class="pair">'
        + _bar_chart("time of one call", times, table.seconds_text)
        + _bar_chart("peak memory beyond the input", memory, table.bytes_text)
        + "</div>"
    )


def _bar_chart(label: str, bars: Sequence[tuple[str, str, float]], text: Any) -> str:
    if not bars:
        return ""
    longest = max(value for *_, value in bars) or 1
    rows = "".join(
        f'<div class="name">{escape(name)}</div><div class="bar"><i class="{role}" '
        f'style="width:calc((100% - 4.6rem) * {value / longest:.4f})"></i><span>{escape(text(value))}</span></div>'
        for name, role, value in bars
    )
    return f'<div><p class="label">{escape(label)}</p><div class="bars">{rows}</div></div>'


def _growth(claim: Record) -> str:
    """Time and memory over the swept size, a line for each contender: at its best allocator, in both scales log."""
    times: dict[str, dict[float, float]] = {}
    memory: dict[str, dict[float, float]] = {}
    swept = [case for case in claim["cases"] if claim["sweep"] in case["sizes"] and not case["sizes"].get("kind")]
    for case in swept:
        size = float(case["sizes"][claim["sweep"]])
        for entry in case["measurements"]:
            if entry["status"] != "ok":
                continue
            seconds, peak = entry["seconds"]["median"], entry["memory"]["peak_bytes"]
            line = times.setdefault(entry["contender"], {})
            if seconds <= line.get(size, math.inf):
                line[size] = seconds
                if peak:
                    memory.setdefault(entry["contender"], {})[size] = float(peak)
    if len({size for line in times.values() for size in line}) < 2:
        return ""
    names = list(times)
    key = "".join(f'<li class="k{i % 6}"><i></i><span>{escape(name)}</span></li>' for i, name in enumerate(names))
    over = escape(claim["sweep"])
    return (
        f'<ul class="key">{key}</ul><div class="pair">'
        f'<div><p class="label">time over {over}</p>{_lines(times, names, table.seconds_text)}</div>'
        f'<div><p class="label">peak memory beyond the input over {over}</p>'
        f"{_lines(memory, names, table.bytes_text)}</div></div>"
    )


_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _RIGHT, _TOP = 360.0, 250.0, 58.0, 24.0, 10.0, 8.0


class _Scale:
    """Powers of ten on an axis of the figure."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        logs = [math.log10(value) for value in values]
        self.low, self.high = min(logs) - 0.08, max(logs) + 0.08
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        factors = (1,) if self.high - self.low > 1.5 else (1, 2, 5)
        found = [factor * 10.0**power for power in powers for factor in factors]
        return [tick for tick in found if self.low <= math.log10(tick) <= self.high]


def _lines(lines: Mapping[str, Mapping[float, float]], names: Sequence[str], text: Any) -> str:
    points = [(x, y) for line in lines.values() for x, y in line.items() if y > 0]
    if not points:
        return ""
    across = _Scale([x for x, _ in points], _LEFT, _WIDTH - _RIGHT)
    up = _Scale([y for _, y in points], _HEIGHT - _BOTTOM, _TOP)
    parts = []
    for tick in up.ticks():
        y = up(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{escape(text(tick))}</text>')
    for tick in across.ticks():
        label = f"{tick / 1e6:g}M" if tick >= 1e6 else f"{tick / 1e3:g}k" if tick >= 1e3 else f"{tick:g}"
        parts.append(f'<text x="{across(tick):.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{label}</text>')
    for place, name in enumerate(names):
        path = [(across(x), up(y)) for x, y in sorted(lines.get(name, {}).items()) if y > 0]
        if path:
            drawn = "L".join(f"{x:.1f} {y:.1f}" for x, y in path)
            dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="currentColor"/>' for x, y in path)
            parts.append(f'<g class="k{place % 6}"><path stroke="currentColor" d="M{drawn}"/>{dots}</g>')
    return f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img">{"".join(parts)}</svg>'


def _where(record: Record) -> str:
    machine, software = record["machine"], record["software"]
    libraries = ", ".join(f"{name} {version}" for name, version in software["libraries"].items() if version)
    commit = record["commit"]["commit"] or "no git repository"
    facts = {
        "CPU": f"{machine['cpu']}, {machine['cpus']} CPUs, {' '.join(machine['instruction_sets'])}",
        "governor": machine["governor"] or "not told",
        "load average": f"{machine['load_average']} at the start",
        "memory": table.bytes_text(machine["memory_bytes"]),
        "threads of torch": software["torch_threads"],
        "Python": software["python"],
        "libraries": libraries,
        "build": f"{software['tmor_fast']['version']}, {software['tmor_fast']['compiler']}, "
        f"{' '.join(software['tmor_fast']['isa_supported'])}, CUDA {software['tmor_fast']['cuda'] or 'no'}",
        "commit": commit + (" with changes" if record["commit"]["dirty"] else ""),
        **{f"allocator {name}": value["note"] for name, value in record["allocators"].items()},
        **dict(line.split(": ", 1) for line in (f"ceiling {line}" for line in table.ceiling_lines(record))),
    }
    rows = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    return f"<h2>Where and with what</h2>\n<dl>{rows}</dl>"
