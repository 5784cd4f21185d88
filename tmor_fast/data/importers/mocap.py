"""Motion capture sets as .npz files: CMU exercise sequences and Bandai-Namco's Motiondataset 2.

Both are files of `tmor_fast.data.importers.npz`; these functions know their skeleton, their licence and the split to
use, and refuse a file that is another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tmor_fast.data.importers.npz import import_npz
from tmor_fast.data.store import ClipStore

CMU_TEST_SUBJECTS = ("14",)
BANDAI_TEST_STYLES = ("elderly", "youthful")


def import_cmu(
    source: str | Path,
    out: str | Path,
    *,
    name: str = "cmu_exercise",
    test_subjects: Sequence[str] = CMU_TEST_SUBJECTS,
    skip_bad: bool = False,
    overwrite: bool = False,
) -> ClipStore:
    """Long CMU motion-capture sequences with an exercise label for every frame: for frame-wise detection.

    Args:
        source: the .npz file: joints (F, 31, 3) metres, `frame_label` (F,), `subject` a sequence.
        out: folder of the store.
        name: name of the data set.
        test_subjects: sequences of these subjects are the test split; empty keeps the file's own split.
        skip_bad: leave bad clips out, noted in dataset.json as "skipped", rather than stop at the first.
        overwrite: replace a store that exists.

    Returns:
        The store: layout "cmu31", `Clip.frame_label` set.

    Raises:
        FileNotFoundError, FileExistsError, DataError, MissingDependencyError: see `import_npz`; also a DataError if the
            joints are not CMU's, no frame has a label, or no sequence is of a test subject.
    """
    return import_npz(
        source,
        out,
        name=name,
        expect_layout="cmu31",
        require=("frame_label", "subject"),
        hold_out={"subject": list(test_subjects)} if test_subjects else None,
        licence="CMU mocap data free to use; mocap6 annotations BSD-2-Clause",
        skip_bad=skip_bad,
        overwrite=overwrite,
    )


def import_bandai(
    source: str | Path,
    out: str | Path,
    *,
    name: str = "bandai2",
    test_styles: Sequence[str] = BANDAI_TEST_STYLES,
    skip_bad: bool = False,
    overwrite: bool = False,
) -> ClipStore:
    """Bandai-Namco Research Motiondataset 2: 10 actions in 7 styles, captions; whole styles are held out.

    Args:
        source: the .npz file: joints (F, 21, 3) metres, `label`, `style`, `text` a clip.
        out: folder of the store.
        name: name of the data set.
        test_styles: clips in these styles are the test split; empty keeps the file's own split. The set has no standard
            split.
        skip_bad: leave bad clips out, noted in dataset.json as "skipped", rather than stop at the first.
        overwrite: replace a store that exists.

    Returns:
        The store: layout "bandai21".

    Raises:
        FileNotFoundError, FileExistsError, DataError, MissingDependencyError: see `import_npz`; also a DataError if the
            joints are not Bandai-Namco's or no clip has a test style.
    """
    return import_npz(
        source,
        out,
        name=name,
        expect_layout="bandai21",
        require=("label", "style"),
        hold_out={"style": list(test_styles)} if test_styles else None,
        licence="CC BY-NC 4.0",
        skip_bad=skip_bad,
        overwrite=overwrite,
    )
