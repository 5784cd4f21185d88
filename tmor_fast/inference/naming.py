"""From features to probabilities of names: a classifier's classes, or any names for a model that knows text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from tmor_fast.evaluation.fusion import fuse_scores
from tmor_fast.evaluation.zero_shot import zero_shot_scores
from tmor_fast.inference.network import Network
from tmor_fast.nn.tmor import TMOR
from tmor_fast.teachers.protocol import Teacher

Actions: TypeAlias = Sequence[str] | Mapping[str, Sequence[str]]


def class_probabilities(networks: Sequence[Network], features: Sequence[Tensor]) -> Tensor:
    """Probabilities (n, K) of the classes; those of several classifiers are averaged (or their logits are).

    Args:
        networks: classifiers of the same classes.
        features: (views, n, F) of each.
    """
    logits = [network.logits(rows) for network, rows in zip(networks, features, strict=True)]
    if len(logits) == 1:
        return logits[0].softmax(dim=1)
    if networks[0].settings.fusion == "logits":
        return (fuse_scores(logits, method="logits") / len(logits)).softmax(dim=1)
    return fuse_scores(logits, method="softmax") / len(logits)


class TextNames:
    """Probabilities of action names given as text, by a model that was trained with text.

    Args:
        network: its T-MOR model.
        path: its file, for messages.
        teacher: text encoder to use instead of the one the checkpoint names.
    """

    def __init__(self, network: Network, path: str, teacher: Teacher | str | None) -> None:
        self.network, self.path, self._given = network, path, teacher
        self._teacher: Teacher | None = None
        self._last: tuple[list[list[str]], Tensor] | None = None

    def probabilities(self, features: Tensor, captions: list[list[str]]) -> Tensor:
        """Softmax (n, K) of cosine / temperature, as in `zero_shot_scores`.

        Args:
            features: (views, n, F).
            captions: the texts of each of K actions.
        """
        module = self.network.module
        assert isinstance(module, TMOR)
        temperature = float(torch.as_tensor(module.temperature).detach())
        motion = self.network.projections(features)
        return zero_shot_scores(motion, self._embeddings(module, captions), fuse="score", temperature=temperature)

    def _embeddings(self, module: TMOR, captions: list[list[str]]) -> Tensor:
        """Unit embeddings (K, d); those of the last names asked for are kept."""
        from tmor_fast.evaluation.zero_shot import embed_actions

        if self._last is None or self._last[0] != captions:
            self._last = captions, embed_actions(module, self.teacher(module), captions)
        return self._last[1]

    def teacher(self, module: TMOR) -> Teacher:
        """The text encoder, loaded when it is first needed.

        Raises:
            MissingDependencyError: its library is not installed.
            OSError: its weights or files cannot be found.
            ValueError: it is not the encoder that the model was trained with.
        """
        if self._teacher is None:
            from tmor_fast.teachers import get_teacher

            wanted = self.network.settings.text_teacher if self._given is None else self._given
            assert wanted is not None
            teacher = (
                get_teacher(wanted, device=next(module.parameters()).device) if isinstance(wanted, str) else wanted
            )
            if "text" not in teacher.supports or teacher.dim != module.text_dim:
                encodes = " and ".join(sorted(teacher.supports))
                raise ValueError(
                    f"{self.path} was trained with texts of {self.network.settings.text_teacher!r} "
                    f"({module.text_dim} dimensions); {teacher.name!r} encodes {encodes} in {teacher.dim}"
                )
            self._teacher = teacher
        return self._teacher


def as_captions(actions: Actions) -> tuple[list[str], list[list[str]]]:
    """Names and the texts of each: {name: captions}, or names that are their own text.

    Raises:
        TypeError: neither.
        ValueError: no name, one twice, or one without text.
    """
    if isinstance(actions, str):
        raise TypeError(f"actions must be a list of names, got one string; pass [{actions!r}]")
    names = list(actions)
    captions: list[list[str]] = []
    for name in names:
        texts = actions[name] if isinstance(actions, Mapping) else [name]
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not all(isinstance(text, str) for text in [name, *texts]):
            raise TypeError(f"action {name!r}: names and captions must be strings")
        if not texts or not all(text.strip() for text in texts):
            raise ValueError(f"action {name!r} has no text")
        captions.append(texts)
    if not names:
        raise ValueError("actions: give at least one name")
    if len(set(names)) < len(names):
        raise ValueError(f"an action is named twice: {', '.join(names)}")
    return names, captions
