"""What an action is: its name and words, and how it moves."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tmor_fast.data.synthetic.motion import Track, mirrored

#: How a clip runs through the table: on and on, in whole repetitions from rest to rest, or once to another pose.
KINDS = ("cycle", "repeat", "once")


@dataclass(frozen=True)
class Action:
    """One action class.

    Attributes:
        name: what it is called, an imperative: "wave the left hand".
        phrases: paraphrases of the name, imperatives too; the name is the first.
        verb, part, side: semantic attributes. `side` is "left", "right", "both" or "none"; `part` is what moves.
        kind: one of `KINDS`.
        period: mean seconds of one cycle at ordinary speed.
        motions: one or several ways to do it; a clip shows one of them.
        amplitude: range the movement is scaled by; narrow where the hand has to arrive somewhere.
    """

    name: str
    phrases: tuple[str, ...]
    verb: str
    part: str
    side: str
    kind: str
    period: float
    motions: tuple[Track, ...]
    amplitude: tuple[float, float]

    @property
    def attributes(self) -> dict[str, str]:
        """The semantic attributes by name."""
        return {"verb": self.verb, "part": self.part, "side": self.side}


_DOUBLED = frozenset({"clap", "get", "hit", "hop", "jog", "put", "run", "sit", "squat", "step"})


def third_person(verb: str) -> str:
    """ "wave" to "waves", "push" to "pushes"."""
    if verb.endswith(("s", "sh", "ch", "x", "o")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


def gerund(verb: str) -> str:
    """ "wave" to "waving", "clap" to "clapping"."""
    if verb in _DOUBLED:
        return verb + verb[-1] + "ing"
    if verb.endswith("e") and not verb.endswith("ee"):
        return verb[:-1] + "ing"
    return verb + "ing"


_FORMS: dict[str, Callable[[str], str]] = {"base": str, "third": third_person, "gerund": gerund}


def inflect(phrase: str, form: str) -> str:
    """A phrase whose verbs carry a star ("*walk and *wave ...") in a form: "base", "third" or "gerund"."""
    return re.sub(r"\*(\w+)", lambda match: _FORMS[form](match[1]), phrase)


def make_actions(
    phrases: Iterable[str],
    part: str,
    kind: str,
    period: float,
    *motions: Track,
    side: str = "none",
    amplitude: tuple[float, float] = (0.85, 1.15),
) -> list[Action]:
    """One action, or with "{side}" in its first phrase a left and a right one; `motions` are those of the left."""
    phrases = tuple(phrases)
    result = []
    for chosen in ("left", "right") if "{side}" in phrases[0] else (side,):
        other = "left" if chosen == "right" else "right"
        words = tuple(phrase.format(side=chosen, other=other) for phrase in phrases)
        verb = " and ".join(re.findall(r"\*(\w+)", words[0]))
        tracks = tuple(mirrored(m) for m in motions) if chosen == "right" else motions
        result.append(Action(inflect(words[0], "base"), words, verb, part, chosen, kind, period, tracks, amplitude))
    return result


#: Amplitude of actions whose hand has to arrive somewhere.
EXACT = (0.97, 1.03)
