"""Nothing from data becomes markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmor_fast.report import html


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


@given(st.text(max_size=60))
def test_a_text_stays_a_text(value: str):
    reader = Reader()
    reader.feed(f'<p title="{html.text(value)}">{html.text(value)}</p>')
    reader.close()
    assert reader.tags == ["p"]
    assert reader.words == html.clean(value)


@given(st.recursive(st.text(max_size=30) | st.integers(), lambda inner: st.lists(inner, max_size=4)))
def test_data_for_the_script_is_read_back_and_ends_no_script(value: object):
    dumped = html.script_data(value)
    assert json.loads(dumped) == value
    assert not re.search("[<>&]", dumped)


def test_half_surrogates_control_and_direction_characters_are_replaced():
    shown = html.text("a\ud800b\x00c\u202ed\u2028e")
    assert shown.encode("utf-8")
    assert shown == "a?b\ufffdc\ufffdd\ufffde"


def test_long_texts_are_cut():
    assert html.text("x" * 500, 10) == "x" * 9 + "…"


def test_tables_escape_their_cells():
    made = html.table(["<a>", "n"], [["<b>", None], ["c&", 3]], caption='"t"')
    reader = Reader()
    reader.feed(made)
    assert not {"a", "b"} & set(reader.tags)
    assert "&lt;b&gt;" in made
    assert '<td class="number">–</td>' in made


def test_what_is_absent_shows_its_command():
    assert "<code>tmor x &lt;y&gt;</code>" in html.absent("z", "`tmor x <y>` makes it.", "why")


@pytest.mark.parametrize(("value", "shown"), [(0.5, "50.0\u00a0%"), (None, "–"), (1.0, "100.0\u00a0%")])
def test_percent(value: float | None, shown: str):
    assert html.percent(value) == shown
