"""The command `tmor`. One file a verb; heavy libraries are imported by the verb that needs them."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of `tmor`. `tmor doctor` works with the base install; the other verbs need the extra 'train'."""
    try:
        from tmor_fast.cli.app import run
    except ImportError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        if sys.argv[1:2] == ["doctor"]:
            from tmor_fast.cli.doctor import print_report

            print_report()
            return
        sys.exit(
            f"tmor needs the library '{error.name}' for all verbs but 'doctor'. "
            "Install it with: pip install 'tmor_fast[train]'"
        )
    run()
