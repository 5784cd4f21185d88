"""The objective, losses, banks, clustering and training modules on a pretended CUDA device give what a CPU gives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tmor_fast.cluster import DBSCAN, epsilon_degree, k_distance, suggest_eps, verify
from tmor_fast.data.clip_batches import AugmentationConfig, ClipBatches
from tmor_fast.data.packed import PackedClips
from tmor_fast.nn import checkpoint
from tmor_fast.nn.banks import FeatureBank, FIFOQueue, SampleBank
from tmor_fast.nn.clip_loss import ClipLoss
from tmor_fast.nn.contrastive import InfoNCELoss, NTXentLoss, SupConLoss
from tmor_fast.nn.objective import Objective, TeacherFeatures
from tmor_fast.nn.options import TMOROptions
from tmor_fast.nn.sharded_bank import ShardedBank
from tmor_fast.nn.tmor import TMOR
from tmor_fast.nn.unik import UNIK
from tmor_fast.nn.unik_config import UNIKConfig
from tmor_fast.ops.cluster_infonce import pair_counts
from tmor_fast.teachers import PrecomputedTeacher
from tmor_fast.training.clustering import cluster_embeddings
from tmor_fast.training.config import FinetuneConfig, OptimiserConfig, PretrainConfig, ProbeConfig
from tmor_fast.training.finetune import ClassifierModule, class_scores, labelled_split
from tmor_fast.training.optimiser import build_optimiser
from tmor_fast.training.pretrain import PretrainModule
from tmor_fast.training.probe import ProbeModule
from tmor_fast.training.recording import record_clustering, top_predictions
from tmor_fast.training.run_record import fingerprint
from tmor_fast.training.run_state import random_states, set_random_states
from tmor_fast.training.zero_shot import zero_shot

N, B = 16, 6
TINY = UNIKConfig.preset("unik-tiny", widths=(8, 16), strides=(1, 2), persons=1)
CLUSTERS = torch.tensor([0, 0, 0, 1, 1, -1, -1, 1, 0, 2, 2, -1, 2, 0, 1, 0])
INDEX = torch.tensor([0, 3, 5, 9, 4, 12])
HERE = torch.device("cpu")


def same(there: Tensor, here: Tensor, device: torch.device, **tolerance: float) -> None:
    """Assert that `there` is on the device and has the values of `here`."""
    assert there.device == device
    torch.testing.assert_close(there.detach().cpu(), here.detach(), **tolerance)


def rows(count: int, dim: int, seed: int) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def clips(seed: int, count: int = B) -> Tensor:
    return rows(count, 2 * 8 * 17, seed).view(count, 2, 8, 17, 1)


def build(**options: Any) -> Objective:
    """An objective with both teachers; sample 5 has no video, sample 4 no text."""
    torch.manual_seed(0)
    video, text_id = rows(N, 6, 1), torch.arange(N) % 3
    video[5], text_id[4] = 0, -1
    teachers = TeacherFeatures(video, rows(3, 5, 2), text_id)
    settings = {"embedding_dim": 8, "head_hidden": 16, **options}
    model = TMOR(TINY, TMOROptions(**settings), video_dim=6, text_dim=5)
    return Objective(model, N, teachers, labels=torch.arange(N) % 2, seed=3)


def step(objective: Objective, place: torch.device, stage: int) -> dict[str, Tensor]:
    """One optimiser step; the losses and what it left behind."""
    optimiser = torch.optim.SGD(objective.model.parameters(), 0.05, momentum=0.9)
    parts = objective(clips(1).to(place), clips(2).to(place), INDEX.to(place), stage=stage)
    parts["loss"].backward()
    optimiser.step()
    objective.after_step()
    return {**parts, **{name: v for name, v in objective.state_dict().items() if isinstance(v, Tensor)}}


OPTIONS: list[dict[str, Any]] = [
    {}, {"max_positives": None}, {"max_positives": 0}, {"motion_bank": "fifo", "num_negatives": 12},
    {"motion_bank": "fifo", "noise": "not_negative"}, {"num_negatives": 7},
    {"negatives": "per_query", "num_negatives": 7},
    {"symmetric": True, "cross_positives": "cluster"}, {"noise": "not_negative"}, {"noise": "no_loss"},
    {"negative_gradient": False}, {"learn_temperature": True}, {"stage2_clusters": "labels"}, {"momentum": 0.0},
    {"per_loss_heads": True, "head_batch_norm": True}, {"positives": "supcon", "denominator": "negatives"},
    {"text_negatives": "cluster", "bank_dtype": "bfloat16", "positives": "mean"},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_objective_takes_the_same_step(options: dict[str, Any], device: torch.device):
    here = build(**options)
    here.bank.update(torch.arange(N - 2), rows(N - 2, 8, 7))
    here.set_clusters(CLUSTERS)
    there = copy.deepcopy(here).to(device)
    # Stage 2 does what stage 1 does, and more.
    for stage in (2,) if options else (1, 2):
        expected, found = step(here, HERE, stage), step(there, device, stage)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            torch.testing.assert_close(
                value.detach().cpu().float(), expected[name].detach().float(), rtol=5e-3, atol=5e-3, msg=name
            )
            assert value.device == device, name
    assert {"loss", "mm", "mv", "mt"} <= found.keys()
    there.set_clusters(None)
    assert int(there.clusters.max()) == -1


def losses() -> dict[str, tuple[nn.Module, Callable[[nn.Module, Callable[[Tensor], Tensor]], Tensor]]]:
    labels = torch.tensor([-1, 0, 0, 2, 2, 1])
    a, b, bank = rows(B, 8, 1), rows(B, 8, 2), rows(20, 8, 3)
    ids = torch.arange(B)
    bank_ids = torch.arange(20)
    unit = nn.functional.normalize
    return {
        "info_nce": (InfoNCELoss(), lambda loss, to: loss(to(a), to(b))),
        "queue": (InfoNCELoss(), lambda loss, to: loss(to(a), to(b), to(bank).half())),
        "queue_ids": (
            InfoNCELoss(learn_temperature=True),
            lambda loss, to: loss(to(a), to(b), to(bank), to(ids), to(bank_ids)),
        ),
        "nt_xent": (NTXentLoss(learn_temperature=True), lambda loss, to: loss(to(a), to(b))),
        "sup_con": (SupConLoss(), lambda loss, to: loss(to(a), to(labels))),
        "views": (SupConLoss(), lambda loss, to: loss(to(bank).view(10, 2, 8))),
        "memory": (SupConLoss(), lambda loss, to: loss(to(a), to(labels), to(bank), to(bank_ids % 4))),
        "clip": (ClipLoss(), lambda loss, to: loss(unit(to(a)), unit(to(b)), to(torch.tensor(10.0)))),
        "clip_number": (ClipLoss(), lambda loss, to: loss(unit(to(a)), unit(to(b)), 10.0)),
        # open_clip's scale may be left on the CPU.
        "clip_scale": (ClipLoss(), lambda loss, to: loss(unit(to(a)), unit(to(b)), torch.tensor(10.0))),
    }


@pytest.mark.parametrize("name", list(losses()))
def test_losses_and_their_gradients(name: str, device: torch.device):
    module, call = losses()[name]
    found: dict[torch.device, tuple[Tensor, list[Tensor]]] = {}
    for place in (HERE, device):
        given: list[Tensor] = []

        def to(value: Tensor, place: torch.device = place, given: list[Tensor] = given) -> Tensor:
            moved = value.clone().to(place)
            if moved.is_floating_point():
                given.append(moved.requires_grad_())
            return moved

        loss = call(copy.deepcopy(module).to(place), to)
        loss.backward()
        found[place] = loss, [value.grad for value in given if value.grad is not None]
    same(found[device][0], found[HERE][0], device, rtol=1e-4, atol=1e-5)
    assert len(found[device][1]) == len(found[HERE][1]) > 0
    for there, here in zip(found[device][1], found[HERE][1], strict=True):
        same(there, here, device, rtol=1e-3, atol=1e-5)


def test_pairs_are_counted(device: torch.device):
    named = {
        "query_id": INDEX, "key_id": torch.arange(N), "query_cluster": CLUSTERS[INDEX], "key_cluster": CLUSTERS,
        "query_caption": INDEX % 3, "key_caption": torch.arange(N) % 3,
    }  # fmt: skip
    expected = pair_counts(**named)
    for there, here in zip(pair_counts(**{k: v.to(device) for k, v in named.items()}), expected, strict=True):
        same(there, here, device)


@pytest.mark.parametrize("check", [True, False])
def test_banks(check: bool, device: torch.device):
    index, keys = torch.tensor([3, 1, 3]), rows(3, 4, 1)
    banks: dict[str, Callable[[], Any]] = {
        "sample": lambda: SampleBank(8, 4), "queue": lambda: FIFOQueue(4, 4), "sharded": lambda: ShardedBank(8, 4),
    }  # fmt: skip
    for name, make in banks.items():
        here, there = make(), make().to(device)
        for given in (index, index.to(device)):
            here.update(index, keys, check=check)
            there.update(given, keys.to(given.device), check=check)
        for key, value in there.state_dict().items():
            if isinstance(value, Tensor):
                same(value, here.state_dict()[key], device)
        if name == "sample":
            assert there.num_filled() == here.num_filled() == 2
        if name == "queue":
            for value, expected in zip(there.entries(), here.entries(), strict=True):
                same(value, expected, device)
    here, there = SampleBank(8, 4), SampleBank(8, 4).to(device)
    for bank in (here, there):
        bank.update(torch.tensor([1, 4, 6, 2]), rows(4, 4, 2))
    same(there.gather(torch.tensor([4, 1]), check=check), here.gather(torch.tensor([4, 1])), device)
    for generator in (torch.Generator().manual_seed(0), torch.Generator(device).manual_seed(0)):
        drawn = there.sample(3, generator)
        assert drawn.device == device
        assert set(drawn.tolist()) <= {1, 2, 4, 6}
    with pytest.raises(ValueError, match="never written"):
        there.gather(torch.tensor([0]))
    with pytest.raises(ValueError, match="not finite"):
        there.update(torch.tensor([0]), torch.full((1, 4), torch.nan))


@pytest.mark.parametrize("block", [None, 3])
def test_features_are_projected_where_the_head_is(block: int | None, device: torch.device):
    torch.manual_seed(0)
    head, features, index = nn.Linear(6, 4), rows(9, 6, 1), torch.tensor([4, 4, 0, 8, 1])
    expected = FeatureBank(features).project(index, head)
    there = copy.deepcopy(head).to(device)
    # The bank may stay on the CPU, where a large one fits.
    for bank in (FeatureBank(features).to(device), FeatureBank(features)):
        for given in (index, index.to(device)):
            found = bank.project(given, there, block=block)
            same(found, expected, device)
            found.sum().backward()
    assert there.weight.grad.device == device


def test_points_are_clustered_on_the_device(device: torch.device):
    draw = torch.Generator().manual_seed(0)
    points = torch.randn(4, 6, generator=draw)[torch.arange(80) % 4] * 4 + torch.randn(80, 6, generator=draw)
    points[:3] += 30
    weight = torch.rand(80, generator=draw).double() * 2
    for metric, eps in (("euclidean", 2.2), ("cosine", 0.08)):
        for given in (None, weight):
            here, there = DBSCAN(eps, 4, metric), DBSCAN(eps, 4, metric)
            here.fit(points, sample_weight=given)
            there.fit(points.to(device), sample_weight=given)
            for name in ("labels_", "core_sample_indices_", "components_"):
                same(getattr(there, name), getattr(here, name), device)
            labels = there.labels_
            assert 0 < int(labels.max()) < 20
            assert verify(points.to(device), labels, eps, 4, metric, sample_weight=given, strict=True)
            assert verify(points.to(device), labels.cpu(), eps, 4, metric, sample_weight=given)
            wrong = labels.clone()
            wrong[labels == 0] = 1
            assert not verify(points.to(device), wrong, eps, 4, metric, sample_weight=given)
        assert suggest_eps(points.to(device), 4, metric) == pytest.approx(suggest_eps(points, 4, metric))
        same(k_distance(points.to(device), 3, metric, sample=20), k_distance(points, 3, metric, sample=20), device)
        same(epsilon_degree(points.to(device), eps, metric), epsilon_degree(points, eps, metric), device)
    found = DBSCAN(2.2, 4, backend="sklearn").fit(points.to(device))
    same(found.labels_, DBSCAN(2.2, 4).fit(points).labels_, device)


@pytest.mark.parametrize("options", [{}, {"eps": 0.08}, {"max_cluster_share": 0.05}], ids=str)
def test_embeddings_are_clustered(options: dict[str, Any], device: torch.device, tmp_path: Path):
    points = rows(4, 6, 1)[torch.arange(80) % 4] * 4 + rows(80, 6, 2)
    expected = cluster_embeddings(points, TMOROptions(**options), None)
    found = cluster_embeddings(points.to(device), TMOROptions(**options), None)
    assert found.eps == pytest.approx(expected.eps)
    assert (found.clusters, found.warning) == (expected.clusters, expected.warning)
    if expected.labels is not None:
        same(found.labels, expected.labels, HERE)
    names = [f"clip {i}" for i in range(80)]
    record_clustering(tmp_path / "clusters.npz", points.to(device), found, names, min_samples=4, epoch=0)
    with np.load(tmp_path / "clusters.npz") as stored:
        assert len(stored["labels"]) == 80


def test_models_move_between_devices_through_files(device: torch.device, tmp_path: Path):
    torch.manual_seed(0)
    model = TMOR(TINY, TMOROptions(embedding_dim=8, learn_temperature=True), video_dim=6, text_dim=5)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    checkpoint.save_model(tmp_path / "model.pt", model.to(device), {"frames": 8})
    for place in (HERE, device):
        for read in (checkpoint.load_model, checkpoint.load_checkpoint):
            loaded, metadata = read(tmp_path / "model.pt", place)
            assert metadata == {"frames": 8}
            for name, value in loaded.state_dict().items():
                same(value, expected[name], place)
    encoder = UNIK(UNIKConfig.preset("unik-micro", persons=1, num_classes=3)).to(device)
    checkpoint.save_classifier(tmp_path / "classifier.pt", encoder)
    loaded, _ = checkpoint.load_classifier(tmp_path / "classifier.pt")
    same(encoder.classifier.weight, loaded.classifier.weight, device)


def test_a_step_goes_on_from_a_file_of_the_device(device: torch.device, tmp_path: Path):
    unbroken = build(learn_temperature=True).to(device)
    config = OptimiserConfig(batch_size=B)
    for place in (device, HERE):
        first = copy.deepcopy(unbroken)
        built = build_optimiser(first.model.parameters(), config, 2)
        optimiser, schedule = built["optimizer"], built["lr_scheduler"]["scheduler"]
        finite_step(first, optimiser, device)
        schedule.step()
        state = {"objective": first.state_dict(), "optimiser": optimiser.state_dict(), "random": random_states()}
        torch.save(state, tmp_path / "run.pt")
        expected = finite_step(first, optimiser, device)
        stored = torch.load(tmp_path / "run.pt", map_location="cpu", weights_only=True)
        second = build(learn_temperature=True).to(place)
        second.load_state_dict(stored["objective"])
        again = build_optimiser(second.model.parameters(), config, 2)["optimizer"]
        again.load_state_dict(stored["optimiser"])
        set_random_states(stored["random"])
        torch.testing.assert_close(finite_step(second, again, place), expected, rtol=1e-3, atol=1e-4)


def finite_step(objective: Objective, optimiser: torch.optim.Optimizer, place: torch.device) -> Tensor:
    """The loss after one more step, on the CPU."""
    seen = [x.to(place) for x in (clips(1), clips(2), INDEX)]
    optimiser.zero_grad()
    objective(*seen, stage=2)["loss"].backward()
    optimiser.step()
    objective.after_step()
    return objective(*seen, stage=2)["loss"].detach().cpu()


@pytest.mark.parametrize("stage", [1, 2])
def test_the_pretraining_module_steps(stage: int, packed3d: PackedClips, device: torch.device):
    options = TMOROptions(embedding_dim=8, warmup_epochs=0, min_samples=2)
    augmentation = AugmentationConfig(frames=8, mirror=0.5, jitter=0.01)
    config = PretrainConfig(options=options, augmentation=augmentation, optimiser=OptimiserConfig(batch_size=B))
    found: dict[torch.device, dict[str, Tensor]] = {}
    for place in (HERE, device):
        torch.manual_seed(0)
        model = TMOR(TINY, options, video_dim=6, text_dim=5)
        teachers = TeacherFeatures(packed3d.embeddings["video"], rows(4, 5, 2), packed3d.label.clone())
        objective = Objective(model, N, teachers, labels=packed3d.label)
        module = PretrainModule(objective, ClipBatches(packed3d, augmentation), config, stage).to(place)
        silence(module)
        module.on_fit_start()
        assert module.batches.packed.device == place
        found[place] = module.training_step(INDEX.to(place), 0)
        found[place]["loss"].backward()
        module.objective.after_step()
        module._cluster()
        assert module.objective.clusters.device == place
    for name, value in found[HERE].items():
        same(found[device][name], value, device, rtol=1e-3, atol=1e-4)


def silence(module: Any) -> None:
    """Stand in for the trainer that a module logs to."""

    class Trainer:
        loggers: tuple[Any, ...] = ()
        global_step = current_epoch = 0
        is_global_zero = True

    module.log_dict = module.log = lambda *arguments, **named: None
    module._trainer, module._fabric = Trainer(), None


def test_transfer_modules_step(packed3d: PackedClips, device: torch.device):
    augmentation = AugmentationConfig(frames=8, mirror=0.5)
    config = FinetuneConfig(protocol="official", augmentation=augmentation, optimiser=OptimiserConfig(batch_size=B))
    found: dict[torch.device, list[Tensor]] = {}
    for place in (HERE, device):
        torch.manual_seed(0)
        encoder = UNIK(UNIKConfig.preset("unik-micro", persons=1, num_classes=4))
        module = ClassifierModule(encoder, ClipBatches(packed3d, augmentation), packed3d.label, torch.arange(N), config)
        module.to(place)
        silence(module)
        module.on_fit_start()
        result = module.training_step(INDEX.to(place), 0)
        result["loss"].backward()
        scores = class_scores(encoder, module.batches, torch.arange(N))
        assert scores.device.type == "cpu"
        probe = ProbeModule(scores, packed3d.label, 4, ProbeConfig()).to(place)
        silence(probe)
        loss = probe.training_step([scores.to(place), packed3d.label.to(place)], 0)
        loss.backward()
        probe.cpu().classifier()
        found[place] = [result["loss"], result["accuracy"], scores, loss]
    for there, here in zip(found[device], found[HERE], strict=True):
        torch.testing.assert_close(there.detach().cpu(), here.detach(), rtol=1e-3, atol=1e-3)


def test_clips_of_the_device_are_split_named_and_recorded(packed3d: PackedClips, device: torch.device):
    there = packed3d.to(device)
    assert fingerprint(there) == fingerprint(packed3d)
    found, expected = (labelled_split(p, "official", 0.5, "stratified", 0) for p in (there, packed3d))
    assert found.train.tolist() == expected.train.tolist()
    scores = rows(N, 4, 1)
    names = list(packed3d.label_names)
    wanted = top_predictions(scores, packed3d.label, packed3d.clip_ids, names)
    assert top_predictions(scores.to(device), there.label, packed3d.clip_ids, names) == wanted


@pytest.mark.parametrize("fusion", ["embedding", "score"])
def test_zero_shot_on_the_device(fusion: str, packed3d: PackedClips, device: torch.device):
    torch.manual_seed(0)
    options = TMOROptions(embedding_dim=8, zero_shot_fusion=fusion, learn_temperature=True)
    model = TMOR(UNIKConfig.preset("unik-micro", persons=1), options, video_dim=6, text_dim=4)
    names = list(packed3d.label_names)
    teacher = PrecomputedTeacher(torch.eye(4), names)
    augmentation = AugmentationConfig(frames=8)
    given: dict[str, Any] = {"augmentation": augmentation, "video": "video", "views": 2}
    expected = zero_shot(model, packed3d, teacher, **given).to_dict()
    moved = copy.deepcopy(model).to(device)
    for packed in (packed3d, packed3d.to(device)):
        assert zero_shot(moved, packed, teacher, **given).to_dict()["reports"] == expected["reports"]
