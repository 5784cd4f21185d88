"""SampleBank, FIFOQueue and FeatureBank against plain Python models of what they hold."""

from __future__ import annotations

import io
from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tmor_fast.errors import DataError
from tmor_fast.nn.banks import FeatureBank, FIFOQueue, SampleBank
from tmor_fast.nn.projection import ProjectionHead


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def saved_and_loaded(module: nn.Module) -> dict[str, Tensor]:
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    state: dict[str, Tensor] = torch.load(buffer, weights_only=True)
    return state


@settings(deadline=None, max_examples=40)
@given(batches=st.lists(st.lists(st.integers(0, 6), max_size=12), max_size=5))
def test_sample_bank_keeps_the_last_row_of_each_sample(batches: list[list[int]]) -> None:
    bank = SampleBank(7, 2, torch.float32)
    model: dict[int, float] = {}
    value = 0.0
    for batch in batches:
        rows = torch.zeros(len(batch), 2)
        for position, sample in enumerate(batch):
            value += 1
            rows[position] = value
            model[sample] = value
        bank.update(torch.tensor(batch, dtype=torch.int64), rows)
    assert bank.num_filled() == len(model)
    assert set(bank.filled.nonzero().flatten().tolist()) == set(model)
    for sample, expected in model.items():
        assert bank.rows[sample].tolist() == [expected, expected]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sample_bank_storage_dtype_survives_casts_of_the_model(dtype: torch.dtype) -> None:
    bank = SampleBank(4, 3, dtype)
    rows = torch.randn(2, 3, generator=seeded(), requires_grad=True)
    bank.update(torch.tensor([1, 3], dtype=torch.int32), rows)
    before = bank.rows.clone()
    model = nn.Sequential(bank, nn.Linear(2, 2)).to(torch.bfloat16).double()
    assert model[1].weight.dtype == torch.float64
    assert bank.rows.dtype == dtype
    assert torch.equal(bank.rows, before)
    assert torch.equal(bank.gather(torch.tensor([3])), rows.detach()[1:].to(dtype))
    assert bank.gather(torch.tensor([3]), dtype=torch.float32).dtype == torch.float32


