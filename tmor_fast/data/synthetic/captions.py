"""Captions of synthetic clips: the action in one of its phrasings, sometimes with its style, size and count."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tmor_fast.data.synthetic.action import Action, inflect

#: Ways of moving: (name, share of clips, speed, size of the movement, torso bend and head nod in degrees, words).
STYLES: tuple[tuple[str, float, float, float, float, float, tuple[str, ...]], ...] = (
    ("plain", 0.40, 1.0, 1.0, 0.0, 0.0, ("",)),
    ("energetic", 0.15, 1.25, 1.1, -1.0, -3.0, ("energetically", "with a lot of energy", "vigorously")),
    ("tired", 0.15, 0.78, 0.88, 7.0, 12.0, ("tiredly", "in a tired way", "wearily")),
    ("slow", 0.15, 0.66, 1.0, 0.0, 0.0, ("slowly", "at a slow pace", "in slow motion")),
    ("quick", 0.15, 1.42, 0.98, 0.0, 0.0, ("quickly", "fast", "at a high speed")),
)
#: (form of the verb, sentence); "{0}" is the phrase and "{1}" what is said about the style.
TEMPLATES = (
    ("third", "a person {0}{1}"),
    ("gerund", "a person is {0}{1}"),
    ("third", "someone {0}{1}"),
    ("gerund", "someone is {0}{1}"),
    ("gerund", "{0}{1}"),
    ("base", "{0}{1}"),
    ("gerund", "a clip of a person {0}{1}"),
    ("third", "the person in view {0}{1}"),
)
_COUNTS = ("", "once", "twice", "three times", "four times")
#: Draws that a caption needs, each in [0, 1).
NUM_CHOICES = 5


@cache
def _phrases(action_phrases: tuple[str, ...], form: str) -> tuple[str, ...]:
    return tuple(inflect(phrase, form) for phrase in action_phrases)


def caption(action: Action, style: int, gain: float, repetitions: int, choices: Sequence[float]) -> str:
    """One caption in lower case without a full stop, e.g. "a person waves the left hand slowly".

    Args:
        action: what is done.
        style: index into `STYLES`.
        gain: size of the movement against its mean; from 1.08 up it may be called big, below 0.92 small.
        repetitions: how often it is done, 0 where that is not counted.
        choices: `NUM_CHOICES` numbers in [0, 1) that choose among the phrasings.
    """
    form, sentence = TEMPLATES[int(choices[0] * len(TEMPLATES))]
    phrases = _phrases(action.phrases, form)
    # Half of the captions keep the name's own words.
    phrase = phrases[0] if choices[1] < 0.5 else phrases[int((choices[1] - 0.5) * 2.0 * len(phrases))]
    words = STYLES[style][-1]
    said = [words[int(choices[2] * len(words))]]
    if choices[3] < 0.3 and 0 < repetitions < len(_COUNTS):
        said.append(_COUNTS[repetitions])
    if choices[4] < 0.4 and (gain >= 1.08 or gain < 0.92):
        said.append("with big movements" if gain >= 1.08 else "with small movements")
    return sentence.format(phrase, "".join(f" {word}" for word in said if word))


def captions(
    actions: Sequence[Action],
    label: NDArray[np.int64],
    style: NDArray[np.int64],
    gain: NDArray[np.float32],
    repetitions: NDArray[np.int64],
    choices: NDArray[np.float64],
) -> list[str]:
    """`caption` for n clips: all arrays are (n,), `choices` is (n, NUM_CHOICES)."""
    rows = zip(label.tolist(), style.tolist(), gain.tolist(), repetitions.tolist(), choices.tolist(), strict=True)
    return [caption(actions[k], s, g, r, c) for k, s, g, r, c in rows]
