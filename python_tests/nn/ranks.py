"""One rank of a gloo job: `python ranks.py RANK WORLD FOLDER`; rank 0 writes (got, expected) pairs to FOLDER/found.pt.

Every case computes loss and gradients with the batch divided among the ranks, brings them together as
DistributedDataParallel does (the average over ranks), and computes the same in one process with the whole batch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from tmor_fast import ops
from tmor_fast.errors import DataError
from tmor_fast.nn import (
    TMOR,
    ClipLoss,
    FIFOQueue,
    InfoNCELoss,
    NTXentLoss,
    Objective,
    SampleBank,
    ShardedBank,
    SupConLoss,
    TeacherFeatures,
    TMOROptions,
    UNIKConfig,
    gather_rows,
)

BATCH, WIDTH, SAMPLES = 6, 5, 17
Found = dict[str, tuple[Any, Any]]


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def part(value: Tensor) -> Tensor:
    """What this rank has of a batch."""
    return value.chunk(dist.get_world_size())[dist.get_rank()]


def average(value: Tensor) -> Tensor:
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def compare(loss_of: Callable[..., Tensor], whole_of: Callable[..., Tensor], *batch: Tensor) -> tuple[Any, Any]:
    """Loss and gradients of a weight and of a temperature: averaged over ranks, and of one process.

    Both functions get (weight, temperature, *batch), `loss_of` with this rank's part of the batch.
    """
    results = []
    for function, inputs in ((loss_of, [part(value) for value in batch]), (whole_of, list(batch))):
        weight = rows(WIDTH, WIDTH, seed=9).requires_grad_()
        temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        loss = function(weight, temperature, *inputs)
        loss.backward()
        results.append(
            [loss.detach(), weight.grad, temperature.grad if temperature.grad is not None else loss.new_zeros(())]
        )
    return [average(value) for value in results[0]], results[1]


def unit(weight: Tensor, batch: Tensor) -> Tensor:
    return F.normalize(batch @ weight, dim=1)


def clip_cases(found: Found) -> None:
    world = dist.get_world_size()
    for local in (False, True):
        for gather in (False, True):
            loss = ClipLoss(local, gather, rank=dist.get_rank(), world_size=world)

            def of(kind: ClipLoss) -> Callable[..., Tensor]:
                return lambda w, t, a, b: kind(unit(w, a), unit(w, b), 1 / t)

            found[f"clip local={local} gather={gather}"] = compare(
                of(loss), of(ClipLoss()), rows(BATCH, WIDTH), rows(BATCH, WIDTH, seed=1)
            )


def open_clip_cases(found: Found) -> None:
    try:
        import open_clip
    except ImportError:
        return
    world = dist.get_world_size()
    for local in (False, True):
        for gather in (False, True):
            arguments = {"rank": dist.get_rank(), "world_size": world, "local_loss": local, "gather_with_grad": gather}
            results = []
            for loss in (ClipLoss(**arguments), open_clip.ClipLoss(**arguments)):
                image, text = (part(unit(rows(WIDTH, WIDTH, seed=9), rows(BATCH, WIDTH, seed=s))) for s in (0, 1))
                inputs = [image.requires_grad_(), text.requires_grad_(), torch.tensor(4.0, requires_grad=True)]
                value = loss(*inputs)
                results.append([value.detach(), *torch.autograd.grad(value, inputs)])
            found[f"open_clip local={local} gather={gather}"] = (results[0], results[1])


def loss_cases(found: Found) -> None:
    first, second = rows(BATCH, WIDTH), rows(BATCH, WIDTH, seed=1)

    def pair(kind: type[nn.Module]) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        gathered, alone = kind(0.3, gather_distributed=True), kind(0.3)
        return lambda w, t, a, b: gathered(a @ w, b @ w), lambda w, t, a, b: alone(a @ w, b @ w)

    found["ntxent"] = compare(*pair(NTXentLoss), first, second)
    found["infonce in the batch"] = compare(*pair(InfoNCELoss), first, second)
    for name, labels in (("even", [0, 1, 0, 1, 0, 1]), ("lonely", [0, 0, 0, 1, 2, 3]), ("none", [0, 1, 2, 3, 4, 5])):
        gathered, alone = SupConLoss(0.3, gather_distributed=True), SupConLoss(0.3)
        found[f"supcon {name}"] = compare(
            lambda w, t, e, label, loss=gathered: loss(e @ w, label),
            lambda w, t, e, label, loss=alone: loss(e @ w, label),
            first, torch.tensor(labels),
        )  # fmt: skip
    views = rows(4, 2, WIDTH)
    gathered, alone = SupConLoss(0.3, gather_distributed=True), SupConLoss(0.3)
    found["supcon views"] = compare(lambda w, t, v: gathered(v @ w), lambda w, t, v: alone(v @ w), views)


def queue_case(found: Found) -> None:
    """MoCo's step: the keys of all ranks enter the queue of each, which wraps around."""
    queues = [FIFOQueue(8, WIDTH, torch.float32) for _ in range(2)]
    loss = InfoNCELoss(0.3)
    for step in range(4):
        query, key, ids = rows(BATCH, WIDTH, seed=step), rows(BATCH, WIDTH, seed=10 + step), torch.arange(BATCH)

        def of(queue: FIFOQueue) -> Callable[..., Tensor]:
            return lambda w, t, q, k: loss(q @ w, F.normalize(k, dim=1), queue.entries()[1].clone())

        found[f"queue step {step}"] = compare(of(queues[0]), of(queues[1]), query, key)
        keys = F.normalize(key, dim=1)
        queues[0].update(gather_rows(part(ids))[0], gather_rows(part(keys))[0])
        queues[1].update(ids, keys)
    found["queue rows"] = (queues[0].entries()[1], queues[1].entries()[1])
    # Parts of different sizes, one of them empty.
    some = rows(3, 2) if dist.get_rank() == 0 else rows(0, 2)
    found["uneven rows"] = (gather_rows(some)[0], rows(3, 2))
    message = "no error"
    try:
        gather_rows(some, even=True)
    except ValueError as error:
        message = str(error)
    found["uneven refused"] = ("drop_last" in message and "[3, 0" in message, True)


