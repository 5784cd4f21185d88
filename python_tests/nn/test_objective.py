"""The pre-training objective against the paper's equations written out in float64, and its options one by one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tmor_fast.nn import objective as objective_module
from tmor_fast.nn.objective import Objective, TeacherFeatures
from tmor_fast.nn.options import TMOROptions
from tmor_fast.nn.tmor import TMOR
from tmor_fast.nn.unik_config import UNIKConfig

N, B, FRAMES = 12, 4, 8
TINY = UNIKConfig.preset("unik-tiny", widths=(8, 16), strides=(1, 2), persons=1)


def build(video: bool = True, text: bool = True, **options) -> Objective:
    torch.manual_seed(0)
    teachers = TeacherFeatures(
        video=torch.randn(N, 6) if video else None,
        text=torch.randn(3, 5) if text else None,
        text_id=torch.arange(N) % 3 if text else None,
    )
    settings = {"embedding_dim": 8, "head_hidden": 16, "bank_dtype": "float32", "max_positives": None, **options}
    model = TMOR(TINY, TMOROptions(**settings), video_dim=6 if video else None, text_dim=5 if text else None).double()
    objective = Objective(model, N, teachers, labels=torch.arange(N) % 2).double()
    # Batch statistics would tie the clips of a batch together; the equations are about embeddings.
    objective.eval()
    return objective


def clips(count: int, seed: int) -> Tensor:
    return torch.randn(count, 2, FRAMES, 17, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fill(objective: Objective) -> None:
    objective.bank.update(torch.arange(N), objective.keys(clips(N, 7)).float())


def expected(query: Tensor, positive: Tensor, keys: Tensor, index: Tensor, rows: Tensor, clusters: Tensor, *,
             captions: Tensor | None = None, instance: bool, temperature: float = 0.1) -> Tensor:  # fmt: skip
    """Eq. (1) or (6), query by query, from the definitions."""
    losses = []
    for i, own in enumerate(index.tolist()):
        above = [torch.exp(query[i] @ positive[i] / temperature)]
        below = []
        for j, other in enumerate(rows.tolist()):
            if other == own:
                continue
            similarity = torch.exp(query[i] @ keys[j] / temperature)
            same_cluster = clusters[own] >= 0 and clusters[own] == clusters[other]
            if same_cluster:
                if not instance:
                    above.append(similarity)
            elif captions is None or captions[own] != captions[other]:
                below.append(similarity)
        top = torch.stack(above).sum()
        losses.append(-torch.log(top / (top + (torch.stack(below).sum() if below else 0.0))))
    return torch.stack(losses).mean()


CLUSTERS = torch.tensor([0, 0, 0, 1, 1, -1, -1, 1, 0, 2, 2, -1])
INDEX = torch.tensor([0, 3, 5, 9])


def test_the_three_losses_equal_the_equations():
    objective = build()
    fill(objective)
    objective.set_clusters(CLUSTERS)
    query, key = clips(B, 1), clips(B, 2)
    parts = objective(query, key, INDEX, stage=2)
    model, rows = objective.model, torch.arange(N)
    q = model.embed_motion(query, "mm")
    bank = build_bank_rows(objective)
    mm = expected(q, objective.keys(key), bank, INDEX, rows, CLUSTERS, instance=False)
    video = model.embed_video(objective.video.features.double())
    mv = expected(q, video[INDEX], video, INDEX, rows, CLUSTERS, instance=True)
    ids = objective.text_id
    text = model.embed_text(objective.text.features.double())[ids]
    mt = expected(q, text[INDEX], text, INDEX, rows, CLUSTERS, captions=ids, instance=True)
    for name, value in (("mm", mm), ("mv", mv), ("mt", mt)):
        torch.testing.assert_close(parts[name].double(), value, rtol=1e-5, atol=1e-6, msg=name)
    torch.testing.assert_close(parts["loss"], parts["mm"] + parts["mv"] + parts["mt"])


def build_bank_rows(objective: Objective) -> Tensor:
    """What the bank held before the batch entered it."""
    before = build()
    before.load_state_dict({k: v for k, v in objective.state_dict().items() if "bank" not in k}, strict=False)
    return before.keys(clips(N, 7))


def test_stage_1_leaves_text_out_and_stage_2_brings_it_in():
    objective = build()
    fill(objective)
    assert set(objective(clips(B, 1), clips(B, 2), INDEX, stage=1)) == {"loss", "mm", "mv"}
    assert set(objective(clips(B, 1), clips(B, 2), INDEX, stage=2)) == {"loss", "mm", "mv", "mt"}
    bare = build(video=False, text=False)
    fill(bare)
    assert set(bare(clips(B, 1), clips(B, 2), INDEX, stage=2)) == {"loss", "mm"}


def test_gradients_reach_the_online_model_and_never_the_key_encoder():
    objective = build()
    fill(objective)
    objective(clips(B, 1), clips(B, 2), INDEX, stage=2)["loss"].backward()
    trained = [p for p in objective.model.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    assert all(p.grad is None and not p.requires_grad for p in objective.key_encoder.parameters())


def test_the_key_encoder_follows_with_the_momentum():
    objective = build(momentum=0.9)
    head = objective.model.motion_heads["motion"].mlp[0].weight
    start = head.detach().clone()
    with torch.no_grad():
        head += 1.0
    objective.after_step()
    copied = objective.key_encoder.targets[1].mlp[0].weight
    torch.testing.assert_close(copied, start + 0.1)
    assert int(objective.step) == 1


def test_without_momentum_keys_come_from_the_online_encoder():
    objective = build(momentum=0.0)
    assert objective.key_encoder is None
    keys = objective.keys(clips(B, 2))
    assert not keys.requires_grad
    torch.testing.assert_close(keys, objective.model.embed_motion(clips(B, 2)).detach())


def test_the_batch_enters_the_bank_after_its_loss():
    objective = build()
    fill(objective)
    before = objective.bank.rows.clone()
    objective(clips(B, 1), clips(B, 2), INDEX)
    changed = (objective.bank.rows != before).any(1).nonzero().squeeze(1)
    assert changed.tolist() == INDEX.tolist()
    torch.testing.assert_close(objective.bank.rows[INDEX].double(), objective.keys(clips(B, 2)), rtol=1e-5, atol=1e-6)


def test_fifo_queue_instead_of_a_bank():
    objective = build(motion_bank="fifo", num_negatives=6)
    fill(objective)
    loss = objective(clips(B, 1), clips(B, 2), INDEX)["mm"]
    assert math.isfinite(loss.item())
    ids, _ = objective.bank.entries()
    assert ids.tolist() == [10, 11, *INDEX.tolist()]


def test_draws_repeat_for_the_same_step_and_change_with_it():
    def loss(step: int) -> float:
        objective = build(num_negatives=3)
        fill(objective)
        objective.step.fill_(step)
        return objective(clips(B, 1), clips(B, 2), INDEX)["mm"].item()

    assert loss(0) == loss(0)
    assert loss(0) != loss(1)


def test_per_query_draws_use_as_many_rows_as_asked():
    losses = []
    for count, negatives in ((3, "per_query"), (N, "per_query"), (N, "shared")):
        objective = build(num_negatives=count, negatives=negatives)
        fill(objective)
        losses.append(objective(clips(B, 1), clips(B, 2), INDEX)["mm"].item())
    few, all_rows, shared = losses
    assert few < shared
    assert all_rows == pytest.approx(shared, rel=1e-9)


@pytest.mark.parametrize("bank", ["sample", "fifo"])
def test_the_whole_data_set_is_compared_with_where_no_number_is_given(bank: str):
    losses = []
    for count in (None, N, 3):
        objective = build(motion_bank=bank, num_negatives=count)
        fill(objective)
        objective.set_clusters(CLUSTERS)
        losses.append({name: part.item() for name, part in objective(clips(B, 1), clips(B, 2), INDEX, 2).items()})
    everything, counted, few = losses
    assert everything == counted
    assert few["mv"] < everything["mv"]
    assert len(build(motion_bank=bank, num_negatives=None).bank) == N


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_large_bank_goes_through_the_heads_in_blocks_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch, batch_norm: bool
):
    found = []
    for block in (N, 2):
        monkeypatch.setattr(objective_module, "PROJECTED_AT_ONCE", block)
        objective = build(num_negatives=None, head_batch_norm=batch_norm)
        fill(objective)
        objective.model.video_head.train()
        loss = objective(clips(B, 1), clips(B, 2), INDEX, 2)["loss"]
        loss.backward()
        found.append((loss.detach(), *(p.grad for p in objective.model.parameters() if p.grad is not None)))
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole)


def test_samples_without_video_are_neither_queries_nor_negatives():
    objective = build(text=False)
    video = objective.video.features.clone()
    video[[0, 5, 6]] = 0
    teachers = TeacherFeatures(video=video.float())
    partial = Objective(objective.model, N, teachers).double().eval()
    fill(partial)
    rows = torch.tensor([i for i in range(N) if i not in (0, 5, 6)])
    seen = torch.tensor([1, 3])
    parts = partial(clips(B, 1), clips(B, 2), INDEX)
    embedded = partial.model.embed_video(video.double())
    q = partial.model.embed_motion(clips(B, 1))[seen]
    clusters = torch.full((N,), -1)
    value = expected(q, embedded[INDEX[seen]], embedded[rows], INDEX[seen], rows, clusters, instance=True)
    torch.testing.assert_close(parts["mv"].double(), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("noise", ["not_negative", "no_loss"])
def test_noise_points_can_be_left_out(noise: str):
    objective, default = build(noise=noise), build()
    for o in (objective, default):
        fill(o)
        o.set_clusters(CLUSTERS)
    arguments = (clips(B, 1), clips(B, 2), INDEX)
    assert objective(*arguments)["mm"].item() != default(*arguments)["mm"].item()
    # While nothing is clustered every sample is "noise" and none may vanish.
    objective.set_clusters(None)
    default.set_clusters(None)
    torch.testing.assert_close(objective(*arguments)["mm"], default(*arguments)["mm"])


def test_labels_as_clusters_of_stage_2():
    objective, motion = build(stage2_clusters="labels"), build()
    for o in (objective, motion):
        fill(o)
    arguments = (clips(B, 1), clips(B, 2), INDEX)
    torch.testing.assert_close(objective(*arguments, stage=1)["mm"], motion(*arguments, stage=1)["mm"])
    motion.set_clusters(torch.arange(N) % 2)
    for o in (objective, motion):
        fill(o)
        o.step.zero_()
    torch.testing.assert_close(objective(*arguments, stage=2)["mm"], motion(*arguments, stage=2)["mm"])


def test_symmetric_averages_both_directions():
    one_way, both = build(text=False), build(text=False, symmetric=True)
    for o in (one_way, both):
        fill(o)
    arguments = (clips(B, 1), clips(B, 2), INDEX)
    a, b = one_way(*arguments)["mv"], both(*arguments)["mv"]
    q, v = both.model.embed_motion(clips(B, 1)), both.model.embed_video(both.video.features.double()[INDEX])
    rows, clusters = torch.arange(N), torch.full((N,), -1)
    back = expected(v, q, build_bank_rows(both), INDEX, rows, clusters, instance=True)
    torch.testing.assert_close(b.double(), (a.double() + back) / 2, rtol=1e-5, atol=1e-6)


def test_negative_gradient_off_keeps_the_gradient_of_the_own_text():
    on, off = build(video=False), build(video=False, negative_gradient=False)
    for o in (on, off):
        fill(o)
        o(clips(B, 1), clips(B, 2), INDEX, stage=2)["mt"].backward()
    a, b = (o.model.text_head.mlp[0].weight.grad for o in (on, off))
    assert b.abs().sum() > 0
    assert not torch.allclose(a, b)


def test_impossible_combinations_are_refused():
    with pytest.raises(ValueError, match="per_loss_heads"):
        build(symmetric=True, per_loss_heads=True)
    with pytest.raises(ValueError, match="head_layers"):
        build(head_layers=0)
    with pytest.raises(ValueError, match="come together"):
        TeacherFeatures(text=torch.zeros(1, 2))


def test_state_survives_a_round_trip():
    objective = build()
    fill(objective)
    objective.set_clusters(CLUSTERS)
    objective.eps = 0.25
    other = build()
    other.load_state_dict(objective.state_dict())
    assert other.clustered
    assert other.eps == 0.25
    assert torch.equal(other.clusters, CLUSTERS)
    assert torch.equal(other.bank.rows, objective.bank.rows)
