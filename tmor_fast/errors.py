"""The exceptions of tmor_fast. Everything else raises the standard ValueError, TypeError and RuntimeError."""

from __future__ import annotations

from typing import Any


class DataError(ValueError):
    """Input data cannot be used. The message names the place (file, clip, frame, joint) and the remedy."""


class BackendUnavailableError(RuntimeError):
    """The backend asked for cannot run here. The message says why and what can."""


class MissingDependencyError(ImportError):
    """An optional library is not installed. The message says which extra brings it."""


def missing(library: str, extra: str, what: str) -> MissingDependencyError:
    """The error to raise when `what` needs `library`, which the extra `extra` installs."""
    return MissingDependencyError(
        f"{what} needs the library '{library}', which is not installed. "
        f"Install it with: pip install 'tmor_fast[{extra}]'"
    )


def check_range(owner: str, config: Any, name: str, low: float, high: float) -> None:
    """Raise ValueError unless `config.name` lies in [low, high]; `owner` names the configuration in the message."""
    value = getattr(config, name)
    if not low <= value <= high:
        raise ValueError(f"{owner}.{name}: got {value}, accepted: {low} to {high}")
