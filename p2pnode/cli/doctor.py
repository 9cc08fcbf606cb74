"""`p2pnode doctor`: what would keep a node from running here, before somebody finds out by waiting."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2pnode.cli import options
from p2pnode.cli.checks import MACHINE, Check, Finding, Plan, Verdict
from p2pnode.cli.named import Named, named
from p2pnode.cli.reach import NETWORK

if TYPE_CHECKING:
    from rich.table import Table

CHECKS: tuple[Check, ...] = (*MACHINE, *NETWORK)

_STYLES = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


@click.command()
@click.argument("swarm", required=False)
@options.addresses(
    "--peer",
    "peers",
    callback=options.dialable,
    about="Full address of a bootstrap node or member to try. Repeatable.  [default: those of SWARM]",
)
@options.addresses(
    "--listen", about="Multiaddr that a node would listen on. Repeatable.  [default: any free port]"
)
@options.data_dir("Where a node would keep its files.  [default: by swarm]")
@options.no_color
@options.as_json("Print one JSON object instead of a table.")
def doctor(
    swarm: str | None,
    peers: tuple[str, ...],
    listen: tuple[str, ...],
    data_dir: Path | None,
    no_color: bool,
    as_json: bool,
) -> None:
    """Look at what a node needs, here and at the peers of SWARM, a manifest or a link: what to do about it.

    Only addresses that are given are contacted. The exit code is 1 when something fails.
    """
    plan = make_plan(swarm, peers, listen, data_dir)
    findings = [finding for check in CHECKS for finding in check(plan)]
    failed = any(finding.verdict == Verdict.FAIL for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "findings": [asdict(finding) for finding in findings]}))
    else:
        from rich.console import Console

        Console(highlight=False, no_color=no_color or None).print(table(findings))
    raise SystemExit(int(failed))


def make_plan(
    swarm: str | None, peers: tuple[str, ...], listen: tuple[str, ...], data_dir: Path | None
) -> Plan:
    """What joining `swarm` would need.

    Raises:
        UserError: there is no such manifest, or it is none.
    """
    from p2pnode.config import Config
    from p2pnode.storage.directory import default_data_dir

    swarm_id, manifest, known = Named("node", None, ()) if swarm is None else named(swarm)
    addresses = tuple(dict.fromkeys([*peers, *known]))
    return Plan(manifest, listen or Config.listen, addresses, data_dir or default_data_dir(swarm_id[:12]))


def table(findings: Iterable[Finding]) -> "Table":
    """A row each, and what to do below those that need it."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        style = _STYLES[finding.verdict]
        drawn.add_row(Text(finding.verdict, style), finding.check, Text(finding.found))
        if finding.advice:
            drawn.add_row("", "", Text(f"-> {finding.advice}", style))
    return drawn
