"""Zero-shot scores, captions per class and held-out classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tmor_fast.evaluation import (
    class_embeddings,
    draw_unseen_classes,
    restrict_classes,
    split_by_class,
    zero_shot_scores,
)


def embeddings(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    motion, visual = torch.randn(2, 5, 8, generator=generator, dtype=torch.float64)
    return motion, torch.randn(3, 8, generator=generator, dtype=torch.float64), visual


def test_motion_alone_is_the_cosine() -> None:
    motion, text, _ = embeddings()
    expected = torch.nn.functional.cosine_similarity(motion[:, None], text[None], dim=2)
    torch.testing.assert_close(zero_shot_scores(motion, text), expected)
    torch.testing.assert_close(zero_shot_scores(motion * 7, text * 0.01), expected)


def test_embedding_fusion_renormalises_the_mean() -> None:
    # Motion points along x, video along y, so the mean points along the diagonal.
    motion, visual = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    text = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    scores = zero_shot_scores(motion, text, visual)
    torch.testing.assert_close(scores, torch.tensor([[1.0, 0.5**0.5]]))


def test_score_fusion_averages_softmax() -> None:
    motion, text, visual = embeddings()
    expected = [(normalize(x, dim=1) @ normalize(text, dim=1).T / 0.05).softmax(dim=1) for x in (motion, visual)]
    fused = zero_shot_scores(motion, text, visual, fuse="score", temperature=0.05)
    torch.testing.assert_close(fused, (expected[0] + expected[1]) / 2)
    torch.testing.assert_close(fused.sum(dim=1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(zero_shot_scores(motion, text, fuse="score", temperature=0.05), expected[0])


@pytest.mark.parametrize("fuse", ["embedding", "score"])
def test_a_clip_without_video_is_scored_by_motion(fuse: str) -> None:
    motion, text, visual = embeddings()
    visual[2] = 0
    both = zero_shot_scores(motion, text, visual, fuse=fuse)  # type: ignore[arg-type]
    alone = zero_shot_scores(motion, text, fuse=fuse)  # type: ignore[arg-type]
    torch.testing.assert_close(both[2], alone[2])
    assert not torch.allclose(both[1], alone[1])


def test_captions_are_averaged_and_renormalised() -> None:
    text = torch.tensor([[3.0, 0.0], [0.0, 0.5], [0.0, -2.0]])
    merged = class_embeddings(text, torch.tensor([1, 1, 0]), 2)
    half = 0.5**0.5
    torch.testing.assert_close(merged, torch.tensor([[0.0, -1.0], [half, half]]))
    with pytest.raises(ValueError, match="class 2 has no caption"):
        class_embeddings(text, torch.tensor([1, 1, 0]), 3)
    with pytest.raises(ValueError, match="cancel out"):
        class_embeddings(text, torch.tensor([0, 1, 1]), 2)
    with pytest.raises(ValueError, match="in 0 to 1"):
        class_embeddings(text, torch.tensor([0, 1, 2]), 2)
    with pytest.raises(ValueError, match=r"must be \(3,\)"):
        class_embeddings(text, torch.tensor([0, 1]), 2)


def test_unseen_classes_are_distinct_sorted_and_seeded() -> None:
    unseen = draw_unseen_classes(60, 5, seed=1)
    assert unseen.tolist() == sorted(set(unseen.tolist()))
    assert len(unseen) == 5
    assert 0 <= unseen.min() <= unseen.max() < 60
    assert torch.equal(unseen, draw_unseen_classes(60, 5, seed=1))
    assert not torch.equal(unseen, draw_unseen_classes(60, 5, seed=2))
    with pytest.raises(ValueError, match="1 to 59"):
        draw_unseen_classes(60, 60)


def test_split_and_restrict() -> None:
    labels = torch.tensor([0, 3, 1, -1, 3, 2])
    train, test = split_by_class(labels, [3, 1])
    assert train.tolist() == [0, 5]
    assert test.tolist() == [1, 2, 4]
    scores = torch.arange(12.0).reshape(3, 4)
    kept, renumbered = restrict_classes(scores, labels[test], [3, 1])
    assert kept.tolist() == [[3.0, 1.0], [7.0, 5.0], [11.0, 9.0]]
    assert renumbered.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="both need some"):
        split_by_class(labels, [9])
    with pytest.raises(ValueError, match="at least one"):
        split_by_class(labels, [])
    with pytest.raises(ValueError, match="sample 1 has label 1, which does not compete"):
        restrict_classes(scores, labels[test], [3])
    with pytest.raises(ValueError, match="twice"):
        restrict_classes(scores, labels[test], [3, 3, 1])
    with pytest.raises(ValueError, match="0 to 3"):
        restrict_classes(scores, labels[test], [4])


def test_errors() -> None:
    motion, text, visual = embeddings()
    with pytest.raises(ValueError, match="motion has 8 dimensions and text 4"):
        zero_shot_scores(motion, text[:, :4])
    with pytest.raises(ValueError, match="visual must be"):
        zero_shot_scores(motion, text, visual[:2])
    with pytest.raises(ValueError, match="motion embedding 0 is zero"):
        zero_shot_scores(torch.zeros(1, 8), text)
    with pytest.raises(ValueError, match="text embedding 1 is not finite"):
        zero_shot_scores(motion, text.index_fill(0, torch.tensor([1]), float("nan")))
    with pytest.raises(ValueError, match="temperature"):
        zero_shot_scores(motion, text, temperature=0.0)
    with pytest.raises(ValueError, match="'embedding' or 'score'"):
        zero_shot_scores(motion, text, fuse="mean")  # type: ignore[arg-type]