def test_sample_bank_state_dict_round_trip() -> None:
    bank = SampleBank(5, 2)
    bank.update(torch.tensor([4, 0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    other = SampleBank(5, 2)
    other.load_state_dict(saved_and_loaded(bank))
    assert torch.equal(other.rows, bank.rows)
    assert other.filled.tolist() == [True, False, False, False, True]
    other.reset()
    assert other.num_filled() == 0
    assert not other.rows.any()
    with pytest.raises(RuntimeError, match="size mismatch"):
        SampleBank(6, 2).load_state_dict(bank.state_dict())


def test_sample_draws_distinct_filled_rows_and_repeats_with_its_seed() -> None:
    bank = SampleBank(50, 1)
    filled = torch.arange(0, 50, 3)
    bank.update(filled, torch.ones(len(filled), 1))
    state = torch.get_rng_state()
    drawn = bank.sample(10, seeded(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn.dtype == torch.int64
    assert len(set(drawn.tolist())) == 10
    assert set(drawn.tolist()) <= set(filled.tolist())
    assert torch.equal(drawn, bank.sample(10, seeded(1)))
    assert not torch.equal(drawn, bank.sample(10, seeded(2)))
    assert sorted(bank.sample(1000, seeded()).tolist()) == filled.tolist()
    assert bank.sample(0, seeded()).numel() == 0
    assert SampleBank(3, 1).sample(2, seeded()).numel() == 0


def test_small_samples_of_a_full_bank_are_uniform_and_distinct() -> None:
    bank = SampleBank(40, 1)
    bank.update(torch.arange(40), torch.ones(40, 1))
    generator, counts, first = seeded(3), torch.zeros(40), torch.zeros(40)
    for _ in range(4000):
        drawn = bank.sample(9, generator)
        assert len(drawn.unique()) == 9
        counts[drawn] += 1
        first[drawn[0]] += 1
    # Each row is in 9 of 40 draws and leads 1 of 40; five standard deviations.
    assert (counts - 900).abs().max() < 5 * (4000 * 0.225 * 0.775) ** 0.5
    assert (first - 100).abs().max() < 5 * (4000 * 0.025 * 0.975) ** 0.5


def test_sample_is_uniform() -> None:
    bank = SampleBank(6, 1)
    bank.update(torch.tensor([0, 2, 3, 5]), torch.ones(4, 1))
    generator, counts = seeded(3), torch.zeros(6)
    for _ in range(2000):
        counts[bank.sample(2, generator)] += 1
    assert counts[1] == counts[4] == 0
    # Each filled row is in half of the draws; five standard deviations of a binomial.
    assert (counts[[0, 2, 3, 5]] - 1000).abs().max() < 5 * (2000 * 0.25) ** 0.5


@pytest.mark.parametrize(
    ("index", "rows", "message"),
    [
        (torch.tensor([4]), torch.ones(1, 2), "got values from 4 to 4, accepted are 0 to 3"),
        (torch.tensor([-1]), torch.ones(1, 2), "from -1"),
        (torch.tensor([0]), torch.ones(1, 3), r"shape \(1, 2\)"),
        (torch.tensor([0, 1]), torch.ones(1, 2), r"shape \(2, 2\)"),
        (torch.tensor([0.0]), torch.ones(1, 2), "integers"),
        (torch.tensor([True]), torch.ones(1, 2), "integers"),
        (torch.tensor([[0]]), torch.ones(1, 2), "integers"),
        (torch.tensor([0, 3]), torch.tensor([[1.0, 1.0], [1.0, float("nan")]]), "sample 3 is not finite"),
        (torch.tensor([2]), torch.tensor([[1.0, 1e6]]), "sample 2 is not finite in torch.float16"),
    ],
)
def test_sample_bank_refuses_bad_updates_unchanged(index: Tensor, rows: Tensor, message: str) -> None:
    bank = SampleBank(4, 2)
    with pytest.raises(ValueError, match=message):
        bank.update(index, rows)
    assert bank.num_filled() == 0
    assert not bank.rows.any()


def test_sample_bank_other_errors() -> None:
    bank = SampleBank(4, 2)
    with pytest.raises(TypeError, match="floating-point"):
        bank.update(torch.tensor([0]), torch.ones(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="sample 1 was never written"):
        bank.gather(torch.tensor([1]))
    with pytest.raises(ValueError, match="out of range"):
        bank.gather(torch.tensor([9]))
    with pytest.raises(TypeError, match="Generator"):
        bank.sample(1, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="negative"):
        bank.sample(-1, seeded())
    with pytest.raises(ValueError, match="dtype"):
        SampleBank(4, 2, torch.int8)
    with pytest.raises(ValueError, match="at least 1"):
        SampleBank(0, 2)


@settings(deadline=None, max_examples=60)
@given(length=st.integers(1, 7), batches=st.lists(st.integers(0, 17), max_size=6))
def test_queue_holds_the_newest_rows(length: int, batches: list[int]) -> None:
    queue, model, next_id = FIFOQueue(length, 2, torch.float32), deque[int](maxlen=length), 0
    for size in batches:
        ids = torch.arange(next_id, next_id + size)
        queue.update(ids, ids[:, None].expand(-1, 2).float())
        model.extend(ids.tolist())
        next_id += size
        stored_ids, rows = queue.entries()
        assert stored_ids.tolist() == list(model)
        assert rows[:, 0].tolist() == rows[:, 1].tolist() == [float(i) for i in model]
        assert queue.num_filled() == len(model)
        assert (queue.ids == -1).sum() == length - len(model)


def test_queue_state_dict_round_trip_continues_at_the_same_place() -> None:
    queue = FIFOQueue(3, 1)
    queue.update(torch.tensor([7, 8]), torch.ones(2, 1))
    other = FIFOQueue(3, 1)
    other.load_state_dict(saved_and_loaded(queue))
    for q in (queue, other):
        q.update(torch.tensor([9, 10]), torch.ones(2, 1))
    assert other.entries()[0].tolist() == queue.entries()[0].tolist() == [8, 9, 10]
    other.reset()
    assert other.entries()[0].numel() == 0


def test_queue_errors() -> None:
    queue = FIFOQueue(3, 2)
    with pytest.raises(ValueError, match="negative"):
        queue.update(torch.tensor([-1]), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        queue.update(torch.tensor([1]), torch.ones(1, 4))
    with pytest.raises(ValueError, match="not finite"):
        queue.update(torch.tensor([1]), torch.full((1, 2), float("inf")))
    assert queue.num_filled() == 0
    assert int(queue.cursor) == 0


def test_feature_bank_projects_with_the_head_as_it_is_now() -> None:
    features = torch.randn(6, 5, generator=seeded(), dtype=torch.float32).half()
    bank, head = FeatureBank(features), ProjectionHead(5, 4, 3)
    index = torch.tensor([5, 0, 5])
    expected = head(features[index].float())
    projected = bank.project(index, head)
    assert torch.equal(projected, expected)
    projected.sum().backward()
    assert all(p.grad is not None for p in head.parameters())
    assert not bank.features.requires_grad
    assert not bank.project(index, head, grad=False).requires_grad
    with torch.no_grad():
        assert not bank.project(index, head).requires_grad
        head.mlp[0].weight.zero_()
    assert not torch.equal(bank.project(index, head), expected)
    identity = ProjectionHead(5, layers=0, normalize=False)
    assert torch.equal(bank.project(index, identity), features[index])


@pytest.mark.parametrize("block", [1, 4, 7, 100])
def test_blocks_give_the_projections_and_gradients_of_all_rows_at_once(block: int) -> None:
    features, weight = torch.randn(9, 5, generator=seeded(), dtype=torch.float64), torch.randn(7, 3).double()
    bank, head = FeatureBank(features), ProjectionHead(5, 4, 3).double()
    index = torch.tensor([8, 0, 3, 3, 1, 7, 2])
    found = []
    for size in (None, block):
        projected = bank.project(index, head, block=size)
        found.append((projected, *torch.autograd.grad((projected * weight).sum(), list(head.parameters()))))
        plain = bank.project(index, head, grad=False, block=size)
        assert not plain.requires_grad
        torch.testing.assert_close(plain, projected.detach())
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole)


def test_a_block_sees_no_more_rows_than_its_size() -> None:
    seen: list[int] = []
    bank, head = FeatureBank(torch.randn(10, 5)), ProjectionHead(5, 4, 3)
    head.register_forward_pre_hook(lambda _, rows: seen.append(len(rows[0])))
    projected = bank.project(torch.arange(10), head, block=4)
    assert seen == [4, 4, 2]
    projected.sum().backward()
    # Backward projects the blocks again instead of keeping their activations.
    assert sorted(seen) == [2, 2, 4, 4, 4, 4]


def test_blocks_are_refused_where_rows_depend_on_each_other() -> None:
    bank, head = FeatureBank(torch.randn(6, 5)), ProjectionHead(5, 4, 3, batch_norm=True)
    with pytest.raises(ValueError, match="batch statistics"):
        bank.project(torch.arange(6), head, block=2)
    assert bank.project(torch.arange(6), head, block=6).shape == (6, 3)
    assert bank.project(torch.arange(6), head.eval(), block=2).shape == (6, 3)
    with pytest.raises(ValueError, match="block must be at least 1"):
        bank.project(torch.arange(6), head, block=0)


def test_feature_bank_is_saved_only_on_request() -> None:
    features = torch.ones(2, 3)
    assert not FeatureBank(features).state_dict()
    assert torch.equal(FeatureBank(features, persistent=True).state_dict()["features"], features)
    assert FeatureBank(features.half()).float().features.dtype == torch.float16


def test_feature_bank_errors() -> None:
    broken = torch.ones(4, 3)
    broken[2, 1] = float("nan")
    with pytest.raises(DataError, match="sample 2"):
        FeatureBank(broken)
    with pytest.raises(ValueError, match="out of range"):
        FeatureBank(torch.ones(4, 3)).gather(torch.tensor([4]))
    with pytest.raises(ValueError, match="samples, dimension"):
        FeatureBank(torch.ones(4))
    with pytest.raises(TypeError, match="int64"):
        FeatureBank(torch.ones(4, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 5\)"):
        FeatureBank(torch.ones(4, 3)).project(torch.tensor([0]), ProjectionHead(5))
