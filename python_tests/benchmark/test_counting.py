"""Operations and bytes of calls that are counted by hand too; ceilings on products small enough for a test."""

from __future__ import annotations

import pytest
import torch

from tmor_fast.benchmark import ceilings
from tmor_fast.benchmark.counting import count
from tmor_fast.benchmark.measure import WallTimer
from tmor_fast.ops import dependency_attention


def test_a_product() -> None:
    a, b = torch.randn(64, 32), torch.randn(32, 16)
    assert count(lambda: a @ b) == (2 * 64 * 32 * 16, 4 * (64 * 32 + 32 * 16 + 64 * 16))


def test_views_move_nothing_and_expanded_tensors_count_what_they_hold() -> None:
    a = torch.randn(8, 8)
    assert count(lambda: a.t().reshape(8, 8).expand(5, 8, 8)) == (0, 0)
    row = torch.randn(1, 8)
    assert count(lambda: row.expand(100, 8) + 1.0) == (0, 4 * (8 + 800))


def test_in_place_reads_and_writes() -> None:
    a = torch.randn(100)
    assert count(lambda: a.add_(1.0)) == (0, 4 * 200)


def test_ops_of_this_library_are_known() -> None:
    x = torch.randn(2, 3, 5, 4)
    weights = torch.randn(2 * 3 * 2, 4), torch.randn(12), torch.randn(3, 5, 5), torch.randn(8, 12), torch.randn(8)
    flops, moved = count(lambda: dependency_attention(x, *weights, num_heads=3))
    rows = 2 * 3 * 5
    assert flops == 2 * rows * 4 * 12 + rows * 5 * 12 + 2 * rows * 5 * 3 * 4 + 2 * rows * 8 * 12
    assert moved >= 4 * (x.numel() + rows * 8)


def test_ceilings_of_every_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "CPU_SHAPES", ((128, 128, 128),))
    monkeypatch.setattr(ceilings, "COPY_BYTES", {"cpu": 1 << 20})
    found = ceilings.measure_ceilings("cpu", 0.01)
    assert list(found) == ["fp64", "fp32", "bf16", "fp16", "int8", "copy"]
    for precision in ("fp64", "fp32", "bf16"):
        entry = found[precision]
        assert entry["flops_per_second"] == pytest.approx(max(entry["routes"].values()), rel=1e-6)
        assert entry["route"].endswith("128x128x128")
    assert any(route.startswith("torch.mm") for route in found["fp32"]["routes"])
    assert 1e8 < found["copy"]["bytes_per_second"] < 1e13


def test_a_route_that_does_not_work_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setattr(ceilings, "_float_routes", lambda a, b: iter([("torch.mm", refuse)]))
    entry = ceilings._precision_ceiling("fp32", "cpu", WallTimer(), 0.01)
    assert entry["flops_per_second"] is None
    assert entry["refused"] == {"torch.mm": "no such instruction"}


@pytest.mark.parametrize("routes", [ceilings._float_routes, ceilings._integer_routes])
def test_all_routes_compute_the_same_product(routes) -> None:
    integer = routes is ceilings._integer_routes
    a, b = ceilings._operands((8, 16, 24), "int8" if integer else "fp32", "cpu")
    expected = a.double() @ b.double()
    for name, call in routes(a, b):
        if integer and name == "quantised linear":
            continue  # its output is clamped to bytes
        found = call()
        if name == "1x1 convolution":
            found = found.permute(0, 2, 3, 1).reshape(8, 24)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-3, msg=lambda m, n=name: n + m)


def test_the_higher_of_two_measurements_counts() -> None:
    first = {"fp32": {"flops_per_second": 5.0, "route": "a"}, "copy": {"bytes_per_second": 2.0}}
    second = {"fp32": {"flops_per_second": 4.0, "route": "b"}, "copy": {"bytes_per_second": 3.0}}
    merged = ceilings.faster(first, second)
    assert (merged["fp32"]["route"], merged["copy"]["bytes_per_second"]) == ("a", 3.0)
