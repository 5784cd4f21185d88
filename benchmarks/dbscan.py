"""DBSCAN on unit vectors against scikit-learn and FAISS: time, memory and labels, ten thousand points to a million.

    python benchmarks/run.py dbscan [--quick] [--set dbscan.isa=auto,avx2] [--set dbscan.peer_limit=300000]

Data, seed 0: 800 centres drawn on the sphere in 128 dimensions; a point is its centre plus Gaussian noise of total norm
about 0.3 (0.3 / sqrt(128) a coordinate), 2 % of the points lie uniformly on the sphere, all are scaled to length 1.
eps 0.5, min_samples 5. Hard cases at 50,000 points: one giant cluster, all noise, 10 % exact duplicates, four of five
points in one cluster. Ours must give scikit-learn's labels; where that does not fit into time or memory, the labels are
verified by their definition, those of a sample of points beyond 100,000.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tmor_fast.benchmark import Call, Case, Claim, Contender, Floor, Settings
from tmor_fast.benchmark.machine import available_memory
from tmor_fast.build import build_config, extension

DIMENSIONS, CENTRES, SPREAD, STRAY = 128, 800, 0.3, 0.02
EPS, MIN_SAMPLES = 0.5, 5
SWEEP = (10_000, 30_000, 100_000, 300_000, 1_000_000)
QUICK, QUICK_CUDA = (10_000,), (10_000, 100_000, 1_000_000)
FORCED_SIZE = 100_000  # most points for instruction sets beside the first
HARD, HARD_SIZE = ("one cluster", "all noise", "duplicates", "four fifths"), 50_000
SAMPLED = 300  # points whose labels are checked where all of them would take too long
MEMORY_SHARE = 0.7  # of what is available, that a peer may be expected to take


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@functools.lru_cache(maxsize=1)
def points(kind: str, n: int) -> np.ndarray:
    """The data set: (n, 128) float32 rows of length 1. `kind` is "clusters" or one of `HARD`."""
    random = np.random.default_rng(0)
    centres = _unit(random.standard_normal((1 if kind == "one cluster" else CENTRES, DIMENSIONS)))
    centre = random.integers(len(centres), size=n)
    if kind == "four fifths":
        centre[random.random(n) < 0.8] = 0
    stray = random.random(n) < (1.0 if kind == "all noise" else STRAY)
    rows = np.empty((n, DIMENSIONS), np.float32)
    for first in range(0, n, 50_000):
        part = slice(first, min(first + 50_000, n))
        noise = random.standard_normal((part.stop - first, DIMENSIONS))
        around = centres[centre[part]] + noise * (SPREAD / DIMENSIONS**0.5)
        rows[part] = _unit(np.where(stray[part, None], noise, around))
    if kind == "duplicates":
        copies = random.permutation(n)[: n // 10]
        rows[copies] = rows[random.permutation(np.setdiff1d(np.arange(n), copies))[: n // 10]]
    return rows


def neighbours(rows: np.ndarray, sample: int = 200) -> float:
    """Mean number of neighbours of a point, from `sample` of them."""
    chosen = rows[np.random.default_rng(1).integers(len(rows), size=sample)]
    near = sum(
        int((chosen @ rows[first : first + 50_000].T >= 1 - EPS**2 / 2).sum()) for first in range(0, len(rows), 50_000)
    )
    return near / sample


def _refuses(library: str, kind: str, n: int, limit: int, bytes_each: float) -> str | None:
    """Why a peer that keeps all neighbours cannot run: missing, over the limit, or out of memory."""
    if importlib.util.find_spec(library) is None:
        return f"{library} is not installed"
    if n > limit:
        return f"left out above {limit:,} points (--set dbscan.peer_limit=N)"
    needed, free = n * neighbours(points(kind, n)) * bytes_each, available_memory()
    if free is not None and needed > MEMORY_SHARE * free:
        return f"keeps all neighbours: needs about {needed / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are available"
    return None


def _ours(kind: str, n: int, device: str) -> Call:
    import torch

    from tmor_fast.ops import dbscan

    rows = torch.from_numpy(points(kind, n)).to(device)

    def call() -> dict[str, Any]:
        done: dict[str, Any] = {}
        labels, core = dbscan(rows, EPS, MIN_SAMPLES, stats=done)
        shares = {
            name: torch.tensor(done[name] / done["pairs"], dtype=torch.float64)
            for name in ("compared", "rechecked")
            if name in done
        }
        return {"labels": labels, "core": core, **shares}

    return call


def _sklearn(kind: str, n: int) -> Call:
    import torch
    from sklearn.cluster import DBSCAN

    rows = points(kind, n)

    def call() -> dict[str, Any]:
        fitted = DBSCAN(eps=EPS, min_samples=MIN_SAMPLES, n_jobs=-1).fit(rows)
        return {"labels": torch.from_numpy(fitted.labels_.astype(np.int64))}

    return call


def _faiss(kind: str, n: int) -> Call:
    """Neighbours by FAISS's exact range search, components by SciPy: how DBSCAN is built on FAISS."""
    import faiss
    import torch
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = points(kind, n)
    radius = float(np.nextafter(np.float32(EPS**2), np.float32(np.inf)))

    def call() -> dict[str, Any]:
        index = faiss.IndexFlatL2(DIMENSIONS)
        index.add(rows)
        counts, sources, targets = np.zeros(n, np.int64), [], []
        for first in range(0, n, 8192):
            limits, _, found = index.range_search(rows[first : first + 8192], radius)
            amount = np.diff(limits.astype(np.int64))
            counts[first : first + 8192] = amount
            source = np.repeat(np.arange(first, first + len(amount), dtype=np.int32), amount)
            sources.append(source)
            targets.append(found.astype(np.int32))
        source, target, core = np.concatenate(sources), np.concatenate(targets), counts >= MIN_SAMPLES
        joined = core[source] & core[target]
        edges = coo_array((np.ones(joined.sum(), bool), (source[joined], target[joined])), shape=(n, n))
        component = connected_components(edges, directed=False)[1]
        labels = np.full(n, n, np.int64)
        _, numbers = np.unique(component[core], return_inverse=True)
        first_seen = np.unique(numbers, return_index=True)[1]
        labels[core] = np.argsort(np.argsort(first_seen))[numbers]
        reaches = core[target] & ~core[source]
        np.minimum.at(labels, source[reaches], labels[target[reaches]])
        return {"labels": torch.from_numpy(np.where(labels == n, -1, labels))}

    return call


