"""Zero-shot recognition: a clip gets the class whose text embedding is nearest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tmor_fast.nn.tmor import TMOR
from tmor_fast.teachers import Teacher


def zero_shot_scores(
    motion: Tensor,
    text: Tensor,
    visual: Tensor | None = None,
    *,
    fuse: Literal["embedding", "score"] = "embedding",
    temperature: float = 0.1,
) -> Tensor:
    """Scores of K classes for n clips from embeddings that share one space.

    Motion alone, or `fuse="embedding"`, gives cosine similarities. With `visual`, "embedding" compares the text with
    the renormalised mean of the unit motion and visual embeddings; "score" averages the softmax over classes of
    cosine / temperature of both and returns probabilities. A clip whose visual row is zero has no video: it is
    scored by motion alone.

    Args:
        motion: (n, d) projected motion embeddings, any length but zero.
        text: (K, d) one embedding a class, see `class_embeddings`.
        visual: (n, d) projected video embeddings, or None.
        fuse: "embedding" or "score"; without `visual` it decides only whether cosines or probabilities come back.
        temperature: of the softmax of "score"; 0.1 is the training temperature, 0.01 what CLIP-like models use.

    Returns:
        (n, K), float32 or wider; higher is better, the arg max is the prediction.

    Raises:
        ValueError: wrong shapes, values that are not finite, a zero motion or text row, a temperature that is not
            positive or an unknown fusion.
    """
    if fuse not in ("embedding", "score"):
        raise ValueError(f"zero_shot_scores: fuse must be 'embedding' or 'score', got {fuse!r}")
    if not temperature > 0:
        raise ValueError(f"zero_shot_scores: temperature must be positive, got {temperature}")
    text = _unit_rows(text, "text")
    motion = _unit_rows(motion, "motion")
    if motion.shape[1] != text.shape[1]:
        raise ValueError(
            f"zero_shot_scores: motion has {motion.shape[1]} dimensions and text {text.shape[1]}; "
            "project both with the heads of one model"
        )
    if visual is not None:
        if visual.shape != motion.shape:
            raise ValueError(
                f"zero_shot_scores: visual must be {tuple(motion.shape)} like motion, got {tuple(visual.shape)}"
            )
        visual = _unit_rows(visual, "visual", allow_zero=True)
    if fuse == "embedding":
        joint = motion if visual is None else normalize(motion + visual, dim=1)
        return joint @ text.T
    scores = (motion @ text.T / temperature).softmax(dim=1)
    if visual is None:
        return scores
    seen = (visual @ text.T / temperature).softmax(dim=1)
    has_video = visual.any(dim=1, keepdim=True)
    return torch.where(has_video, (scores + seen) / 2, scores)


def class_embeddings(text: Tensor, class_index: Tensor, num_classes: int) -> Tensor:
    """One unit embedding a class from several captions: the mean of its unit caption embeddings, renormalised.

    Args:
        text: (P, d) caption embeddings.
        class_index: (P,) integers in [0, num_classes), the class of each caption.
        num_classes: K.

    Returns:
        (K, d), float32 or wider.

    Raises:
        ValueError: wrong shapes, a class index out of range, a class without captions, or captions that cancel out.
    """
    text = _unit_rows(text, "text")
    if class_index.shape != (len(text),):
        raise ValueError(f"class_embeddings: class_index must be ({len(text)},), got {tuple(class_index.shape)}")
    class_index = class_index.to(text.device, torch.int64)
    if len(class_index) and (int(class_index.min()) < 0 or int(class_index.max()) >= num_classes):
        raise ValueError(f"class_embeddings: class_index must be in 0 to {num_classes - 1}")
    count = torch.bincount(class_index, minlength=num_classes)
    if bool((count == 0).any()):
        raise ValueError(f"class_embeddings: class {int((count == 0).nonzero()[0])} has no caption")
    # A product with the assignment matrix sums in a fixed order on every device, which index_add does not.
    assignment = (torch.arange(num_classes, device=text.device)[:, None] == class_index[None, :]).to(text.dtype)
    mean = assignment @ text / count[:, None]
    cancelled = mean.norm(dim=1) < 1e-6
    if bool(cancelled.any()):
        raise ValueError(f"class_embeddings: the captions of class {int(cancelled.nonzero()[0])} cancel out")
    return normalize(mean, dim=1)


def draw_unseen_classes(num_classes: int, unseen: int, *, seed: int = 0) -> Tensor:
    """Classes to hold out, ascending: (unseen,) int64. Peers hold out 5 or 12 of NTU-60's 60 classes.

    Raises:
        ValueError: not 1 <= unseen < num_classes.
    """
    if not 1 <= unseen < num_classes:
        raise ValueError(f"draw_unseen_classes: unseen must be in 1 to {num_classes - 1}, got {unseen}")
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(num_classes, generator=generator)[:unseen].sort().values


def split_by_class(labels: Tensor, unseen: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
    """Indices of clips of seen classes (to train on) and of unseen classes (to test on); label -1 is in neither.

    Args:
        labels: (n,) integers.
        unseen: held-out classes.

    Returns:
        Two int64 vectors, ascending.

    Raises:
        ValueError: no class is held out, or one of the two sides is empty.
    """
    held_out = torch.as_tensor(unseen, dtype=torch.int64, device=labels.device).flatten()
    if not len(held_out):
        raise ValueError("split_by_class: give at least one unseen class")
    is_unseen = torch.isin(labels, held_out)
    train = ((labels >= 0) & ~is_unseen).nonzero().flatten()
    test = ((labels >= 0) & is_unseen).nonzero().flatten()
    if not len(train) or not len(test):
        raise ValueError(
            f"split_by_class: {len(train)} clips of seen and {len(test)} of unseen classes; both need some"
        )
    return train, test


def restrict_classes(scores: Tensor, labels: Tensor, classes: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
    """Scores over `classes` alone and labels renumbered to match (conventional zero-shot: only unseen classes compete).

    Args:
        scores: (n, K).
        labels: (n,) integers, all in `classes`.
        classes: the U classes that compete, in the order of the new numbers.

    Returns:
        (n, U) scores and (n,) int64 labels in [0, U).

    Raises:
        ValueError: a class out of range or given twice, or a label that is not among the classes.
    """
    kept = torch.as_tensor(classes, dtype=torch.int64, device=scores.device).flatten()
    if not len(kept) or int(kept.min()) < 0 or int(kept.max()) >= scores.shape[1]:
        raise ValueError(f"restrict_classes: classes must be in 0 to {scores.shape[1] - 1}, got {kept.tolist()}")
    if len(kept.unique()) != len(kept):
        raise ValueError(f"restrict_classes: a class is given twice in {kept.tolist()}")
    number = torch.full((scores.shape[1],), -1, dtype=torch.int64, device=scores.device)
    number[kept] = torch.arange(len(kept), device=scores.device)
    labels = labels.to(scores.device, torch.int64)
    inside = torch.isin(labels, kept)
    if not bool(inside.all()):
        sample = int((~inside).nonzero()[0])
        raise ValueError(f"restrict_classes: sample {sample} has label {int(labels[sample])}, which does not compete")
    return scores[:, kept], number[labels]


def _unit_rows(rows: Tensor, name: str, *, allow_zero: bool = False) -> Tensor:
    if rows.ndim != 2 or not rows.is_floating_point():
        raise ValueError(f"{name} embeddings must be (rows, d), floating point; got {tuple(rows.shape)}, {rows.dtype}")
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    broken = ~torch.isfinite(rows).all(dim=1)
    if bool(broken.any()):
        raise ValueError(f"{name} embedding {int(broken.nonzero()[0])} is not finite; encode it again")
    is_zero = ~rows.any(dim=1)
    if not allow_zero and bool(is_zero.any()):
        raise ValueError(f"{name} embedding {int(is_zero.nonzero()[0])} is zero, so it has no direction to compare")
    return normalize(rows, dim=1)


def action_text(label_name: str) -> str:
    """An action name as words: "raise-up-both-hands" becomes "raise up both hands"."""
    return " ".join(label_name.replace("_", " ").replace("-", " ").split())


def embed_actions(model: TMOR, teacher: Teacher, actions: Sequence[str] | Sequence[Sequence[str]]) -> Tensor:
    """Unit embeddings (K, d) of actions, each given by its name or by several captions, which are averaged."""
    captions = [[action] if isinstance(action, str) else list(action) for action in actions]
    flat = [action_text(caption) for group in captions for caption in group]
    owner = torch.tensor([i for i, group in enumerate(captions) for _ in group])
    with torch.no_grad():
        projected = model.embed_text(teacher.encode_text(flat).float().to(next(model.parameters()).device))
    return class_embeddings(projected.cpu(), owner, len(captions))
