"""The verbs of `tmor` and how their errors are shown."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.markup import escape

from tmor_fast.cli import bench, data, demo, export, options, predict, pretrain, report, stopping, transfer, zeroshot
from tmor_fast.errors import BackendUnavailableError, MissingDependencyError

# What a person can act on: bad arguments and data, files, libraries and teachers that are not there, divergence.
EXPECTED = (ValueError, OSError, FloatingPointError, BackendUnavailableError, MissingDependencyError)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="T-MOR: learn human actions from skeletons.",
)
app.add_typer(data.app, name="data")
app.command("pretrain", cls=stopping.ResumeCommand)(pretrain.pretrain)
app.command("probe")(transfer.probe)
app.command("finetune")(transfer.finetune)
app.command("zeroshot")(zeroshot.zeroshot)
app.command("predict")(predict.predict)
app.command("embed")(pretrain.embed)
app.command("export")(export.export)
app.command("options")(options.options)
app.command("report")(report.report)
app.command("demo")(demo.demo)
app.command("bench")(bench.bench)


@app.command()
def doctor() -> None:
    """What was built, what this machine can run, what is missing and how to get it."""
    from tmor_fast.cli.doctor import print_report

    print_report()


def run() -> None:
    """Run the command line; an error that a person can act on is one red line and exit status 1."""
    try:
        app()
    except EXPECTED as error:
        # Escaped: a remedy such as tmor_fast[train] holds brackets.
        message = escape(" ".join(str(error).split()))
        Console(stderr=True).print(f"[red]error:[/red] {message}", highlight=False, soft_wrap=True)
        sys.exit(1)