def _cuml(kind: str, n: int) -> Call:
    import cupy
    import torch
    from cuml.cluster import DBSCAN

    rows = cupy.asarray(points(kind, n))

    def call() -> dict[str, Any]:
        fitted = DBSCAN(eps=EPS, min_samples=MIN_SAMPLES).fit(rows)
        return {"labels": torch.from_dlpack(cupy.asarray(fitted.labels_).astype(cupy.int64))}

    return call


def _precision(isa: str, device: str) -> str:
    """In what the tiles of products are computed, by the name of the instruction set."""
    if device == "cuda" or "bf16" in isa:
        return "bf16"
    return "int8" if "vnni" in isa or "int8" in isa else "fp32"


def _isas(asked: str) -> list[str]:
    """The instruction sets to measure, "" the one that is chosen without asking, which is the first if it is there."""
    supported: list[str] = build_config()["isa_supported"]
    if asked == "all":
        return ["", *supported]
    names = ["" if name == "auto" else name for name in asked.split(",")]
    unknown = [name for name in names if name and name not in supported]
    if unknown:
        raise ValueError(
            f"dbscan.isa: {', '.join(unknown)} cannot run here; accepted: auto, all, {', '.join(supported)}"
        )
    return names


def _no_kernel(n: int, device: str) -> str | None:
    """On a GPU without its kernel the float64 reference would run for hours."""
    if device == "cuda" and "cuda" not in build_config()["backends"]["dbscan"] and n > 20_000:
        return "this build has no CUDA kernel of dbscan, and the reference takes too long"
    return None


