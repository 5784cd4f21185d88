"""Sentence encoders, CLIP, SigLIP and X-CLIP of the library transformers as frozen teachers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from tmor_fast.errors import missing
from tmor_fast.teachers.images import CLIP_MEAN, ImageTransform, image_transform, patches
from tmor_fast.teachers.protocol import (
    TeacherUnavailableError,
    check_frames,
    check_texts,
    even_positions,
    unsupported,
)
from tmor_fast.teachers.sentence import SentenceConfig, pool_tokens, read_sentence_config

KINDS = ("sentence", "clip", "siglip", "xclip")
_KIND_OF_MODEL_TYPE = {"clip": "clip", "siglip": "siglip", "siglip2": "siglip", "xclip": "xclip"}
# Heads that a sentence encoder's pooling never reads; a checkpoint may lack them.
_UNUSED_KEYS = ("pooler.", "position_ids")
_UNLIMITED_TOKENS = 100_000  # tokenizers without a limit report a huge number


class HuggingFaceTeacher:
    """A frozen encoder of `transformers`, by hub name or local folder.

    Sentence encoders pool their token states as their sentence-transformers folder says (mean pooling, l2 normalised,
    where it says nothing) and encode text only. CLIP and SigLIP encode text, and video as the mean of the frame
    features. X-CLIP encodes text (without the video-conditioned prompt) and video at exactly its own number of
    frames. Images are resized and normalised in torch with the checkpoint's own settings.

    Args:
        name_or_path: hub name, or folder with config.json, weights and tokenizer.
        kind: "sentence", "clip", "siglip", "xclip", or "auto" to read it from the model's configuration.
        name: short name for caches; default the last part of `name_or_path`.
        device: where to run, default the CPU.
        dtype: precision of the weights; embeddings are float32 whatever it is.
        batch_size: strings, or frames of video, in one forward pass.
        normalise: l2-normalise the embeddings; None takes what the model says, and True where it says nothing.
        prompt: template around every text, `{}` stands for the text; None takes the model's default prompt.
        max_length: longest text in tokens; None takes the model's limit.
        frames: frames taken evenly from a video for CLIP and SigLIP; None takes all.
        local_files_only: never use the network.
        revision: branch, tag or commit on the hub.

    Raises:
        TeacherUnavailableError: the model is not in the folder or cache and cannot be fetched, or weights are missing.
        ValueError: `kind` is unknown or does not fit the model.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        kind: str = "auto",
        *,
        name: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        batch_size: int = 64,
        normalise: bool | None = None,
        prompt: str | None = None,
        max_length: int | None = None,
        frames: int | None = 8,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> None:
        if kind not in ("auto", *KINDS):
            raise ValueError(f"kind {kind!r} is not known; accepted: auto, {', '.join(KINDS)}")
        if batch_size < 1 or (frames is not None and frames < 1):
            raise ValueError(f"batch_size and frames must be at least 1, got {batch_size} and {frames}")
        if prompt is not None and "{}" not in prompt:
            raise ValueError(f"prompt must contain '{{}}' where the text goes, got {prompt!r}")
        files = _ModelFiles(name_or_path, local_files_only, revision)
        config = files.load_config()
        self.kind = _resolve_kind(kind, str(config.model_type), files.source)
        self.model_type = str(config.model_type)
        self.device = torch.device(device or "cpu")
        self.batch_size = batch_size
        self._name = name or Path(files.source).name
        self._tokenizer = files.load_tokenizer()
        self._model = files.load_model(config, sentence=self.kind == "sentence").to(self.device, dtype)
        self._model.eval().requires_grad_(False)
        self._sentence = read_sentence_config(files.find) if self.kind == "sentence" else SentenceConfig()
        for layer in self._sentence.dense:
            layer.to(self.device, dtype).eval().requires_grad_(False)
        self.normalise = self._sentence.normalise if normalise is None else normalise
        self.prompt = self._sentence.prompt + "{}" if prompt is None else prompt
        self.max_length = max_length or self._default_max_length(config)
        self.frames = frames
        self._transform: ImageTransform | None = None
        if self.kind != "sentence":
            self._prepare_vision(config, files)
        self._weights = _checksum(self._model)
        self._dim = int(self.encode_text(["a person"]).shape[1])

    @property
    def name(self) -> str:
        """Short name; embeddings are cached under it."""
        return self._name

    @property
    def dim(self) -> int:
        """Width D of the embeddings."""
        return self._dim

    @property
    def supports(self) -> frozenset[str]:
        """`{"text"}` for sentence encoders, `{"text", "video"}` for the others."""
        return frozenset({"text"}) if self.kind == "sentence" else frozenset({"text", "video"})

    @property
    def settings(self) -> Mapping[str, object]:
        """What the embeddings depend on, with a checksum of the weights in place of their path."""
        settings: dict[str, object] = {
            "teacher": "huggingface",
            "kind": self.kind,
            "model_type": self.model_type,
            "weights": self._weights,
            "dtype": str(next(self._model.parameters()).dtype),
            "normalise": self.normalise,
            "prompt": self.prompt,
            "max_length": self.max_length,
        }
        if self.kind == "sentence":
            settings["pooling"] = list(self._sentence.pooling)
        else:
            settings["frames"] = self.frames
        return settings

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Text embeddings.

        Args:
            texts: n strings; an empty list gives an empty result.

        Returns:
            (n, D) float32 on the teacher's device.
        """
        strings = [self.prompt.replace("{}", text) for text in check_texts(texts)]
        if not strings:
            return torch.empty(0, self.dim, device=self.device)
        if self._sentence.lower_case or self.kind == "siglip":  # SigLIP is trained on lower-cased text
            strings = [text.lower() for text in strings]
        # Strings of similar length share a batch, so little of it is padding.
        order = sorted(range(len(strings)), key=lambda index: -len(strings[index]))
        parts = [
            self._text_batch([strings[index] for index in order[first : first + self.batch_size]])
            for first in range(0, len(order), self.batch_size)
        ]
        stacked = torch.cat(parts)
        result = torch.empty_like(stacked)
        result[torch.tensor(order, device=stacked.device)] = stacked
        return self._finish(result)

    @torch.no_grad()
    def encode_video(self, frames: Tensor | np.ndarray) -> Tensor:
        """Video embeddings.

        Args:
            frames: (B, T, H, W, 3) uint8 RGB; frames are drawn evenly from T, repeated where T is too short.

        Returns:
            (B, D) float32 on the teacher's device.

        Raises:
            TypeError: the model encodes text only.
        """
        if self._transform is None:
            raise unsupported(self, "video")
        clips = check_frames(frames)
        if clips.shape[0] == 0:
            return torch.empty(0, self.dim, device=self.device)
        if self.frames is not None:
            clips = clips[:, even_positions(clips.shape[1], self.frames)]
        count = clips.shape[1]
        step = max(1, self.batch_size // count)
        parts: list[Tensor] = []
        for first in range(0, clips.shape[0], step):
            batch = clips[first : first + step].to(self.device)
            pixels = self._transform(batch.flatten(0, 1)).to(next(self._model.parameters()).dtype)
            parts.append(self._video_batch(pixels, len(batch), count).float())
        return self._finish(torch.cat(parts))

    def _finish(self, embeddings: Tensor) -> Tensor:
        return functional.normalize(embeddings, dim=-1) if self.normalise else embeddings

    def _text_batch(self, strings: list[str]) -> Tensor:
        encoded = self._tokenizer(
            strings,
            # SigLIP pools the last position, which is padding in training.
            padding="max_length" if self.kind == "siglip" else True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        ).to(self.device)
        if self.kind == "sentence":
            tokens = self._model(**encoded).last_hidden_state
            features = pool_tokens(tokens, encoded["attention_mask"], self._sentence.pooling)
            for layer in self._sentence.dense:
                features = layer(features)
            return features.float()
        inputs = {"input_ids": encoded["input_ids"]}
        if self.kind != "siglip":
            inputs["attention_mask"] = encoded["attention_mask"]
        return _unwrap(self._model.get_text_features(**inputs)).float()

    def _video_batch(self, pixels: Tensor, clips: int, frames: int) -> Tensor:
        if self.kind == "xclip":
            return _unwrap(self._model.get_video_features(pixel_values=pixels.unflatten(0, (clips, frames))))
        if self.model_type == "siglip2":
            size = int(self._model.config.vision_config.patch_size)
            grid = (pixels.shape[2] // size, pixels.shape[3] // size)
            tokens = patches(pixels, size)
            features = self._model.get_image_features(
                pixel_values=tokens,
                pixel_attention_mask=torch.ones(tokens.shape[:2], dtype=torch.int32, device=pixels.device),
                spatial_shapes=torch.tensor([grid] * len(pixels), device=pixels.device),
            )
        else:
            features = self._model.get_image_features(pixel_values=pixels)
        return _unwrap(features).unflatten(0, (clips, frames)).mean(1)

    def _default_max_length(self, config: Any) -> int:
        text = getattr(config, "text_config", config)
        limits = [self._sentence.max_length, self._tokenizer.model_max_length]
        positions = getattr(text, "max_position_embeddings", None)
        if self.kind == "siglip" and positions:
            return int(positions)
        if positions:
            # RoBERTa-like models number positions from padding_idx + 1.
            shift = (getattr(text, "pad_token_id", 0) or 0) + 1 if "roberta" in str(config.model_type) else 0
            limits.append(int(positions) - shift)
        known = [limit for limit in limits if limit is not None and limit < _UNLIMITED_TOKENS]
        return min(known, default=512)

    def _prepare_vision(self, config: Any, files: _ModelFiles) -> None:
        vision = config.vision_config
        if self.model_type == "siglip2":
            image_size = int(vision.num_patches**0.5) * int(vision.patch_size)
        else:
            image_size = int(vision.image_size)
        options = files.image_options()
        if self.model_type == "siglip2":
            options.pop("size", None)  # these towers take any size; the native square grid is used
        mean = (0.5, 0.5, 0.5) if self.kind == "siglip" else CLIP_MEAN
        self._transform = image_transform(options, image_size=image_size, default_mean=mean)
        if self.kind == "xclip":
            self.frames = int(vision.num_frames)
        if self.kind == "siglip":
            self._tokenizer.padding_side = "right"


class _ModelFiles:
    """Finds and loads the parts of one model, from a folder, the hub's cache or the hub."""

    def __init__(self, name_or_path: str | Path, local_files_only: bool, revision: str | None) -> None:
        try:
            import transformers
        except ImportError as error:
            raise missing("transformers", "teachers", "HuggingFaceTeacher") from error
        self.source = str(name_or_path)
        self._transformers = transformers
        self._options: dict[str, Any] = {"local_files_only": local_files_only}
        if revision is not None:
            self._options["revision"] = revision
        path = Path(name_or_path).expanduser()
        self._folder = path if path.is_dir() else None
        looks_local = isinstance(name_or_path, Path) or self.source.startswith((".", "~", "/")) or path.is_absolute()
        if self._folder is not None:
            self.source = str(path.resolve())
        elif looks_local or self.source.count("/") > 1:
            raise TeacherUnavailableError(
                f"there is no folder {self.source!r}; give the folder that holds the model's config.json, or a hub name"
            )

    def load_config(self) -> Any:
        return self._load(self._transformers.AutoConfig, "configuration")

    def load_tokenizer(self) -> Any:
        return self._load(self._transformers.AutoTokenizer, "tokenizer")

    def load_model(self, config: Any, *, sentence: bool) -> Any:
        loader: Any = self._transformers.AutoModel
        if sentence and getattr(config, "is_encoder_decoder", False):
            loader = self._transformers.AutoModelForTextEncoding
        model, report = self._load(loader, "weights", config=config, output_loading_info=True)
        absent = sorted(str(key) for key in report["missing_keys"])
        if sentence:
            absent = [key for key in absent if not any(unused in key for unused in _UNUSED_KEYS)]
        absent += sorted(str(key) for key in report.get("mismatched_keys", ()))
        if absent:
            raise TeacherUnavailableError(
                f"the weights of {self.source!r} lack or misfit {len(absent)} tensors ({', '.join(absent[:3])}, ...), "
                "which would stay random; give a complete checkpoint of this model"
            )
        return model

    def image_options(self) -> dict[str, object]:
        path = self.find("preprocessor_config.json")
        if path is not None:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        path = self.find("processor_config.json")
        nested = json.loads(path.read_text(encoding="utf-8")).get("image_processor") if path is not None else None
        return dict(nested or {})

    def find(self, name: str) -> Path | None:
        if self._folder is not None:
            path = self._folder / name
            return path if path.is_file() else None
        from transformers.utils.hub import cached_file

        found = cached_file(
            self.source,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **self._options,
        )
        return Path(found) if found else None

    @contextmanager
    def _without_progress(self) -> Iterator[None]:
        """Loading takes a moment; its progress bars only litter logs. Downloads of hub models keep theirs."""
        logging = self._transformers.utils.logging
        shown = logging.is_progress_bar_enabled()
        if self._folder is not None:
            logging.disable_progress_bar()
        try:
            yield
        finally:
            if shown:
                logging.enable_progress_bar()

    def _load(self, loader: Any, what: str, **options: Any) -> Any:
        try:
            with self._without_progress():
                return loader.from_pretrained(self.source, **self._options, **options)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            remedy = (
                "check that the folder is complete (config.json, model.safetensors, tokenizer files)"
                if self._folder is not None
                else "check the name; without a network, download the model elsewhere (hf download NAME --local-dir "
                "FOLDER) and give that folder instead; teacher 'minilm' works offline"
            )
            raise TeacherUnavailableError(
                f"cannot load the {what} of {self.source!r}: {str(error).splitlines()[0] if str(error) else error!r}. "
                f"Remedy: {remedy}"
            ) from error


def _resolve_kind(kind: str, model_type: str, source: str) -> str:
    found = _KIND_OF_MODEL_TYPE.get(model_type, "sentence")
    if kind not in ("auto", found):
        raise ValueError(f"{source!r} is a model of type {model_type!r}, whose kind is {found!r}, not {kind!r}")
    return found


def _unwrap(output: Any) -> Tensor:
    """The pooled features: transformers 4 returns them, transformers 5 wraps them in an output object."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _checksum(model: torch.nn.Module) -> str:
    """A short hash of names, shapes and a sample of every weight: tells checkpoints apart without reading all."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
