"""What Ctrl-C and SIGTERM do to a command that trains, and `--resume` with and without a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from typer.core import TyperCommand

# The value of `--resume` given alone.
NEWEST = "newest"

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


@contextmanager
def stoppable(remedy: str) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM (which Slurm sends) end a command with one line and status 130 or 143.

    Args:
        remedy: how to go on, for the line.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if main else None
    try:
        yield
    except KeyboardInterrupt:
        raise _stopped(INTERRUPTED, remedy) from None
    except SystemExit as stop:
        if stop.code != TERMINATED:
            raise
        raise _stopped(TERMINATED, remedy) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _stopped(status: int, remedy: str) -> typer.Exit:
    typer.echo(f"stopped; {remedy}", err=True)
    return typer.Exit(status)


class ResumeCommand(TyperCommand):
    """A command whose `--resume` may stand alone, or before a .ckpt file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_resume_value(args))


def with_resume_value(arguments: Sequence[str]) -> list[str]:
    """The arguments with `NEWEST` behind a `--resume` that no file name with an ending .ckpt or .pt follows."""
    done: list[str] = []
    for place, word in enumerate(arguments):
        done.append(word)
        following = arguments[place + 1] if place + 1 < len(arguments) else ""
        if word == "--resume" and not following.endswith((".ckpt", ".pt")):
            done.append(NEWEST)
    return done
