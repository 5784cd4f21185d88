"""DBSCAN on unit vectors against scikit-learn and FAISS: time, memory and labels, ten thousand points to a million.

    python benchmarks/run.py dbscan [--quick] [--set dbscan.isa=auto,avx2] [--set dbscan.peer_limit=300000]

Data, seed 0: 800 centres drawn on the sphere in 128 dimensions; a point is its centre plus Gaussian noise of total norm
about 0.3 (0.3 / sqrt(128) a coordinate), 2 % of the points lie uniformly on the sphere, all are scaled to length 1.
eps 0.5, min_samples 5. Hard cases at 50,000 points: one giant cluster, all noise, 10 % exact duplicates, four of five
points in one cluster. Ours must give scikit-learn's labels; where that does not fit into time or memory, the labels are
verified by their definition, those of a sample of points beyond 100,000. On a GPU up to ten million points, 256
dimensions and a million points of noise; a peer there is the neighbour count by torch's products, a part of the work.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tmor_fast.benchmark import SECONDS, Call, Case, Claim, Contender, Floor, Settings, asked_seconds
from tmor_fast.benchmark.machine import available_memory
from tmor_fast.build import build_config, extension

DIMENSIONS, CENTRES, SPREAD, STRAY = 128, 800, 0.3, 0.02
EPS, MIN_SAMPLES = 0.5, 5
SWEEP, QUICK = (10_000, 30_000, 100_000, 300_000, 1_000_000), (10_000,)
# Kind, points and dimensions; a quick run on a GPU does the first four.
ON_GPU = (
    ("clusters", 10_000, 128), ("clusters", 100_000, 128), ("clusters", 1_000_000, 128), ("all noise", 1_000_000, 128),
    ("clusters", 1_000_000, 256), ("one cluster", 1_000_000, 128), ("clusters", 10_000_000, 128),
)  # fmt: skip
COUNTED_SIZE, COUNTED_ROWS = 1_000_000, 4096  # most points whose neighbours torch counts on a GPU; rows of one product
FORCED_SIZE = 100_000  # most points for instruction sets beside the first
HARD, HARD_SIZE = ("one cluster", "all noise", "duplicates", "four fifths"), 50_000
SAMPLED = 300  # points whose labels are checked where all of them would take too long
MEMORY_SHARE = 0.7  # of what is available, that a peer may be expected to take


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@functools.lru_cache(maxsize=1)
def points(kind: str, n: int, dimensions: int = DIMENSIONS) -> np.ndarray:
    """The data set: (n, dimensions) float32 rows of length 1. `kind` is "clusters" or one of `HARD`."""
    random = np.random.default_rng(0)
    centres = _unit(random.standard_normal((1 if kind == "one cluster" else CENTRES, dimensions)))
    centre = random.integers(len(centres), size=n)
    if kind == "four fifths":
        centre[random.random(n) < 0.8] = 0
    stray = random.random(n) < (1.0 if kind == "all noise" else STRAY)
    rows = np.empty((n, dimensions), np.float32)
    for first in range(0, n, 50_000):
        part = slice(first, min(first + 50_000, n))
        noise = random.standard_normal((part.stop - first, dimensions))
        around = centres[centre[part]] + noise * (SPREAD / dimensions**0.5)
        rows[part] = _unit(np.where(stray[part, None], noise, around))
    if kind == "duplicates":
        copies = random.permutation(n)[: n // 10]
        rows[copies] = rows[random.permutation(np.setdiff1d(np.arange(n), copies))[: n // 10]]
    return rows


@dataclass(frozen=True)
class Problem:
    """One data set: what it is made of, and how many points in how many dimensions."""

    kind: str
    n: int
    dimensions: int = DIMENSIONS

    @property
    def half(self) -> float:
        """Operations of the products of all pairs, each once."""
        return float(self.n) * (self.n - 1) * self.dimensions

    @property
    def points(self) -> np.ndarray:
        """Its rows."""
        return points(self.kind, self.n, self.dimensions)


def neighbours(rows: np.ndarray, sample: int = 200) -> float:
    """Mean number of neighbours of a point, from `sample` of them."""
    chosen = rows[np.random.default_rng(1).integers(len(rows), size=sample)]
    near = sum(
        int((chosen @ rows[first : first + 50_000].T >= 1 - EPS**2 / 2).sum()) for first in range(0, len(rows), 50_000)
    )
    return near / sample


def _refuses(library: str, problem: Problem, limit: int, bytes_each: float) -> str | None:
    """Why a peer that keeps all neighbours cannot run: missing, over the limit, or out of memory."""
    if importlib.util.find_spec(library) is None:
        return f"{library} is not installed"
    if problem.n > limit:
        return f"left out above {limit:,} points (--set dbscan.peer_limit=N)"
    needed, free = problem.n * neighbours(problem.points) * bytes_each, available_memory()
    if free is not None and needed > MEMORY_SHARE * free:
        return f"keeps all neighbours: needs about {needed / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are available"
    return None


def _ours(problem: Problem, device: str) -> Call:
    import torch

    from tmor_fast.ops import dbscan

    rows = torch.from_numpy(problem.points).to(device)

    def call() -> dict[str, Any]:
        done: dict[str, Any] = {}
        labels, core = dbscan(rows, EPS, MIN_SAMPLES, stats=done)
        shares = {
            name: torch.tensor(done[name] / max(1, done["pairs"]), dtype=torch.float64)
            for name in ("compared", "rechecked")
            if name in done
        }
        return {"labels": labels, "core": core, **shares}

    return call


def _sklearn(problem: Problem) -> Call:
    import torch
    from sklearn.cluster import DBSCAN

    rows = problem.points

    def call() -> dict[str, Any]:
        fitted = DBSCAN(eps=EPS, min_samples=MIN_SAMPLES, n_jobs=-1).fit(rows)
        return {"labels": torch.from_numpy(fitted.labels_.astype(np.int64))}

    return call


def _faiss(problem: Problem) -> Call:
    """Neighbours by FAISS's exact range search, components by SciPy: how DBSCAN is built on FAISS."""
    import faiss
    import torch
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, n = problem.points, problem.n
    radius = float(np.nextafter(np.float32(EPS**2), np.float32(np.inf)))

    def call() -> dict[str, Any]:
        index = faiss.IndexFlatL2(problem.dimensions)
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