def _our_contenders(kind: str, n: int, settings: Settings) -> list[Contender]:
    products = float(n) * (n - 1) * DIMENSIONS
    contenders = []
    for isa in _isas(settings.options["isa"]) if settings.device == "cpu" else [""]:
        if contenders and n > FORCED_SIZE:
            continue
        module = extension()
        used = isa or (module.select_isa("") if module is not None else "")
        contenders.append(
            Contender(
                f"tmor_fast, {isa}" if isa else "tmor_fast",
                "ours",
                lambda: _ours(kind, n, settings.device),
                flops=products,
                bytes=n * (4.0 * DIMENSIONS + 9),
                precision=_precision(used, settings.device),
                environment={"TMOR_ISA": isa} if isa else {},
                unavailable=lambda: _no_kernel(n, settings.device),
                headline=not contenders,
                note="operations: half of the matrix, of which tiles that can change nothing are skipped; "
                "bytes: points read once, labels written once",
            )
        )
    return contenders


def _contenders(kind: str, n: int, settings: Settings) -> list[Contender]:
    limit, whole = int(settings.options["peer_limit"]), 2.0 * n * n * DIMENSIONS
    wanted = settings.options["peers"].split(",")
    if settings.quick:
        limit = min(limit, QUICK[0])
    peers = [
        Contender(
            "scikit-learn", "peer", lambda: _sklearn(kind, n), flops=whole, precision="fp64",
            unavailable=lambda: _refuses("sklearn", kind, n, limit, 10.0), note="n_jobs=-1, products in float64",
        ),
        Contender(
            "FAISS + SciPy", "peer", lambda: _faiss(kind, n), flops=whole, precision="fp32",
            unavailable=lambda: _refuses("faiss", kind, n, limit, 30.0), note="float32 distances decide neighbours",
        ),
    ]  # fmt: skip
    if settings.device == "cuda":
        cuml = Contender(
            "cuML", "peer", lambda: _cuml(kind, n), flops=whole, precision="fp32",
            unavailable=lambda: None if importlib.util.find_spec("cuml") else "cuml is not installed",
        )  # fmt: skip
        peers = [cuml, *peers]
    if wanted != ["all"]:
        unknown = sorted(set(wanted) - {peer.name for peer in peers})
        if unknown:
            raise ValueError(
                f"dbscan.peers: unknown {', '.join(unknown)}; accepted: all, {', '.join(p.name for p in peers)}"
            )
        peers = [peer for peer in peers if peer.name in wanted]
    return [*_our_contenders(kind, n, settings), *peers]


def _check(outputs: Mapping[str, Any], kind: str, n: int, settings: Settings) -> dict[str, dict[str, Any]]:
    """Labels of all against scikit-learn's; ours verified by the definition where it is absent or differs."""
    facts: dict[str, dict[str, Any]] = {}
    shown = next((value for name, value in outputs.items() if name.startswith("tmor_fast")), None)
    if shown is not None:
        labels = shown["labels"]
        facts[""] = {"clusters": int(labels.max()) + 1, "noise": f"{100 * float((labels < 0).float().mean()):.2f} %"}
    expected = outputs.get("scikit-learn")
    verified: dict[bytes, str] = {}  # equal labels need one verification
    for name, output in outputs.items():
        labels = output["labels"]
        facts[name] = {each: f"{float(output[each]):.2%}" for each in ("compared",) if each in output}
        if "rechecked" in output:
            facts[name]["rechecked"] = f"{float(output['rechecked']):.1e}"
        differing = None if expected is None else int((labels != expected["labels"]).sum())
        if differing is not None and name != "scikit-learn":
            facts[name]["labels"] = f"differ in {differing}" if differing else "equal to scikit-learn's"
        if name.startswith("tmor_fast") and differing != 0:
            key = labels.numpy().tobytes()
            verified[key] = verified.get(key) or _verdict(labels, output["core"], kind, n, settings)
            facts[name]["wrong" if verified[key].startswith("wrong") else "definition"] = verified[key]
    return {name: values for name, values in facts.items() if values}


