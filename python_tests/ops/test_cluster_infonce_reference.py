"""Drawing positives, and the masks that say which pairs are compared."""

from __future__ import annotations

from collections import Counter

import torch

from tmor_fast.ops.cluster_infonce_reference import Rows, draw_positives


def random_rows(queries: int, keys: int, clusters: int, captions: bool = False) -> Rows:
    """Ids repeat, and some queries have ids and clusters that no key has."""
    generator = torch.Generator().manual_seed(5)

    def integers(size: int, low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, (size,), generator=generator)

    rows = Rows(
        query_id=integers(queries, 0, keys + 9),
        key_id=integers(keys, 0, keys),
        query_cluster=integers(queries, -1, clusters + 1),
        key_cluster=integers(keys, -1, clusters),
    )
    if captions:
        rows = rows._replace(query_caption=integers(queries, -1, 3), key_caption=integers(keys, -1, 3))
    return rows


def test_masks_follow_the_definition_of_every_pair() -> None:
    rows = random_rows(12, 40, 3, captions=True)
    assert rows.query_caption is not None
    assert rows.key_caption is not None
    aligned, negative = rows.pairs(slice(5, 33))
    for i in range(12):
        for j in range(5, 33):
            other = bool(rows.key_id[j] != rows.query_id[i])
            same_cluster = bool(rows.key_cluster[j] == rows.query_cluster[i] != -1)
            same_caption = bool(rows.key_caption[j] == rows.query_caption[i] != -1)
            assert aligned[i, j - 5] == (other and same_cluster)
            assert negative[i, j - 5] == (other and not same_cluster and not same_caption)


def test_draw_takes_at_most_so_many_distinct_rows_of_the_cluster() -> None:
    rows = random_rows(30, 60, 3)
    members = [set(row.nonzero()[:, 0].tolist()) for row in rows.pairs()[0]]
    assert any(members)
    assert not all(members)
    for count in (1, 3, 15, 200):
        drawn = draw_positives(rows, count, seed=9)
        assert drawn.shape == (30, count)
        assert torch.equal(drawn, draw_positives(rows, count, seed=9))
        for row, own in zip(drawn.tolist(), members, strict=True):
            found = [j for j in row if j >= 0]
            assert len(set(found)) == len(found) == min(count, len(own))
            assert set(found) <= own
    assert not torch.equal(draw_positives(rows, 3, seed=9), draw_positives(rows, 3, seed=10))


def test_draw_is_uniform_and_leaves_the_global_generator_alone() -> None:
    # 4,000 queries of one cluster draw 2 of 5 rows; each of the 10 pairs is expected 400 times (sigma 19).
    rows = Rows(
        query_id=torch.full((4000,), 3),
        key_id=torch.arange(7),
        query_cluster=torch.zeros(4000, dtype=torch.int64),
        key_cluster=torch.tensor([0, 0, -1, 0, 0, 0, 0]),
    )
    state = torch.random.get_rng_state()
    drawn = draw_positives(rows, 2, seed=1).sort(dim=1).values
    assert torch.equal(state, torch.random.get_rng_state())
    counts = Counter(map(tuple, drawn.tolist()))
    assert set(counts) == {(a, b) for a in (0, 1, 4, 5, 6) for b in (0, 1, 4, 5, 6) if a < b}
    assert all(abs(number - 400) < 5 * 19 for number in counts.values())
