"""The exceptions of tmor_fast. Everything else raises the standard ValueError, TypeError and RuntimeError."""

from __future__ import annotations


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