def sharded_cases(found: Found) -> None:
    clusters = torch.tensor([0, 1, 0, 2, -1, 0, 1, 0, 2, 2, -1, 0, 1, 1, 0, 3, 3])
    index = torch.tensor([0, 4, 6, 15, 2, 9])
    for dtype in (torch.float32, torch.float16):
        sharded, whole = ShardedBank(SAMPLES, WIDTH, dtype), SampleBank(SAMPLES, WIDTH, dtype)
        for seed, wanted in ((3, torch.tensor([8, 1, 3, 16, 16, 0])), (4, torch.arange(2, SAMPLES - 2))):
            keys = F.normalize(rows(len(wanted), WIDTH, seed=seed), dim=1)
            # The ranks bring parts of different sizes.
            sharded.update(part(wanted), part(keys))
            whole.update(wanted, keys)
            found[f"sharded filled {seed} {dtype}"] = (sharded.filled, whole.filled)
            filled = whole.filled.nonzero().squeeze(1)
            mine = filled[dist.get_rank() :]
            found[f"sharded gather {seed} {dtype}"] = (sharded.gather(mine), whole.gather(mine))
            for mode, most in (("instance", None), ("sum", 2), ("mean", 9), ("supcon", 3), ("sum", 0)):
                drawn = {"max_positives": most, "seed": None if most is None else 5}
                found[f"sharded {mode} {most} {seed} {dtype}"] = compare(
                    lambda w, t, q, p, i, m=mode, d=drawn, b=sharded: b.infonce(
                        unit(w, q), unit(w, p), i, clusters, temperature=t, positives=m, **d
                    ).mean(),
                    lambda w, t, q, p, i, m=mode, d=drawn, b=whole, f=filled: ops.cluster_infonce(
                        unit(w, q), b.gather(f), unit(w, p), query_id=i, key_id=f, query_cluster=clusters[i],
                        key_cluster=clusters[f], temperature=t, positives=m, **d,
                    ).mean(),
                    rows(BATCH, WIDTH), rows(BATCH, WIDTH, seed=1), index,
                )  # fmt: skip
    again = ShardedBank(SAMPLES, WIDTH, torch.float16)
    again.load_state_dict(sharded.state_dict())
    found["sharded state"] = (again.gather(filled), whole.gather(filled))
    found["sharded shares the rows"] = (len(sharded.shard), len(range(dist.get_rank(), SAMPLES, dist.get_world_size())))
    message, state = "no error", sharded.state_dict()
    state["_extra_state"] = {**state["_extra_state"], "world_size": 3}
    try:
        again.load_state_dict(state)
    except DataError as error:
        message = str(error)
    found["sharded state of other ranks refused"] = ("of 3" in message, True)


