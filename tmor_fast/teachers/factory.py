"""Teachers by a short string, for command lines and configuration files."""

from __future__ import annotations

import torch

from tmor_fast.teachers.descriptors import ClassicalVideoTeacher
from tmor_fast.teachers.huggingface import HuggingFaceTeacher
from tmor_fast.teachers.minilm import minilm
from tmor_fast.teachers.precomputed import PrecomputedTeacher
from tmor_fast.teachers.protocol import Teacher

SPECS = {
    "minilm": "the packaged sentence encoder all-MiniLM-L6-v2 (text)",
    "classical-video": "gradients and optical flow of drawn frames (video)",
    "hf:NAME_OR_PATH": "a sentence encoder, CLIP, SigLIP or X-CLIP of transformers",
    "precomputed:PATH": "finished embeddings in a .npy, .npz, .safetensors or .pt file",
}
"""Accepted forms and what they mean."""


def get_teacher(spec: str, *, device: str | torch.device | None = None) -> Teacher:
    """The teacher that a string names.

    Args:
        spec: one of `SPECS`, e.g. "minilm", "hf:openai/clip-vit-base-patch32", "precomputed:features.npz".
        device: where neural teachers run, default the CPU.

    Raises:
        ValueError: no teacher is called so; the message lists what is accepted.
    """
    kind, separator, argument = spec.partition(":")
    if spec == "minilm":
        return minilm(device=device)
    if spec == "classical-video":
        return ClassicalVideoTeacher()
    if separator and argument and kind == "hf":
        return HuggingFaceTeacher(argument, device=device)
    if separator and argument and kind == "precomputed":
        return PrecomputedTeacher(argument)
    accepted = "; ".join(f"'{form}' ({meaning})" for form, meaning in SPECS.items())
    raise ValueError(f"unknown teacher {spec!r}; accepted: {accepted}")