def _cuml(problem: Problem) -> Call:
    import cupy
    import torch
    from cuml.cluster import DBSCAN

    rows = cupy.asarray(problem.points)

    def call() -> dict[str, Any]:
        fitted = DBSCAN(eps=EPS, min_samples=MIN_SAMPLES).fit(rows)
        return {"labels": torch.from_dlpack(cupy.asarray(fitted.labels_).astype(cupy.int64))}

    return call


def _counts(problem: Problem, precision: str, device: str) -> Call:
    """Core points by torch: products of a few thousand rows with all, and a threshold. Not what clusters they form."""
    import torch

    rows = torch.from_numpy(problem.points).to(device, torch.bfloat16 if precision == "bf16" else torch.float32)
    # Of rows of length 1: |x - y|^2 = 2 - 2 x y.
    least = 1 - EPS**2 / 2

    def call() -> dict[str, Any]:
        found = [((part @ rows.T) >= least).sum(1) for part in rows.split(COUNTED_ROWS)]
        return {"core": torch.cat(found) >= MIN_SAMPLES}

    return call


def _count_contender(problem: Problem, precision: str) -> Contender:
    return Contender(
        f"torch, neighbours counted in {precision}",
        "peer",
        lambda: _counts(problem, precision, "cuda"),
        flops=2.0 * problem.n**2 * problem.dimensions,
        precision=precision,
        unavailable=lambda: f"left out above {COUNTED_SIZE:,} points" if problem.n > COUNTED_SIZE else None,
        note="core points by chunked products and a threshold; no clusters, no exact decision near eps",
    )


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


def _our_contenders(problem: Problem, settings: Settings) -> list[Contender]:
    n = problem.n
    contenders: list[Contender] = []
    for isa in _isas(settings.options["isa"]) if settings.device == "cpu" else [""]:
        if contenders and n > FORCED_SIZE:
            continue
        module = extension()
        used = isa or (module.select_isa("") if module is not None else "")
        contenders.append(
            Contender(
                f"tmor_fast, {isa}" if isa else "tmor_fast",
                "ours",
                lambda: _ours(problem, settings.device),
                flops=problem.half,
                bytes=n * (4.0 * problem.dimensions + 9),
                precision=_precision(used, settings.device),
                environment={"TMOR_ISA": isa} if isa else {},
                unavailable=lambda: _no_kernel(n, settings.device),
                headline=not contenders,
                note="operations: half of the matrix, of which tiles that can change nothing are skipped; "
                "bytes: points read once, labels written once",
            )
        )
    return contenders


def _contenders(problem: Problem, settings: Settings) -> list[Contender]:
    limit, whole = int(settings.options["peer_limit"]), 2.0 * problem.n**2 * problem.dimensions
    wanted = settings.options["peers"].split(",")
    if settings.quick:
        limit = min(limit, QUICK[0])
    peers = [
        Contender(
            "scikit-learn", "peer", lambda: _sklearn(problem), flops=whole, precision="fp64",
            unavailable=lambda: _refuses("sklearn", problem, limit, 10.0), note="n_jobs=-1, products in float64",
        ),
        Contender(
            "FAISS + SciPy", "peer", lambda: _faiss(problem), flops=whole, precision="fp32",
            unavailable=lambda: _refuses("faiss", problem, limit, 30.0), note="float32 distances decide neighbours",
        ),
    ]  # fmt: skip
    if settings.device == "cuda":
        cuml = Contender(
            "cuML", "peer", lambda: _cuml(problem), flops=whole, precision="fp32",
            unavailable=lambda: None if importlib.util.find_spec("cuml") else "cuml is not installed",
        )  # fmt: skip
        peers = [cuml, _count_contender(problem, "bf16"), _count_contender(problem, "fp32"), *peers]
    if wanted != ["all"]:
        unknown = sorted(set(wanted) - {peer.name for peer in peers})
        if unknown:
            raise ValueError(
                f"dbscan.peers: unknown {', '.join(unknown)}; accepted: all, {', '.join(p.name for p in peers)}"
            )
        peers = [peer for peer in peers if peer.name in wanted]
    return [*_our_contenders(problem, settings), *peers]


