"""`tmor` from end to end on tiny stores, how its errors look, and what is left of it without typer."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from tmor_fast.cli import app as command_line
from tmor_fast.data.store import ClipStore
from tmor_fast.data.synthetic import write_synthetic_store
from tmor_fast.errors import BackendUnavailableError, missing
from tmor_fast.nn.checkpoint import load_model
from tmor_fast.teachers import TeacherUnavailableError

ACTIONS = ("squat", "walk", "clap")
TINY = (
    "backbone.preset=unik-micro", "augmentation.frames=8", "augmentation.view_yaw_degrees=20",
    "optimiser.name=adamw", "optimiser.rate=0.002", "optimiser.scale_rate=false", "optimiser.batch_size=16",
    "optimiser.epochs=1",
)  # fmt: skip
RUN = CliRunner(env={"COLUMNS": "200"})


def settings(*values: str) -> list[str]:
    return [word for value in (*TINY, *values) for word in ("--set", value)]


def invoke(*arguments: object) -> Result:
    return RUN.invoke(command_line.app, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    result = invoke(*arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "store"
    write_synthetic_store(folder, clips=36, seed=3, actions=ACTIONS, frames=(24, 40), subjects=12)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished text embeddings, so that no language model is loaded."""
    path = tmp_path_factory.mktemp("texts") / "texts.pt"
    torch.save(dict(zip(ACTIONS, torch.eye(3), strict=True)), path)
    return path