def _verdict(labels: Any, core: Any, kind: str, n: int, settings: Settings) -> str:
    import torch

    from tmor_fast.cluster import verify

    rows = torch.from_numpy(points(kind, n)).to(settings.device)
    if n > int(settings.options["verify_limit"]):
        return _sampled(rows, labels.to(settings.device), core.to(settings.device))
    verdict = verify(rows, labels.to(settings.device), EPS, MIN_SAMPLES, strict=True)
    return "verified" if verdict else f"wrong: {verdict.reason}"


def _sampled(rows: Any, labels: Any, core: Any) -> str:
    """What can be said of a few points with all their neighbours, in float64; merged clusters would go unseen."""
    import torch

    chosen = torch.from_numpy(np.random.default_rng(2).permutation(len(rows))[:SAMPLED]).to(rows.device)
    for part in chosen.split(50):
        # Chunks bound the memory; the formula of the differences, as the definition has it.
        near = torch.cat(
            [torch.cdist(rows[part].double(), chunk.double(), compute_mode="donot_use_mm_for_euclid_dist") <= EPS
             for chunk in rows.split(50_000)], dim=1,
        )  # fmt: skip
        if not torch.equal(near.sum(1) >= MIN_SAMPLES, core[part]):
            return "wrong: a core point of the sample"
        reached = torch.where(near & core, labels, len(rows))
        smallest = reached.amin(1)
        largest = torch.where(near & core, labels, -1).amax(1)
        if not torch.equal(torch.where(smallest == len(rows), -1, smallest), labels[part]):
            return "wrong: a label of the sample"
        if bool((core[part] & (smallest != largest)).any()):
            return "wrong: neighbouring core points of the sample lie in two clusters"
    return f"a sample of {len(chosen):,} points agrees with the definition"


def _case(kind: str, n: int, settings: Settings) -> Case:
    half = float(n) * (n - 1) * DIMENSIONS
    hard = kind != "clusters"
    return Case(
        f"{n:,} points" + (f", {kind}" if hard else ""),
        {"n": n, "d": DIMENSIONS, **({"kind": kind} if hard else {})},
        _contenders(kind, n, settings),
        check=lambda outputs: _check(outputs, kind, n, settings),
        floors=[Floor(f"half of the matrix, {precision}", half, precision) for precision in ("bf16", "fp32", "int8")],
    )


def cases(settings: Settings) -> Sequence[Case]:
    """The growth sweep, then the hard cases."""
    sizes = [int(size) for size in settings.options["sizes"].split(",") if size]
    asked = [kind for kind in settings.options["hard"].split(",") if kind]
    unknown = sorted(set(asked) - {"all", *HARD})
    if unknown:
        raise ValueError(f"dbscan.hard: unknown {', '.join(unknown)}; accepted: all, {', '.join(HARD)}")
    hard = list(HARD) if "all" in asked or not (sizes or asked or settings.quick) else asked
    default: Sequence[int] = SWEEP
    if settings.quick:
        default = QUICK if settings.device == "cpu" else QUICK_CUDA
    swept = sizes or ([] if asked else default)
    return [_case("clusters", size, settings) for size in swept] + [_case(kind, HARD_SIZE, settings) for kind in hard]


CLAIM = Claim(
    "DBSCAN: exact, in high dimension, without a neighbour list",
    cases,
    options={
        "isa": ("auto", "instruction sets of ours: auto, names as in TMOR_ISA, comma-separated, or all"),
        "sizes": ("", "points, comma-separated, in place of the sweep and the hard cases"),
        "hard": ("", f"hard cases in place of the sweep: all, or of {', '.join(HARD)}"),
        "peers": ("all", "peers by name, comma-separated"),
        "peer_limit": ("100000", "most points given to scikit-learn and FAISS"),
        "verify_limit": ("100000", "most points whose labels are all verified by definition where no peer has them"),
    },
    sweep="n",
)
