"""The repository's claim files: they declare what they promise, their peers agree, their checks catch mistakes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tmor_fast.benchmark import Settings
from tmor_fast.benchmark.case import find_claims, load_file
from tmor_fast.ops import dbscan_cuda

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the repository's benchmarks are not beside the tests")


def load(name: str) -> ModuleType:
    return load_file(FOLDER / f"{name}.py")


def settled(module: ModuleType, **options: str) -> Settings:
    return module.CLAIM.settle(Settings(quick=True, options=options))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "batch_norm_relu",
        "dbscan",
        "dependency_attention",
        "infonce",
        "infonce_step",
        "pretraining",
        "temporal_convolution",
        "unik",
    ],
)
def test_every_case_has_ours_a_peer_and_one_headline(name: str, quick: bool, device: str) -> None:
    module = load(name)
    settings = module.CLAIM.settle(Settings(quick=quick, device=device))
    cases = module.CLAIM.cases(settings)
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        roles = [contender.role for contender in case.contenders]
        assert {"ours", "peer"} <= set(roles)
        assert sum(contender.headline for contender in case.contenders) == 1
        assert case.check is not None


def test_only_claims_are_found() -> None:
    assert {"dbscan", "infonce", "infonce_step", "unik"} <= set(find_claims(FOLDER))
    others = {"run", "overview", "real_data", "infonce_data", "float64_errors", "only_reference"}
    assert not others & set(find_claims(FOLDER))


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="it has: isa, sizes"):
        load("dbscan").CLAIM.settle(Settings(options={"size": "3"}))


# ---- DBSCAN


def test_points_are_those_of_the_definition() -> None:
    module = load("dbscan")
    rows = module.points("clusters", 4000)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(rows, load("dbscan").points("clusters", 4000))
    copies = module.points("duplicates", 4000)
    assert len(np.unique(copies, axis=0)) == 3600
    near = module.neighbours(module.points("one cluster", 1000))
    assert near > 900
    assert module.neighbours(module.points("all noise", 1000)) == 1.0
    share = module.neighbours(module.points("four fifths", 1000), sample=1000) / 1000
    assert 0.55 < share < 0.7  # 0.8 squared


@pytest.mark.parametrize("kind", ["clusters", "one cluster", "all noise", "duplicates", "four fifths"])
def test_all_peers_give_the_same_labels(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    module = load("dbscan")
    monkeypatch.setattr(module, "CENTRES", 60)
    n = 900
    outputs = {
        "tmor_fast": module._ours(module.Problem(kind, n), "cpu")(),
        "scikit-learn": module._sklearn(module.Problem(kind, n))(),
    }
    if importlib.util.find_spec("faiss") and importlib.util.find_spec("scipy"):
        outputs["FAISS + SciPy"] = module._faiss(module.Problem(kind, n))()
    facts = module._check(outputs, module.Problem(kind, n), settled(module))
    for name in set(outputs) - {"scikit-learn"}:
        assert facts[name]["labels"] == "equal to scikit-learn's"
        assert "wrong" not in facts[name]
    assert facts[""]["clusters"] == int(outputs["scikit-learn"]["labels"].max()) + 1


@pytest.mark.parametrize("n", [1, 40])
def test_what_a_gpu_reports_becomes_shares(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The op sees a GPU's result that was made up here, so that the record's fields are seen without one."""
    module, operator = load("dbscan"), importlib.import_module("tmor_fast.ops.dbscan")
    labels, core, status = torch.zeros(n, dtype=torch.int64), torch.ones(n, dtype=torch.bool), [n, 1, 39, 1]
    result = dbscan_cuda.CudaResult(labels, core, torch.tensor(status))
    monkeypatch.setattr(dbscan_cuda, "run", lambda *_, **__: result)
    monkeypatch.setattr(dbscan_cuda, "readable", lambda: True)
    monkeypatch.setattr(operator.registry, "choose", lambda *_: "cuda")
    found = module._ours(module.Problem("clusters", n), "cpu")()
    assert float(found["compared"]) == (1.0 if n > 1 else 0.0)
    assert float(found["rechecked"]) == pytest.approx(39 / 780 if n > 1 else 39.0)


def test_wrong_labels_are_found_with_and_without_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("dbscan")
    monkeypatch.setattr(module, "CENTRES", 20)
    right = module._ours(module.Problem("clusters", 500), "cpu")()
    wrong = {"labels": right["labels"].clone(), "core": right["core"]}
    wrong["labels"][int(right["core"].nonzero()[0])] = -1
    settings = settled(module)
    facts = module._check({"tmor_fast": wrong}, module.Problem("clusters", 500), settings)
    assert "core point but labelled noise" in facts["tmor_fast"]["wrong"]
    facts = module._check({"tmor_fast": wrong, "scikit-learn": right}, module.Problem("clusters", 500), settings)
    assert facts["tmor_fast"]["labels"] == "differ in 1"
    assert "wrong" in facts["tmor_fast"]
    # A peer that is wrong does not make ours wrong.
    facts = module._check({"tmor_fast": right, "scikit-learn": wrong}, module.Problem("clusters", 500), settings)
    assert facts["tmor_fast"]["labels"] == "differ in 1"
    assert facts["tmor_fast"]["definition"] == "verified"
    assert "wrong" not in facts["tmor_fast"]


