"""HTML from untrusted strings: every text goes through `text`, every value for the script through `script_data`."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

LONGEST = 160
# Control characters, and those that turn the direction of the text around them.
_UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def clean(value: object, limit: int = LONGEST) -> str:
    """A string that can be stored and shown: no control or direction characters, no half surrogates, not too long."""
    whole = str(value)
    short = whole if len(whole) <= limit else whole[: limit - 1] + "…"
    return _UNWANTED.sub("\ufffd", short).encode("utf-8", "replace").decode("utf-8")


def text(value: object, limit: int = LONGEST) -> str:
    """A string as HTML text or attribute value."""
    return html.escape(clean(value, limit), quote=True)


def script_data(value: Any) -> str:
    """A value as JSON that can stand inside a `<script type="application/json">`."""
    dumped = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return dumped.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str, words: int = 1) -> str:
    """A table in a box of its own that scrolls sideways.

    Args:
        headings: of the columns.
        rows: cells, escaped here; None is shown as a dash.
        caption: what the table shows.
        words: so many columns from the left are words, the rest numbers.
    """
    head = "".join(f'<th scope="col"{_align(i, words)}>{text(name)}</th>' for i, name in enumerate(headings))
    body = "".join(
        "<tr>" + "".join(_cell(cell, i, words) for i, cell in enumerate(row)) + "</tr>" for row in rows
    )  # fmt: skip
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(cell: object, column: int, words: int) -> str:
    shown = "–" if cell is None else text(cell)
    return f'<th scope="row">{shown}</th>' if column == 0 else f"<td{_align(column, words)}>{shown}</td>"


def _align(column: int, words: int) -> str:
    return "" if column < words else ' class="number"'


def details(summary: str, body: str, *, opened: bool = False) -> str:
    """A part that opens on demand; `body` is HTML."""
    return f"<details{' open' if opened else ''}><summary>{text(summary)}</summary>{body}</details>"


def absent(what: str, remedy: str, reason: str = "") -> str:
    """A line that says what is not here, why, and what makes it; commands stand between backticks."""
    why = f" ({text(reason, 400)})" if reason else ""
    commands = re.sub("`([^`]+)`", r"<code>\1</code>", text(remedy, 400))
    return f'<p class="absent"><strong>Not here:</strong> {text(what)}{why}. {commands}</p>'


def percent(fraction: float | None) -> str:
    """A fraction in percent with one decimal."""
    # The space does not break.
    return "–" if fraction is None else f"{100 * fraction:.1f}\u00a0%"
