"""What importing brings in: torch and numpy alone at the base, and rooms that import downwards only."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import tmor_fast

PACKAGE = Path(tmor_fast.__file__).parent
OPTIONAL = (
    "lightning", "pytorch_lightning", "torchmetrics", "pyarrow", "scipy", "cv2", "transformers", "typer", "rich",
    "jsonargparse", "yaml", "sklearn", "matplotlib", "PIL", "safetensors", "tensorboard",
)  # fmt: skip

# cli -> training, report, inference -> nn, data, teachers, evaluation, cluster -> ops -> _C
LAYERS = (
    {"cli"},
    {"training", "report", "benchmark", "inference"},
    {"nn", "data", "teachers", "evaluation", "cluster"},
    {"ops"},
    {"_C", "atomic", "build", "distributed", "errors"},
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
# Rooms of one layer that may use another of the same layer.
SIDEWAYS = {
    ("teachers", "data"),
    ("report", "training"),
    ("evaluation", "data"),
    ("evaluation", "nn"),
    ("evaluation", "teachers"),
}


def python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def optional_after(statement: str) -> list[str]:
    shown = python(f"""
        import json, sys
        {statement}
        print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}} & set({OPTIONAL!r}))))
    """)
    return json.loads(shown.splitlines()[-1])


def test_the_check_itself_sees_an_optional_library():
    assert optional_after("import yaml") == ["yaml"]


@pytest.mark.parametrize("modules", ["tmor_fast", "tmor_fast.ops, tmor_fast.nn, tmor_fast.cluster"])
def test_the_base_imports_no_optional_library(modules: str):
    assert optional_after(f"import {modules}; import tmor_fast; tmor_fast.build_config()") == []


def test_subpackages_load_on_first_use():
    shown = python("""
        import sys, tmor_fast
        before = sorted(m for m in sys.modules if m.startswith("tmor_fast."))
        tmor_fast.nn.UNIK, tmor_fast.cluster.DBSCAN, tmor_fast.ops.dbscan
        print(" ".join(before))
        try:
            tmor_fast.no_such_thing
        except AttributeError as error:
            print(error)
    """)
    before, error = shown.splitlines()
    assert set(before.split()) <= {"tmor_fast.build", "tmor_fast._C"}
    assert "no_such_thing" in error


BARE = """
    import sys
    # What torch itself requires, beside the standard library.
    ALLOWED = {*sys.stdlib_module_names, "tmor_fast", "torch", "torchgen", "functorch", "numpy", "typing_extensions",
               "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec", "filelock", "setuptools"}
    class Hiding:
        def __init__(self, finder):
            self.finder = finder
        def __getattr__(self, name):
            return getattr(self.finder, name)
        def find_spec(self, name, path=None, target=None):
            top = name.partition(".")[0]
            return self.finder.find_spec(name, path, target) if top in ALLOWED else None
    sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
    for absent in ("lightning", "scipy", "yaml", "rich"):
        try:
            __import__(absent)
        except ModuleNotFoundError:
            continue
        raise SystemExit(f"{absent} was not hidden")
    import torch
"""


def bare(program: str) -> str:
    return python(textwrap.dedent(BARE) + textwrap.dedent(program))


def test_ops_nn_and_cluster_work_with_torch_and_numpy_alone():
    shown = bare("""
        from tmor_fast import ops
        from tmor_fast.cluster import DBSCAN, suggest_eps, verify
        from tmor_fast.nn import TMOR, Objective, TMOROptions, UNIKConfig, load_model, save_model
        from tmor_fast.nn.objective import TeacherFeatures
        torch.manual_seed(0)
        config = UNIKConfig.preset("unik-micro", persons=1)
        model = TMOR(config, TMOROptions(bank_dtype="float32"), video_dim=6)
        objective = Objective(model, 8, TeacherFeatures(video=torch.randn(8, 6)))
        index = torch.arange(8)
        clips = torch.randn(8, 2, 8, 17, 1)
        objective.bank.update(index, objective.keys(clips))
        objective(clips, clips, index)["loss"].backward()
        objective.after_step()
        labels = DBSCAN(eps=0.5, min_samples=2).fit_predict(torch.randn(20, 3))
        print("worked", len(labels))
    """)
    assert shown.strip() == "worked 20"


def test_models_are_saved_and_metrics_computed_with_torch_and_numpy_alone(tmp_path: Path):
    shown = bare(f"""
        from tmor_fast.nn import TMOR, UNIKConfig, load_model, save_model
        save_model({str(tmp_path / "m.pt")!r}, TMOR(UNIKConfig.preset("unik-micro")), {{"frames": 8}})
        print(load_model({str(tmp_path / "m.pt")!r})[1])
        from tmor_fast.evaluation import classification_report
        print(classification_report(torch.eye(3), torch.arange(3), list("abc")).top1)
        from tmor_fast.cli.doctor import report
        print(any("lightning" in entry.name and not entry.ok for entry in report()))
    """)
    assert shown.split("\n")[:3] == ["{'frames': 8}", "1.0", "True"]


def test_what_is_missing_is_named_with_the_extra_that_brings_it():
    shown = bare("""
        from tmor_fast.errors import MissingDependencyError
        from tmor_fast.data.store import ClipStore
        from tmor_fast.data.store_writer import ClipStoreWriter
        import tempfile
        try:
            with ClipStoreWriter(tempfile.mkdtemp() + "/s", name="n", layout="unik17", channels=3, units="metres",
                                 label_names=["a"]) as writer:
                pass
        except MissingDependencyError as error:
            print(error)
    """)
    assert "pyarrow" in shown
    assert "tmor_fast[train]" in shown


def imports(source: Path) -> set[str]:
    """Modules of tmor_fast that a file imports anywhere, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: imports are absolute"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.partition(".")[0] == "tmor_fast"}


def room(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py") if parts else ""


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def test_there_are_files_in_every_room_but_the_report():
    assert {path.relative_to(PACKAGE).parts[0] for path in SOURCES} >= set(LEVEL) - LAYERS[-1] - {"report"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(source: Path):
    own = room(source.relative_to(PACKAGE).parts)
    for name in imports(source):
        other = room(tuple(name.split(".")[1:]))
        if other == own or other not in LEVEL:
            # Names of the package itself, such as __version__.
            assert other == own or hasattr(tmor_fast, other), name
            continue
        allowed = LEVEL[other] > LEVEL[own] or (own, other) in SIDEWAYS
        assert allowed, f"{source.relative_to(PACKAGE)} imports {name}: {own} must not know {other}"


def loaded_at_once(tree: ast.AST) -> set[str]:
    """Top-level modules imported when the file is, that is outside functions."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
        elif not isinstance(node, (ast.FunctionDef, ast.Lambda)):
            found |= loaded_at_once(node)
    return found


@pytest.mark.parametrize("own", ["ops", "nn", "cluster"])
def test_the_lower_rooms_load_torch_and_numpy_alone(own: str):
    # Backends such as that of scikit-learn are imported by the function that calls them.
    allowed = {*sys.stdlib_module_names, "torch", "numpy", "tmor_fast"}
    for source in (PACKAGE / own).rglob("*.py"):
        foreign = loaded_at_once(ast.parse(source.read_text(encoding="utf-8"))) - allowed
        assert not foreign, f"{source.relative_to(PACKAGE)} imports {foreign}"
