"""Teachers by their short strings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tmor_fast.teachers import ClassicalVideoTeacher, PrecomputedTeacher, TeacherUnavailableError, get_teacher


def test_known_forms(tmp_path: Path) -> None:
    assert isinstance(get_teacher("classical-video"), ClassicalVideoTeacher)
    np.savez(tmp_path / "features.npz", walk=np.ones(3))
    teacher = get_teacher(f"precomputed:{tmp_path / 'features.npz'}")
    assert isinstance(teacher, PrecomputedTeacher)
    assert teacher.dim == 3
    pytest.importorskip("transformers")
    with pytest.raises(TeacherUnavailableError, match="no folder"):
        get_teacher(f"hf:{tmp_path / 'absent'}")


@pytest.mark.parametrize("spec", ["clip", "", "hf", "hf:", "precomputed:", "minilm:large", "MiniLM"])
def test_unknown_forms_list_what_is_accepted(spec: str) -> None:
    with pytest.raises(ValueError, match=r"minilm.*classical-video.*hf:NAME_OR_PATH.*precomputed:PATH"):
        get_teacher(spec)
