"""What a check found: each finding says where, what, and what to do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tmor_fast.atomic import new_file

SEVERITIES = ("error", "warning")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        severity: "error" (the data cannot be used as it is) or "warning" (it can, but it is hardly what was meant).
        kind: short name of the rule, e.g. "not-finite"; findings are counted by it.
        what: what is wrong, in words.
        remedy: what to do about it.
        file: file it is in, "" where the caller knows.
        clip: clip_id, "" for a whole file.
        frame: first frame, counted from 0 within the clip; None for all.
        last_frame: last frame of the stretch; None for `frame` alone.
        person: person slot, None for all.
        joint: name of the joint, "" for the whole body.
    """

    severity: str
    kind: str
    what: str
    remedy: str
    file: str = ""
    clip: str = ""
    frame: int | None = None
    last_frame: int | None = None
    person: int | None = None
    joint: str = ""

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity {self.severity!r}; accepted: {', '.join(SEVERITIES)}")

    @property
    def frames(self) -> str:
        """The frames in words: "7", "7 to 9", or "" for all."""
        if self.frame is None:
            return ""
        return str(self.frame) if self.last_frame in (None, self.frame) else f"{self.frame} to {self.last_frame}"

    @property
    def place(self) -> str:
        """Clip, frames, person and joint in words."""
        parts = (
            f"clip {self.clip!r}" if self.clip else "",
            f"frame {self.frames}" if self.frame is not None else "",
            f"person {self.person}" if self.person is not None else "",
            f"joint {self.joint!r}" if self.joint else "",
        )
        return ", ".join(part for part in parts if part)

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.place, f"{self.what}; {self.remedy}") if part)


@dataclass
class Report:
    """All findings about one path, and how much was looked at.

    Args:
        path: what was checked.
        format: "store", "penn", "npz", "pyskl", "unik" or "pose-json".
        findings: in the order of the data, part by part.
        clips: clips that could be read.
        frames: frames of those.
        joints: joints of those frames, over all person slots.
        observed: how many of the joints are valid.
    """

    path: str
    format: str
    findings: list[Finding] = field(default_factory=list)
    clips: int = 0
    frames: int = 0
    joints: int = 0
    observed: int = 0

    def add(self, findings: Iterable[Finding], file: str = "") -> None:
        """Take findings in; those without a file get `file`."""
        self.findings.extend(replace(found, file=file) if file and not found.file else found for found in findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def count(self, severity: str) -> int:
        """Number of findings of one severity."""
        return sum(found.severity == severity for found in self.findings)

    @property
    def ok(self) -> bool:
        """No errors; there may be warnings."""
        return not self.count("error")

    def kinds(self) -> list[tuple[str, str, int, int]]:
        """(severity, kind, findings, clips concerned), errors first, the most frequent first."""
        counted = Counter((found.severity, found.kind) for found in self.findings)
        clips: dict[tuple[str, str], set[str]] = {key: set() for key in counted}
        for found in self.findings:
            if found.clip:
                clips[found.severity, found.kind].add(found.clip)
        rows = [(*key, number, len(clips[key])) for key, number in counted.items()]
        return sorted(rows, key=lambda row: (SEVERITIES.index(row[0]), -row[2], row[1]))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        return {
            "path": self.path,
            "format": self.format,
            "ok": self.ok,
            "clips": self.clips,
            "frames": self.frames,
            "joints": self.joints,
            "observed": self.observed,
            "findings": [asdict(found) for found in self.findings],
        }

    def write(self, path: str | Path) -> None:
        """Write `to_dict` as a JSON file."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"
        with new_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
