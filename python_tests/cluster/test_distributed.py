"""A clustering in shares: what several processes find together is what one finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tmor_fast.cluster import DBSCAN, distributed_dbscan, merge_shares
from tmor_fast.ops.dbscan import dbscan, dbscan_share


def clouds(seed: int, n: int, d: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    centres = 4 * torch.randn(6, d, generator=draw)
    return centres[torch.randint(6, (n,), generator=draw)] + torch.randn(n, d, generator=draw)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), n=st.sampled_from([1, 2, 63, 64, 65, 700, 1500]), d=st.sampled_from([1, 3, 17]),
    min_samples=st.sampled_from([1, 2, 5, 64]), shares=st.integers(2, 5), eps=st.floats(0.05, 8.0),
    metric=st.sampled_from(["euclidean", "cosine"]), sort=st.booleans(), lattice=st.booleans(),
)  # fmt: skip
def test_shares_together_are_the_whole(
    seed: int, n: int, d: int, min_samples: int, shares: int, eps: float, metric: str, sort: bool, lattice: bool
) -> None:
    points = clouds(seed, n, d)
    if lattice:
        points, eps = points.round(), max(1.0, round(eps))
    if metric == "cosine":
        eps /= 10
    expected = dbscan(points, eps, min_samples, metric=metric)
    parts = [dbscan_share(points, eps, min_samples, i, shares, metric=metric, sort=sort) for i in range(shares)]
    assert len({order for _, _, order in parts}) == 1
    labels, core = merge_shares(min_samples, [part[0] for part in parts], [part[1] for part in parts])
    assert torch.equal(labels, expected[0])
    assert torch.equal(core, expected[1])


def test_a_share_is_a_part_of_the_work() -> None:
    points = clouds(0, 1500, 8)
    edges = [int((dbscan_share(points, 2.5, 5, i, 3, sort=False)[0] >= 0).sum()) for i in range(3)]
    whole, _, _ = zip(*(dbscan_share(points, 2.5, 5, i, 2, sort=False) for i in range(2)), strict=True)
    assert min(edges) > 0
    assert max(edges) < sum(int((lists >= 0).sum()) for lists in whole)


@pytest.mark.parametrize(("min_samples", "share", "shares"), [(65, 0, 2), (5, 2, 2), (5, -1, 2), (5, 0, 1)])
def test_shares_out_of_range(min_samples: int, share: int, shares: int) -> None:
    with pytest.raises(ValueError, match="at most 64 samples"):
        dbscan_share(torch.randn(9, 2), 0.5, min_samples, share, shares)


RANK = """
import sys
import torch, torch.distributed as dist
from tmor_fast.cluster import distributed_dbscan
folder, rank, ranks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
rows = torch.load(f"{folder}/rows-{rank}.pt")
found = [distributed_dbscan(rows, 2.2, 5), distributed_dbscan(rows, 0.05, 70, metric="cosine"),
         distributed_dbscan(rows, 0.4, 1)]
try:
    distributed_dbscan(rows, -1.0, 5)
except ValueError as error:
    found.append(str(error))
torch.save(found, f"{folder}/found-{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.parametrize("lengths", [(400, 500), (900, 0)])
def test_two_processes_are_one(lengths: tuple[int, ...], tmp_path: Path) -> None:
    points = clouds(1, sum(lengths), 6)
    for rank, rows in enumerate(points.split(lengths)):
        torch.save(rows.clone(), tmp_path / f"rows-{rank}.pt")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path), str(rank), str(len(lengths))],
            stderr=subprocess.PIPE,
            cwd=tmp_path,
        )
        for rank in range(len(lengths))
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    found = [torch.load(tmp_path / f"found-{rank}.pt") for rank in range(len(lengths))]
    wholes = [
        estimator.fit(points) for estimator in (DBSCAN(2.2, 5), DBSCAN(0.05, 70, metric="cosine"), DBSCAN(0.4, 1))
    ]
    for number, expected in enumerate(wholes):
        assert torch.equal(torch.cat([part[number][0] for part in found]), expected.labels_)
        core = torch.cat([part[number][1] for part in found])
        assert torch.equal(core.nonzero().squeeze(1), expected.core_sample_indices_)
    assert all("eps" in part[3] for part in found)


def test_it_says_that_there_are_no_processes() -> None:
    with pytest.raises(RuntimeError, match="init_process_group"):
        distributed_dbscan(torch.randn(4, 2), 0.5, 2)