def _check(outputs: Mapping[str, Any], problem: Problem, settings: Settings) -> dict[str, dict[str, Any]]:
    """Labels of all against scikit-learn's; ours verified by the definition where it is absent or differs."""
    facts: dict[str, dict[str, Any]] = {}
    shown = next((value for name, value in outputs.items() if name.startswith("tmor_fast")), None)
    if shown is not None:
        labels = shown["labels"]
        facts[""] = {"clusters": int(labels.max()) + 1, "noise": f"{100 * float((labels < 0).float().mean()):.2f} %"}
    expected = outputs.get("scikit-learn")
    verified: dict[bytes, str] = {}  # equal labels need one verification
    for name, output in outputs.items():
        if "labels" not in output:
            facts[name] = {} if shown is None else _core_apart(output["core"], shown["core"])
            continue
        labels = output["labels"]
        facts[name] = {each: f"{float(output[each]):.2%}" for each in ("compared",) if each in output}
        if "rechecked" in output:
            facts[name]["rechecked"] = f"{float(output['rechecked']):.1e}"
        differing = None if expected is None else int((labels != expected["labels"]).sum())
        if differing is not None and name != "scikit-learn":
            facts[name]["labels"] = f"differ in {differing}" if differing else "equal to scikit-learn's"
        if name.startswith("tmor_fast") and differing != 0:
            key = labels.numpy().tobytes()
            verified[key] = verified.get(key) or _verdict(labels, output["core"], problem, settings)
            facts[name]["wrong" if verified[key].startswith("wrong") else "definition"] = verified[key]
    return {name: values for name, values in facts.items() if values}


def _core_apart(core: Any, ours: Any) -> dict[str, Any]:
    return {"core points": f"differ in {int((core != ours).sum()):,}"}


def _verdict(labels: Any, core: Any, problem: Problem, settings: Settings) -> str:
    import torch

    from tmor_fast.cluster import verify

    rows = torch.from_numpy(problem.points).to(settings.device)
    if problem.n > int(settings.options["verify_limit"]):
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


def _case(problem: Problem, settings: Settings) -> Case:
    about = [problem.kind] if problem.kind != "clusters" else []
    about += [f"{problem.dimensions} dimensions"] if problem.dimensions != DIMENSIONS else []
    return Case(
        ", ".join([f"{problem.n:,} points", *about]),
        {"n": problem.n, "d": problem.dimensions, **({"kind": ", ".join(about)} if about else {})},
        _contenders(problem, settings),
        check=lambda outputs: _check(outputs, problem, settings),
        floors=[
            Floor(f"half of the matrix, {precision}", problem.half, precision) for precision in ("bf16", "fp32", "int8")
        ],
        seconds=asked_seconds(settings),
    )


def problems(settings: Settings) -> list[Problem]:
    """The data sets that were asked for: the growth sweep, then the hard cases; on a GPU `ON_GPU`."""
    sizes = [int(size) for size in settings.options["sizes"].split(",") if size]
    asked = [kind for kind in settings.options["hard"].split(",") if kind]
    unknown = sorted(set(asked) - {"all", *HARD})
    if unknown:
        raise ValueError(f"dbscan.hard: unknown {', '.join(unknown)}; accepted: all, {', '.join(HARD)}")
    dimensions, hard_size = (int(settings.options[name]) for name in ("dimensions", "hard_size"))
    if not sizes and not asked and settings.device == "cuda":
        return [Problem(*given) for given in ON_GPU[: 4 if settings.quick else None]]
    hard = list(HARD) if "all" in asked or not (sizes or asked or settings.quick) else asked
    swept = sizes or ([] if asked else QUICK if settings.quick else SWEEP)
    return [
        *(Problem("clusters", size, dimensions) for size in swept),
        *(Problem(kind, hard_size, dimensions) for kind in hard),
    ]


def cases(settings: Settings) -> Sequence[Case]:
    """One case for each of the `problems`."""
    return [_case(problem, settings) for problem in problems(settings)]


CLAIM = Claim(
    "DBSCAN: exact, in high dimension, without a neighbour list",
    cases,
    options={
        "isa": ("auto", "instruction sets of ours: auto, names as in TMOR_ISA, comma-separated, or all"),
        "sizes": ("", "points, comma-separated, in place of the sweep and the hard cases"),
        "hard": ("", f"hard cases in place of the sweep: all, or of {', '.join(HARD)}"),
        "dimensions": (str(DIMENSIONS), "of the points, where sizes or hard cases are asked for, or on a CPU"),
        "hard_size": (str(HARD_SIZE), "points of the hard cases"),
        "peers": ("all", "peers by name, comma-separated"),
        "peer_limit": ("100000", "most points given to scikit-learn and FAISS"),
        "verify_limit": ("100000", "most points whose labels are all verified by definition where no peer has them"),
        "seconds": SECONDS,
    },
    sweep="n",
)