def objective_cases(found: Found) -> None:
    """The whole T-MOR objective: a batch of clips over two ranks, some of them without video."""
    tiny = UNIKConfig.preset("unik-tiny", widths=(8, 16), strides=(1, 2), persons=1)
    clusters = torch.tensor([0, 0, 0, 1, 1, -1, -1, 1, 0, 2, 2, -1])
    video = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    video[[0, 3, 7]] = 0
    teachers = TeacherFeatures(video=video, text=torch.eye(3, 5), text_id=torch.arange(12) % 4 - 1)
    query, key = (torch.randn(6, 2, 8, 17, 1, generator=torch.Generator().manual_seed(s)).double() for s in (2, 3))
    index = torch.tensor([0, 3, 5, 9, 7, 4])
    for bank, noise in (("sample", "no_loss"), ("fifo", "singleton")):
        results = []
        for whole in (False, True):
            torch.manual_seed(0)
            options = TMOROptions(
                embedding_dim=8, head_hidden=16, bank_dtype="float32", max_positives=None, noise=noise,
                motion_bank=bank, num_negatives=None, symmetric=True,
            )  # fmt: skip
            objective = Objective(TMOR(tiny, options, video_dim=6, text_dim=5).double(), 12, teachers).double().eval()
            objective.bank.update(torch.arange(12), objective.keys(rows(12, 2, 8, 17, 1, seed=7)))
            objective.set_clusters(clusters)
            inputs = [value if whole else part(value) for value in (query, key, index)]
            if whole:
                # One process: what the objective asks of torch.distributed is answered for one rank.
                group = dist.new_subgroups(1)[0]
                with alone(group):
                    losses = objective(*inputs, stage=2)
                    losses["loss"].backward()
            else:
                losses = objective(*inputs, stage=2)
                losses["loss"].backward()
            grads = [p.grad for p in objective.model.parameters() if p.grad is not None]
            values = [*losses.values(), *grads, objective.bank.rows]
            results.append([value.detach() if whole else average(value) for value in values])
        found[f"objective {bank} {noise}"] = (results[0], results[1])


class alone:  # noqa: N801
    """Within it, the objective's collectives see the ranks of `group` alone."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def __enter__(self) -> None:
        from tmor_fast import distributed
        from tmor_fast.nn import objective

        self.module = objective
        objective.gather_rows = lambda rows, **more: distributed.gather_rows(rows, group=self.group, **more)
        objective.world_size = lambda: distributed.world_size(self.group)

    def __exit__(self, *error: object) -> None:
        from tmor_fast import distributed

        self.module.gather_rows, self.module.world_size = distributed.gather_rows, distributed.world_size


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world)
    found: Found = {}
    for cases in (clip_cases, open_clip_cases, loss_cases, queue_case, sharded_cases, objective_cases):
        cases(found)
    torch.save(found, folder / f"found{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
