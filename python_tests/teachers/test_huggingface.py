"""Teachers of transformers, with tiny random weights and tokenizers made here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from tmor_fast.teachers import HuggingFaceTeacher, Teacher, TeacherUnavailableError  # noqa: E402
from tmor_fast.teachers.huggingface import _unwrap  # noqa: E402

WORDS = ["<pad>", "<unk>", "<s>", "</s>", "a", "person", "walks", "runs", "jumps", "very", "fast", "now"]
SIZE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SIZE, "image_size": 32, "patch_size": 16}


def _save_tokenizer(folder: Path) -> None:
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def _model(kind: str) -> Any:
    torch.manual_seed(0)
    text = {**SIZE, "vocab_size": len(WORDS), "max_position_embeddings": 12, "pad_token_id": 0}
    text.update(bos_token_id=2, eos_token_id=3)
    if kind == "bert":
        return transformers.BertModel(transformers.BertConfig(**text))
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=10)
        return transformers.CLIPModel(config)
    if kind == "siglip":
        return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=VISION))
    if kind == "siglip2":
        vision = {**SIZE, "patch_size": 4, "num_patches": 16}
        return transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))
    vision = {**VISION, "num_frames": 4, "mit_hidden_size": 10, "mit_intermediate_size": 16}
    vision.update(mit_num_hidden_layers=1, mit_num_attention_heads=2)
    config = transformers.XCLIPConfig(
        text_config=text, vision_config=vision, projection_dim=10, prompt_num_attention_heads=2
    )
    return transformers.XCLIPModel(config)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for kind in ("bert", "clip", "siglip", "siglip2", "xclip"):
        made[kind] = tmp_path_factory.mktemp(kind)
        _model(kind).save_pretrained(made[kind])
        _save_tokenizer(made[kind])
    return made


def _teacher(folder: Path, **options: Any) -> HuggingFaceTeacher:
    return HuggingFaceTeacher(folder, local_files_only=True, **options)


def _videos(count: int = 3, frames: int = 6, size: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, frames, size, size, 3), generator=generator, dtype=torch.uint8)


TEXTS = ["a person walks", "a person runs very fast", "jumps", "a person walks now"]


@pytest.mark.parametrize("kind", ["bert", "clip", "siglip", "siglip2", "xclip"])
def test_text_embeddings(folders: dict[str, Path], kind: str) -> None:
    teacher = _teacher(folders[kind], batch_size=3)
    assert isinstance(teacher, Teacher)
    embeddings = teacher.encode_text(TEXTS)
    assert embeddings.shape == (4, teacher.dim)
    assert embeddings.dtype == torch.float32
    assert not embeddings.requires_grad
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4))
    # Order, batches and padding do not matter.
    alone = torch.cat([teacher.encode_text([text]) for text in TEXTS])
    torch.testing.assert_close(embeddings, alone, atol=1e-5, rtol=0)
    if kind != "siglip2":  # transformers replaces the words of the tokenizer made here by SigLIP 2's own
        assert (torch.cdist(embeddings, embeddings) + torch.eye(4)).min() > 1e-4
    assert teacher.encode_text([]).shape == (0, teacher.dim)


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_video_is_the_mean_of_its_frames(folders: dict[str, Path], kind: str) -> None:
    teacher = _teacher(folders[kind], frames=None, normalise=False, batch_size=4)
    videos = _videos()
    whole = teacher.encode_video(videos)
    single = teacher.encode_video(videos.flatten(0, 1).unsqueeze(1)).unflatten(0, videos.shape[:2])
    assert whole.shape == (3, teacher.dim)
    torch.testing.assert_close(whole, single.mean(1), atol=1e-5, rtol=1e-4)
    assert teacher.supports == {"text", "video"}


def test_frames_are_drawn_evenly(folders: dict[str, Path]) -> None:
    videos = _videos(frames=9)
    some = _teacher(folders["clip"], frames=3).encode_video(videos)
    torch.testing.assert_close(some, _teacher(folders["clip"], frames=None).encode_video(videos[:, [0, 4, 8]]))


@pytest.mark.parametrize("frames", [1, 4, 11])
def test_xclip_gets_exactly_its_frames(folders: dict[str, Path], frames: int) -> None:
    teacher = _teacher(folders["xclip"])
    assert teacher.settings["frames"] == 4
    assert teacher.encode_video(_videos(frames=frames)).shape == (3, 10)


def test_clip_equals_the_model_itself(folders: dict[str, Path]) -> None:
    model = transformers.CLIPModel.from_pretrained(folders["clip"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["clip"])
    with torch.no_grad():
        expected = _unwrap(
            model.get_text_features(
                **{
                    key: value
                    for key, value in tokenizer(TEXTS[:1], return_tensors="pt").items()
                    if key != "token_type_ids"
                }
            )
        )
    torch.testing.assert_close(_teacher(folders["clip"], normalise=False).encode_text(TEXTS[:1]), expected)


def test_siglip_text_is_lower_cased_and_padded_to_the_full_length(folders: dict[str, Path]) -> None:
    teacher = _teacher(folders["siglip"], normalise=False)
    model = transformers.SiglipModel.from_pretrained(folders["siglip"]).eval()
    ids = torch.zeros(1, 12, dtype=torch.int64)
    ids[0, :5] = torch.tensor([2, 4, 5, 6, 3])
    with torch.no_grad():
        expected = _unwrap(model.get_text_features(input_ids=ids))
    torch.testing.assert_close(teacher.encode_text(["A person WALKS"]), expected)


def test_wrapped_and_plain_outputs() -> None:
    features = torch.randn(2, 3)
    assert _unwrap(features) is features
    assert _unwrap(SimpleNamespace(pooler_output=features)) is features


def test_long_texts_are_cut(folders: dict[str, Path]) -> None:
    teacher = _teacher(folders["bert"])
    assert teacher.max_length == 12
    assert torch.isfinite(teacher.encode_text(["walks " * 50])).all()


def test_prompt(folders: dict[str, Path]) -> None:
    with_prompt = _teacher(folders["bert"], prompt="a person {} now").encode_text(["walks"])
    torch.testing.assert_close(with_prompt, _teacher(folders["bert"]).encode_text(["a person walks now"]))
    with pytest.raises(ValueError, match="prompt"):
        _teacher(folders["bert"], prompt="no place")


def test_frozen(folders: dict[str, Path]) -> None:
    model = _teacher(folders["clip"])._model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_half_precision_returns_float32(folders: dict[str, Path]) -> None:
    teacher = _teacher(folders["bert"], dtype=torch.bfloat16)
    embeddings = teacher.encode_text(TEXTS)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, _teacher(folders["bert"]).encode_text(TEXTS), atol=0.05, rtol=0)


def test_settings_tell_weights_apart(folders: dict[str, Path], tmp_path: Path) -> None:
    first = _teacher(folders["bert"]).settings
    assert first == _teacher(folders["bert"], batch_size=2, name="other").settings
    assert json.loads(json.dumps(first)) == first
    model = _model("bert")
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[0, 0] += 1
    model.save_pretrained(tmp_path)
    _save_tokenizer(tmp_path)
    assert first != _teacher(tmp_path).settings


def test_text_only_models_refuse_video(folders: dict[str, Path]) -> None:
    teacher = _teacher(folders["bert"])
    assert teacher.supports == {"text"}
    with pytest.raises(TypeError, match="encodes text, not video"):
        teacher.encode_video(_videos())


def test_kind_must_fit(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="'bert', whose kind is 'sentence', not 'clip'"):
        _teacher(folders["bert"], kind="clip")
    with pytest.raises(ValueError, match="accepted: auto"):
        _teacher(folders["bert"], kind="blip")


def test_what_cannot_be_loaded_comes_with_a_remedy(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(TeacherUnavailableError, match="no folder"):
        _teacher(tmp_path / "absent")
    with pytest.raises(TeacherUnavailableError, match=r"no-such-owner/no-such-model.*Remedy.*hf download"):
        HuggingFaceTeacher("no-such-owner/no-such-model", local_files_only=True)
    (tmp_path / "config.json").write_text((folders["bert"] / "config.json").read_text())
    _save_tokenizer(tmp_path)
    with pytest.raises(TeacherUnavailableError, match=r"weights.*Remedy.*folder is complete"):
        _teacher(tmp_path)


def test_missing_weights_are_never_random(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in folders["clip"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    del state["text_projection.weight"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(TeacherUnavailableError, match=r"text_projection\.weight"):
        _teacher(tmp_path)
