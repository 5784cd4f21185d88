"""ShardedBank without a process group, where its one shard is the bank; two ranks are in `test_distributed.py`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tmor_fast import ops
from tmor_fast.nn import ShardedBank

SAMPLES, WIDTH = 11, 4
CLUSTERS = torch.tensor([0, 0, 1, -1, 1, 0, 2, -1, 0, 1, 0])


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled_bank(count: int = SAMPLES) -> ShardedBank:
    bank = ShardedBank(SAMPLES, WIDTH, torch.float32)
    bank.update(torch.arange(count), F.normalize(rows(count, WIDTH, seed=5), dim=1))
    return bank


@settings(deadline=None, max_examples=40)
@given(
    filled=st.integers(0, SAMPLES),
    mode=st.sampled_from([("instance", None), ("sum", 0), ("sum", 3), ("mean", 2), ("supcon", 20)]),
    temperature=st.sampled_from([0.001, 0.01, 0.1, 1.0, 10.0]),
)
def test_the_merged_loss_is_that_of_the_op(filled: int, mode: tuple[str, int | None], temperature: float) -> None:
    bank, index = filled_bank(filled), torch.tensor([0, 2, 3, 10])
    drawn = {"positives": mode[0], "max_positives": mode[1], "seed": None if mode[1] is None else 7}
    known = torch.arange(filled)
    found = []
    for merged in (True, False):
        query, positive = (F.normalize(rows(4, WIDTH, seed=s), dim=1).requires_grad_() for s in (0, 1))
        heat = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
        if merged:
            loss = bank.infonce(query, positive, index, CLUSTERS, temperature=heat, **drawn)
        else:
            loss = ops.cluster_infonce(
                query, bank.gather(known), positive, query_id=index, key_id=known, query_cluster=CLUSTERS[index],
                key_cluster=CLUSTERS[known], temperature=heat, **drawn,
            )  # fmt: skip
        (loss * torch.arange(1.0, 5.0)).sum().backward()
        found.append((loss.detach(), query.grad, positive.grad, heat.grad))
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


def test_rows_are_written_gathered_and_forgotten() -> None:
    bank = ShardedBank(SAMPLES, WIDTH)
    new = rows(3, WIDTH)
    bank.update(torch.tensor([4, 1, 4]), new)
    assert (len(bank), bank.num_filled(), bank.shard.rows.dtype) == (SAMPLES, 2, torch.float16)
    assert torch.equal(bank.gather(torch.tensor([1, 4])), new[1:].half())
    again = ShardedBank(SAMPLES, WIDTH)
    again.load_state_dict(bank.state_dict())
    assert torch.equal(again.gather(torch.tensor([4, 1]), dtype=torch.float32), new[[2, 1]].half().float())
    bank.reset()
    assert bank.num_filled() == 0
    assert not bank.shard.rows.any()


QUERY, INDEX = rows(2, WIDTH), torch.tensor([0, 1])
BAD: list[tuple[Callable[[ShardedBank], object], str]] = [
    (lambda bank: bank.update(torch.tensor([SAMPLES]), rows(1, WIDTH)), "accepted are 0 to 10"),
    (lambda bank: bank.update(torch.tensor([3]), torch.full((1, WIDTH), torch.nan)), "sample 3 is not finite"),
    (lambda bank: bank.update(torch.tensor([3]), rows(1, 2)), "expected rows of shape"),
    (lambda bank: bank.gather(torch.tensor([9])), "sample 9 is out of range or was never written"),
    (lambda bank: bank.gather(torch.tensor([-1])), "sample -1 is out of range"),
    (lambda bank: bank.infonce(QUERY, QUERY, INDEX, positives="all"), "unknown positives 'all'"),
    (lambda bank: bank.infonce(QUERY, QUERY, INDEX, positives="sum"), "give both numbers"),
    (lambda bank: bank.infonce(QUERY, QUERY, INDEX, max_positives=2, seed=1), "none for 'instance'"),
    (lambda bank: bank.infonce(QUERY, QUERY, INDEX, positives="sum", max_positives=2), "give both numbers"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_what_does_not_fit_is_named_and_changes_nothing(call: Callable[[ShardedBank], object], message: str) -> None:
    bank = filled_bank(6)
    before = bank.shard.rows.clone()
    with pytest.raises(ValueError, match=message):
        call(bank)
    assert torch.equal(bank.shard.rows, before)
    assert bank.num_filled() == 6


def test_rows_that_change_before_backward_are_an_error_and_not_a_wrong_gradient() -> None:
    bank, query = filled_bank(), rows(2, WIDTH).requires_grad_()
    loss = bank.infonce(query, rows(2, WIDTH, seed=1), INDEX).mean()
    bank.update(INDEX, rows(2, WIDTH, seed=2))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