def test_a_sample_is_checked_where_all_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("dbscan")
    monkeypatch.setattr(module, "CENTRES", 20)
    right = module._ours(module.Problem("clusters", 500), "cpu")()
    settings = settled(module, verify_limit="499")

    def fact(**changed: Any) -> dict[str, Any]:
        return module._check({"tmor_fast": {**right, **changed}}, module.Problem("clusters", 500), settings)[
            "tmor_fast"
        ]

    monkeypatch.setattr(module, "SAMPLED", 500)
    assert fact()["definition"] == "a sample of 500 points agrees with the definition"
    labels, core = right["labels"], right["core"]
    inner = int(core.nonzero()[0])
    at = torch.arange(500) == inner
    assert fact(core=core ^ at)["wrong"] == "wrong: a core point of the sample"
    assert fact(labels=labels.masked_fill(at, -1))["wrong"] == "wrong: a label of the sample"
    # A cluster cut in two: its second half gets a number of its own.
    members = (labels == labels[inner]).nonzero().squeeze(1)
    cut = labels.clone()
    cut[members[len(members) // 2 :]] = int(labels.max()) + 1
    assert "wrong" in fact(labels=cut)


def test_a_peer_that_would_not_fit_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("dbscan")
    monkeypatch.setattr(module, "available_memory", lambda: 1000 * 1000 * 10)
    assert module._refuses("torch", module.Problem("all noise", 1000), 10**6, 10.0) is None
    assert "keeps all neighbours" in str(module._refuses("torch", module.Problem("one cluster", 1000), 10**6, 10.0))
    assert "left out above 500 points" in str(module._refuses("torch", module.Problem("all noise", 1000), 500, 10.0))
    assert (
        module._refuses("no_such_library", module.Problem("all noise", 10), 500, 10.0)
        == "no_such_library is not installed"
    )


def test_instruction_sets_are_forced_by_their_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("dbscan")
    monkeypatch.setattr(module, "build_config", lambda: {"isa_supported": ["portable", "avx9_bf16"], "backends": {}})
    found = module._our_contenders(module.Problem("clusters", 10), settled(module, isa="all"))
    assert [dict(contender.environment) for contender in found] == [
        {}, {"TMOR_ISA": "portable"}, {"TMOR_ISA": "avx9_bf16"},
    ]  # fmt: skip
    assert [contender.precision for contender in found][1:] == ["fp32", "bf16"]
    assert [contender.headline for contender in found] == [True, False, False]
    (one,) = module._our_contenders(module.Problem("clusters", 10), settled(module, isa="portable"))
    assert one.headline
    with pytest.raises(ValueError, match=r"sse1 cannot run here; accepted: auto, all, portable"):
        module._our_contenders(module.Problem("clusters", 10), settled(module, isa="sse1"))


def test_counting_neighbours_gives_the_core_points(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("dbscan")
    monkeypatch.setattr(module, "CENTRES", 20)
    monkeypatch.setattr(module, "COUNTED_ROWS", 300)
    problem = module.Problem("clusters", 500, 64)
    ours, counted = module._ours(problem, "cpu")(), module._counts(problem, "fp32", "cpu")()
    torch.testing.assert_close(counted["core"], ours["core"])
    facts = module._check({"tmor_fast": ours, "torch": {"core": ~ours["core"]}}, problem, settled(module))
    assert facts["torch"] == {"core points": "differ in 500"}


def test_which_points_are_clustered() -> None:
    module = load("dbscan")

    def names(quick: bool, device: str = "cpu", **options: str) -> list[str]:
        settings = module.CLAIM.settle(Settings(quick=quick, device=device, options=options))
        return [case.name for case in module.CLAIM.cases(settings)]

    assert names(True) == ["10,000 points"]
    assert len(names(False)) == 9
    assert names(False, sizes="500", dimensions="256") == ["500 points, 256 dimensions"]
    assert names(True, hard="all noise", hard_size="700") == ["700 points, all noise"]
    on_gpu = names(False, "cuda")
    assert {"1,000,000 points, 256 dimensions", "1,000,000 points, all noise", "10,000,000 points"} <= set(on_gpu)
    assert names(True, "cuda") == on_gpu[:4]


# ---- InfoNCE


@pytest.mark.parametrize("positives", ["sum", "instance", "supcon"])
def test_ours_and_the_reference_agree_with_float64(positives: str) -> None:
    module = load("infonce")
    settings, keys = settled(module, positives=positives), 700
    outputs = {"tmor_fast, tiled": module._ours(keys, settings, "tiled")(),
               "logits, eager": module._reference(keys, settings, False)()}  # fmt: skip
    facts = module._check(outputs, keys, settings)
    assert all("wrong" not in found and float(found["gradient error"]) < 1e-5 for found in facts.values())
    broken = {**outputs["tmor_fast, tiled"], "gradient": outputs["tmor_fast, tiled"]["gradient"] * 1.01}
    assert "wrong" in module._check({"tmor_fast, tiled": broken}, keys, settings)["tmor_fast, tiled"]
    broken["gradient"] = torch.full_like(broken["gradient"], torch.nan)
    assert "wrong" in module._check({"tmor_fast, tiled": broken}, keys, settings)["tmor_fast, tiled"]


@pytest.mark.parametrize("tile", [0, 300])
def test_the_floor_is_two_products(tile: int) -> None:
    from tmor_fast.benchmark.counting import count

    module = load("infonce")
    call, given = module._products(1000, settled(module), tile), module.data(1000, "cpu")
    torch.testing.assert_close(call()["gradient"], given["query"] @ given["keys"].T @ given["keys"])
    assert count(call)[0] == 4 * module.QUERIES * 1000 * module.WIDTH


def test_a_bank_of_16_bits_is_checked_against_float64() -> None:
    module = load("infonce")
    settings, (queries, keys) = settled(module), (20, 700)
    ours = module._half_bank(queries, keys, settings, "tiled")()
    facts = module._half_check({"tmor_fast, tiled": ours, "two products, in tiles": {}}, queries, keys, settings)
    assert float(facts["tmor_fast, tiled"]["gradient error"]) < 1e-5
    half = module._half_reference(queries, keys, settings, half=True)()
    torch.testing.assert_close(ours["gradient"], half["gradient"], rtol=0.05, atol=0.05 * float(ours["gradient"].max()))
    assert not torch.equal(ours["gradient"], half["gradient"])
    eager = module._half_reference(queries, keys, settings)()
    for name, value in eager.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)
    broken = {**ours, "gradient": ours["gradient"] * 1.1}
    assert "wrong" in module._half_check({"tmor_fast, tiled": broken}, queries, keys, settings)["tmor_fast, tiled"]
    gradient = module._half_products(queries, keys, settings, 300)()["gradient"]
    given = module.data(keys, "cpu", torch.bfloat16, queries)
    exact = given["query"].double() @ given["keys"].double().T @ given["keys"].double()
    torch.testing.assert_close(gradient.double(), exact, rtol=0.05, atol=0.05 * float(exact.abs().max()))
    cases = module.cases(Settings(device="cuda", options=settings.options))
    assert {case.sizes["queries"] for case in cases} >= {64, 1024, 4096}


def test_logits_that_do_not_fit_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("infonce_data")
    monkeypatch.setattr(module, "available_memory", lambda: 1 << 30)
    assert module.too_large(65_536, Settings()) is None
    assert "GiB are available" in module.too_large(1_000_000, Settings())
    assert module.too_large(1_000_000, Settings(device="cuda")) is None


@pytest.mark.parametrize(
    ("library", "function"), [("pytorch_metric_learning", "_metric_learning"), ("lightly", "_lightly")]
)
def test_other_libraries_run_their_losses(library: str, function: str) -> None:
    pytest.importorskip(library)
    module = load("infonce")
    output = getattr(module, function)(600, settled(module))()
    assert torch.isfinite(output["gradient"]).all()
    assert output["gradient"].abs().max() > 0


# ---- One T-MOR step


@pytest.mark.parametrize("form", ["_step", "_objective"])
def test_a_step_has_the_losses_and_gradients_of_the_reference(form: str) -> None:
    module = load("infonce_step")
    settings, call = settled(module), getattr(module, form)
    size = module.Step(700) if form == "_step" else 700
    outputs = {
        "tmor_fast, tiled": call(size, settings, "tiled")(), "logits, eager": call(size, settings, "reference")()
    }  # fmt: skip
    assert all(bool(value.any()) for value in outputs["logits, eager"].values())
    facts = module._step_check(outputs)
    assert all("wrong" not in found and float(found["from eager"]) < 1e-4 for found in facts.values())
    broken = {**outputs["tmor_fast, tiled"], "gradient": outputs["tmor_fast, tiled"]["gradient"] * 1.01}
    facts = module._step_check({**outputs, "tmor_fast, tiled": broken})
    assert "wrong" in facts["tmor_fast, tiled"]
    assert "wrong" not in facts["logits, eager"]


def test_which_forms_of_a_step_are_measured() -> None:
    module = load("infonce_step")

    def kinds(quick: bool = False, **options: str) -> list[Any]:
        settings = module.CLAIM.settle(Settings(quick=quick, options=options))
        return [case.sizes["kind"] for case in module.CLAIM.cases(settings)]

    assert kinds() == ["mm + mv + mt", "objective"]
    assert kinds(quick=True) == kinds(work="losses") == ["mm + mv + mt"]
    assert kinds(quick=True, work="objective") == ["objective"]
    with pytest.raises(ValueError, match="accepted: losses, objective"):
        kinds(work="sleep")


# ---- Dependency attention


@pytest.mark.parametrize("work", ["forward", "gradients"])
def test_the_unit_and_its_peers_agree_with_float64(monkeypatch: pytest.MonkeyPatch, work: str) -> None:
    module = load("dependency_attention")
    monkeypatch.setattr(module, "FRAMES", 6)
    settings = settled(module)
    outputs = {
        "tmor_fast": module._ours(8, work, settings)(),
        "reference, eager": module._ours(8, work, settings, "reference")(),
        "released, eager": module._peer(8, work, settings, False)(),
    }
    facts = module._check(outputs, 8, work, settings)
    assert all("wrong" not in found and len(found) == len(outputs["tmor_fast"]) for found in facts.values()), facts
    name = "z" if work == "forward" else "dependency"
    broken = {**outputs["tmor_fast"], name: outputs["tmor_fast"][name] * 1.01}
    found = module._check({"tmor_fast": broken}, 8, work, settings)
    assert found["tmor_fast"]["wrong"] == f"{name} against float64"


def test_operations_and_bytes_are_those_of_the_equation() -> None:
    module = load("dependency_attention")
    # 64 clips of 150 frames and 17 joints: x twice and z once, two bytes each.
    flops, moved = module._amounts(64, "forward", Settings(device="cuda"))
    rows = 64 * 150 * 17
    assert moved == 3 * 2 * rows * 64
    assert flops == 2 * rows * (64 * 96 + 17 * 48 + 17 * 3 * 64 + 3 * 64 * 64)


# ---- Pre-training


def test_a_step_of_pretraining_is_that_of_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("pretraining")
    monkeypatch.setattr(module, "QUICK", ("unik-micro", 8, 40, 6))
    settings = settled(module)
    call = module._step(settings, False)
    outputs = {"tmor_fast": call(), "reference equations": module._step(settings, False, "reference")()}
    for name, value in call().items():
        torch.testing.assert_close(value, outputs["tmor_fast"][name])  # every call is the same step
    outputs["encoder alone"] = module._step(settings, False, "encoder")()
    facts = module._check(outputs)
    assert set(facts) == {"tmor_fast", "reference equations"}
    assert "wrong" not in facts["tmor_fast"]
    outputs["tmor_fast"] = {**outputs["tmor_fast"], "mm": outputs["tmor_fast"]["mm"] * 1.01}
    assert "wrong" in module._check(outputs)["tmor_fast"]


# ---- UNIK


@pytest.fixture
def small_unik(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    from tmor_fast.nn import UNIKConfig

    module = load("unik")
    config = UNIKConfig(joints=5, widths=(8, 8, 12), strides=(1, 1, 2), persons=1, num_classes=4)
    monkeypatch.setattr(module, "_config", lambda settings: config)
    monkeypatch.setattr(module, "FRAMES", 12)
    monkeypatch.setattr(module, "CLASSES", 4)
    return module


@pytest.mark.parametrize("work", ["inference", "training"])
def test_both_forms_compute_the_same(small_unik: ModuleType, work: str) -> None:
    settings = settled(small_unik)
    setup = small_unik._training if work == "training" else small_unik._inference
    outputs: dict[str, Any] = {}
    for name, released, form in (
        ("tmor_fast", False, ""), ("released, eager", True, ""), ("released, channels-last", True, "channels-last"),
        ("released, bf16", True, "bf16"),
    ):  # fmt: skip
        call = setup(3, released, form, settings)
        call()
        outputs[name] = {
            key: value.clone() for key, value in call().items()
        }  # a second step starts from the same weights
    facts = small_unik._check(outputs, work, 3, settings)
    assert all("wrong" not in found for found in facts.values()), facts
    key = "loss" if work == "training" else "scores"
    outputs["tmor_fast"][key] = outputs["tmor_fast"][key] * 1.01
    assert small_unik._check(outputs, work, 3, settings)["tmor_fast"]["wrong"] == f"{key} against float64"


def test_unknown_work_is_refused() -> None:
    module = load("unik")
    with pytest.raises(ValueError, match="accepted: inference, training"):
        module.CLAIM.cases(settled(module, work="sleep"))
