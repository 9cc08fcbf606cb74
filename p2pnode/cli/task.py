"""`p2pnode task`: help for whoever writes a task of their own (docs/TASKS.md)."""

import json
import math
from typing import TYPE_CHECKING, Any

import click

from p2pnode.cli import options

if TYPE_CHECKING:
    from p2pnode.learning.check import Report
    from p2pnode.learning.own import Own


@click.group()
def task() -> None:
    """Look at a task of your own."""


@task.command()
@click.argument("file", metavar="FILE[:NAME]")
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of what FILE raises.")
@options.as_json("Print one JSON object.")
def check(file: str, verbose: bool, as_json: bool) -> None:
    """Say whether a swarm can train the task called NAME ("task" by default) in FILE. Runs the code in it.

    Exit codes: 0 it can, perhaps with warnings; 1 it cannot, and each error says what to do; 2 there is
    no task to look at.
    """
    from p2pnode.cli.own import show_cause, showing_causes
    from p2pnode.learning import check, own

    with showing_causes(verbose):
        loaded = own.run(own.read(file))
    report = check.check(loaded.task)
    for finding in report.findings if verbose else ():
        show_cause(finding.cause)
    if as_json:
        click.echo(json.dumps(_json(loaded, report)))
    else:
        _print(loaded, report)
    raise SystemExit(1 if report.errors else 0)


def _json(loaded: "Own", report: "Report") -> dict[str, Any]:
    return {
        "task": loaded.task.name,
        "file": str(loaded.source),
        "sha256": loaded.source.sha256,
        "layout": report.layout and report.layout.digest().hex(),
        "ok": not report.errors,
        "leaves": _leaves(report),
        "parameters": _counts(report),
        "rows": report.rows and dict(zip(("train", "test"), report.rows, strict=True)),
        "losses": report.losses and dict(zip(("before", "after"), report.losses, strict=True)),
        "findings": [
            {"level": _level(finding.error), "what": finding.what, "do": finding.do}
            for finding in report.findings
        ],
    }


def _print(loaded: "Own", report: "Report") -> None:
    from p2pnode.learning.check import STEPS

    click.echo(f"task    {loaded.task.name}, {loaded.source}")
    click.echo(f"sha256  {loaded.source.sha256}")
    if report.layout:
        counts = _counts(report)
        click.echo(f"layout  {report.layout.digest().hex()}")
        click.echo(f"shared  {counts['shared']:,} parameters; {counts['private']:,} stay private\n")
        for leaf in _leaves(report):
            kind = f"{leaf['dtype']}{leaf['shape']}"
            click.echo(f"  {leaf['name']:30} {kind:24} {'shared' if leaf['shared'] else 'private'}")
        click.echo()
    if report.rows:
        click.echo("rows    {:,} to train on, {:,} to test with".format(*report.rows))
    if report.losses:
        click.echo(f"loss    {report.losses[0]:.4g}, after {STEPS} steps {report.losses[1]:.4g}")
    for finding in report.findings:
        click.echo(f"{_level(finding.error)}: {finding.what}\n    {finding.do}")
    if not report.errors:
        click.echo(f"Next: p2pnode swarm create FILE --task {loaded.source.path}:{loaded.source.name}")


def _leaves(report: "Report") -> list[dict[str, Any]]:
    if report.layout is None:
        return []
    rows = zip(report.layout.names, report.layout.leaves, report.layout.shared, strict=True)
    return [
        {"name": name, "shape": list(leaf.shape), "dtype": str(leaf.dtype), "shared": shared}
        for name, leaf, shared in rows
    ]


def _counts(report: "Report") -> dict[str, int]:
    """Parameters that travel, and that do not."""
    sizes = [math.prod(leaf["shape"]) for leaf in _leaves(report)]
    shared = sum(size for leaf, size in zip(_leaves(report), sizes, strict=True) if leaf["shared"])
    return {"shared": shared, "private": sum(sizes) - shared}


def _level(error: bool) -> str:
    return "error" if error else "warning"