@pytest.fixture(scope="module")
def trained(store: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both stages, made by the command line."""
    out = tmp_path_factory.mktemp("run")
    chosen = settings("stage2_epochs=1", f"text_teacher=precomputed:{texts}", "video_teacher=classical-video")
    shown = succeed("pretrain", store, "--out", out, *chosen)
    assert "model.pt" in shown
    return out / "model.pt"


def test_pretrain_writes_a_run_and_says_where(trained: Path, store: Path, texts: Path):
    model, metadata = load_model(trained)
    assert metadata["stage"] == 2
    assert metadata["texts"] == sorted(ACTIONS)
    assert metadata["text_teacher"] == f"precomputed:{texts}"
    assert model.video_dim == ClipStore(store).embeddings("classical-video").shape[1]
    assert (trained.parent / "stage2" / "log" / "metrics.csv").is_file()


def test_pretrain_reads_a_file_and_resumes(store: Path, trained: Path, tmp_path: Path):
    config = trained.parent / "config.yaml"
    run = tmp_path / "again"
    succeed("pretrain", store, "--out", run, "--config", config, "--set", "seed=1")
    before, after = (load_model(path)[0].state_dict() for path in (trained, run / "model.pt"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    checkpoint = run / "stage2" / "checkpoints" / "epoch-0000.ckpt"
    succeed("pretrain", store, "--out", run, "--config", config, "--resume", checkpoint)
    resumed = load_model(run / "model.pt")[0].state_dict()
    assert all(torch.equal(before[name], resumed[name]) for name in before)


def test_probe_with_and_without_a_checkpoint(store: Path, trained: Path, tmp_path: Path):
    shown = succeed("probe", store, "--checkpoint", trained, "--out", tmp_path / "a.json", *settings("seed=2"))
    assert "linear probe · probe" in shown
    saved = json.loads((tmp_path / "a.json").read_text())
    assert 0 <= saved["reports"]["probe"]["top1"] <= 1
    assert saved["train_clips"] == sum(split == "train" for split in ClipStore(store).column("split"))
    shown = succeed("probe", store, "--out", tmp_path / "b.json", *settings("seed=2"))
    assert "random backbone" in shown


def test_probe_sees_clips_as_the_checkpoint_did(
    store: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tmor_fast.training import probe as original

    chosen = settings("stage2_epochs=0", "video_teacher=null", "text_teacher=null", "options.stream=bone",
                      "normalisation=none", "augmentation.frames=12")  # fmt: skip
    succeed("pretrain", store, "--out", tmp_path, *chosen)
    seen = []

    def spy(packed, config, backbone, save=None):
        seen.append(config)
        return original(packed, config, backbone, progress=False)

    monkeypatch.setattr(sys.modules["tmor_fast.training.probe"], "probe", spy)
    succeed("probe", store, "--checkpoint", tmp_path / "model.pt", "--set", "optimiser.epochs=1")
    (config,) = seen
    assert (config.stream, config.normalisation, config.augmentation.frames) == ("bone", "none", 12)
    assert config.augmentation.view_yaw_degrees == 20


def test_finetune(store: Path, trained: Path, tmp_path: Path):
    shown = succeed("finetune", store, "--out", tmp_path, "--checkpoint", trained, *settings("share=0.5"))
    assert "fine-tuned on" in shown
    ids = json.loads((tmp_path / "train_clips.json").read_text())
    assert f"on {len(ids)} clips" in shown
    assert (tmp_path / "joint.pt").is_file()


def test_zeroshot(store: Path, trained: Path, tmp_path: Path):
    shown = succeed("zeroshot", trained, store, "--actions", "walk, clap", "--views", 1, "--out", tmp_path / "z.json")
    assert "motion+video" in shown
    assert "chance 50.0 %" in shown
    saved = json.loads((tmp_path / "z.json").read_text())
    assert saved["actions"] == ["walk", "clap"]
    # Nothing was held out, so these are no unseen actions, and it says so.
    assert "in training: walk, clap" in shown
    motion_alone = succeed("zeroshot", trained, store, "--no-video", "--views", 1)
    assert "motion+video" not in motion_alone


def test_embed_keeps_embeddings_in_the_store(store: Path, texts: Path, tmp_path: Path):
    # Captions are what a text teacher reads first, so these get embeddings by key.
    opened = ClipStore(store)
    captions = sorted({str(caption) for caption in opened.column("caption")})
    torch.save(
        {caption: torch.full((2,), float(i + 1)) for i, caption in enumerate(captions)}, tmp_path / "captions.pt"
    )
    shown = succeed("embed", store, "--teacher", f"precomputed:{tmp_path / 'captions.pt'}")
    assert "36 clips encoded by captions (2 dimensions)" in shown
    rows = ClipStore(store).embeddings("captions-text")
    assert [int(row[0]) - 1 for row in rows] == [captions.index(str(c)) for c in opened.column("caption")]


def test_options_lists_every_option():
    from tmor_fast.nn.options import option_table

    shown = succeed("options")
    for _, name, default, *_ in option_table():
        assert name in shown, name
        assert default in shown, default
    assert "augmentation.*" in shown


def test_doctor_names_backends_and_libraries():
    shown = succeed("doctor")
    for text in ("op dbscan", "op cluster_infonce", "op dependency_attention", "PyTorch", "lightning"):
        assert text in shown, text


def test_help_lists_the_verbs():
    shown = succeed("--help")
    for verb in ("data", "pretrain", "probe", "finetune", "zeroshot", "embed", "options", "demo", "doctor"):
        assert verb in shown, verb


def fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str]:
    """Exit status and standard error of the whole program."""
    monkeypatch.setattr(sys, "argv", ["tmor", *(str(argument) for argument in arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        command_line.run()
    return stopped.value.code, capsys.readouterr().err


def test_errors_are_one_line_and_status_1(
    store: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    half = tmp_path / "half.pt"
    half.write_bytes(trained.read_bytes()[:1000])
    out = tmp_path / "out"
    for arguments, message in (
        (["pretrain", tmp_path / "nowhere", "--out", out], "nowhere"),
        (["pretrain", store, "--out", out, "--set", "options.temprature=1"], "temprature"),
        (["pretrain", store, "--out", out, "--set", "optimiser.name=lion"], "optimiser.name"),
        (["pretrain", store, "--out", out, "--config", "no_such"], "no configuration no_such"),
        (["pretrain", store, "--out", out, "--set", "held_out=[fly]"], "'fly'; they have: clap, squat, walk"),
        (["pretrain", store, "--out", out, *settings("text_teacher=classical-video", "video_teacher=null")],
         "text_teacher"),
        (["pretrain", store, "--out", out, *settings("text_teacher=null", "video_teacher=null")], "stage2_epochs=0"),
        (["probe", store, "--checkpoint", half], "half.pt"),
        (["probe", store, "--checkpoint", tmp_path], str(tmp_path)),
        (["finetune", store, "--out", out, "--checkpoint", tmp_path / "gone.pt"], "no checkpoint at"),
        (["zeroshot", trained.parent / "stage1.pt", store], "needs stage 2"),
        (["zeroshot", trained, store, "--no-video", "--actions", "fly"], "no action 'fly'; it has: squat, walk, clap"),
        (["embed", store, "--teacher", "oracle"], "unknown teacher 'oracle'"),
        (["embed", store, "--teacher", "precomputed:gone.npz"], "gone.npz"),
    ):  # fmt: skip
        code, shown = fail(monkeypatch, capsys, *arguments)
        assert code == 1, arguments
        assert shown.startswith("error: "), shown
        assert message in shown, shown
        assert shown.count("\n") == 1, shown
    assert not out.exists()


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (missing("scipy", "train", "Reading [this]"), "'tmor_fast[train]'"),
        (TeacherUnavailableError("no weights at [/models/x]"), "[/models/x]"),
        (BackendUnavailableError("backend [red]cuda[/red]"), "[red]cuda[/red]"),
        (PermissionError(13, "Permission denied", "file"), "Permission denied"),
        (ValueError("first line\n  second line"), "first line second line"),
    ],
)
def test_messages_are_shown_as_they_are(
    error: Exception, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def broken() -> None:
        raise error

    monkeypatch.setattr(command_line, "app", broken)
    code, text = fail(monkeypatch, capsys)
    assert code == 1
    assert shown in text
    assert text.count("\n") == 1


def test_a_mistake_in_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch):
    def broken() -> None:
        raise AttributeError("a bug")

    monkeypatch.setattr(command_line, "app", broken)
    with pytest.raises(AttributeError, match="a bug"):
        command_line.run()


def without(library: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`tmor` in an environment that lacks a library."""
    program = f"""
        import sys
        class Hiding:
            def __init__(self, finder):
                self.finder = finder
            def __getattr__(self, name):
                return getattr(self.finder, name)
            def find_spec(self, name, path=None, target=None):
                hidden = name.partition(".")[0] == {library!r}
                return None if hidden else self.finder.find_spec(name, path, target)
        sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
        sys.argv = ["tmor", *{arguments!r}]
        from tmor_fast.cli import main
        main()
    """
    return subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("library", ["typer", "rich"])
def test_without_the_command_line_libraries_doctor_works_and_the_rest_says_what_to_install(library: str):
    shown = without(library, "doctor")
    assert shown.returncode == 0, shown.stderr
    assert "op dbscan" in shown.stdout
    refused = without(library, "options")
    assert refused.returncode == 1
    assert refused.stderr.strip() == (
        f"tmor needs the library '{library}' for all verbs but 'doctor'. "
        "Install it with: pip install 'tmor_fast[train]'"
    )
