"""`p2pnode swarm`: make, look at, sign and pass on what a swarm agrees on.

A manifest is a file for people, so these commands only ever write it whole, with every default in
it, and say what to type next. What can be chosen, and what is chosen for whoever chooses nothing,
comes from the task.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from p2pnode.cli import options
from p2pnode.cli.manifest import make_manifest
from p2pnode.cli.own import tried
from p2pnode.cli.table import lines, propose
from p2pnode.identity.keys import load_key
from p2pnode.identity.link import MOST_PEERS, Link, check_address
from p2pnode.identity.manifest import Manifest, load_manifest, sign_manifest, write_manifest

_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
_JSON = options.as_json("Print one JSON object.")


def _setting(name: str, metavar: str, about: str, kind: Any = str) -> Callable[[options.C], options.C]:
    """Something that the task says when nobody else does."""
    return click.option(name, metavar=metavar, type=kind, help=f"{about}  [default: the task's]")


@click.group()
def swarm() -> None:
    """Make, show, sign or share a swarm's manifest."""


@swarm.command()
@_FILE
@click.option(
    "--task",
    metavar="TASK",
    help=f"What is learned: {options.TASKS}; or a task of your own in a file: mymodel.py:task.  "
    "[default: digits, or tabular with --from-data]",
)
@options.path(
    "--from-data",
    about="Learn from tables like this one (.csv, .npz, .parquet): the manifest gets its columns, "
    "never its rows.  [default: none]",
)
@click.option(
    "--target", metavar="COLUMN", help="With --from-data: the column to be predicted.  [default: none]"
)
@click.option(
    "--ignore",
    metavar="COLUMN",
    multiple=True,
    help="With --from-data: a column to leave out. Repeatable.  [default: none]",
)
@click.option("--name", metavar="NAME", help="What people call the swarm.  [default: the file's name]")
@_setting("--rule", "RULE", "How nodes average.")
@_setting("--codec", "CODEC", "How parameters are written for the way.")
@_setting("--rounds", "ROUNDS", "Rounds of each node.", int)
@_setting("--steps", "STEPS", "Local steps in a round.", int)
@_setting("--optimizer", "OPTIMIZER", "Of the local steps: sgd, momentum, adam, adamw.")
@_setting("--learning-rate", "RATE", "Size of a local step.", float)
@_setting("--batch-size", "ROWS", "Samples in a local step.", int)
@click.option(
    "--seed", metavar="NUMBER", type=int, help="Where all agreed randomness begins.  [default: random]"
)
@options.path("--author-key", about="Sign with the key in this file.  [default: not signed]")
@options.addresses(
    "--hint", "hints", about="Address of a member or bootstrap node. Repeatable.  [default: none]"
)
@click.option(
    "--description",
    metavar="LINE",
    default="",
    help="One line for people who consider joining.  [default: empty]",
)
@_JSON
def create(
    file: Path,
    task: str | None,
    from_data: Path | None,
    target: str | None,
    ignore: tuple[str, ...],
    author_key: Path | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Write a new swarm's manifest to FILE, with every setting explained in it."""
    from p2pnode.learning import own, registry

    key = load_key(author_key) if author_key else None
    proposal = propose(from_data, target, ignore)
    name = task or ("tabular" if proposal else "digits")
    mine = tried(name, own.run(own.read(name))) if own.is_file(name) else None
    described = proposal.schema.options() if proposal else None
    manifest = make_manifest(file.stem[:64], mine or name, chosen, described, key)
    registry.build(manifest, mine)  # refuses what no node could start with
    write_manifest(file, manifest)
    if as_json:
        click.echo(json.dumps({"file": str(file), **_summary(manifest)}))
        return
    click.echo(f"swarm {manifest.swarm_id}")
    click.echo(f"{file} says everything this swarm agrees on; editing it makes another swarm.")
    words = ""
    if mine:
        click.echo("Whoever joins needs a copy of the task's file: p2pnode sends no code.")
        words = f" --task {name}"
    if from_data and proposal:
        click.echo("\n".join(lines(from_data, proposal)))
        words = f" --data {from_data}"
    click.echo(f"Next: p2pnode join {file}{words}")


@swarm.command()
@_FILE
@_JSON
def show(file: Path, as_json: bool) -> None:
    """Check FILE and say which swarm it stands for."""
    manifest = load_manifest(file)
    summary = _summary(manifest)
    if as_json:
        click.echo(json.dumps(summary))
        return
    click.echo(f"swarm      {manifest.swarm_id}")
    click.echo(f"name       {manifest.name}")
    click.echo(f"author     {_author(manifest)}")
    for section in ("task", "rule", "training", "admission", "bounds", "hints"):
        click.echo(f"{section:10} {_line(summary[section])}")


@swarm.command()
@_FILE
@options.path("--key", "key_file", required=True, about="The author's key.")
def sign(file: Path, key_file: Path) -> None:
    """Sign FILE as its author; nothing else in it changes."""
    manifest = sign_manifest(file, load_key(key_file))
    click.echo(f"swarm {manifest.swarm_id}")
    click.echo(f"signed by {manifest.author}")


@swarm.command()
@_FILE
@options.addresses("--peer", "peers", about="Full address of a member. Repeatable.  [default: those of FILE]")
def link(file: Path, peers: tuple[str, ...]) -> None:
    """Print the link to FILE's swarm, to be pasted in quotes after `p2pnode join`."""
    manifest = load_manifest(file)
    addresses = dict.fromkeys([*map(check_address, peers), *manifest.hints.addresses])
    click.echo(Link(manifest.swarm_id, tuple(addresses)[:MOST_PEERS]))


def _summary(manifest: Manifest) -> dict[str, Any]:
    table = asdict(manifest)
    del table["signature"]
    return {"swarm": manifest.swarm_id, "signed": manifest.signature is not None, **table}


def _author(manifest: Manifest) -> str:
    if not manifest.author:
        return "nobody"
    signature = "signed" if manifest.signature else "NOT signed: anybody may have written this name"
    return f"{manifest.author} ({signature})"


def _line(table: dict[str, Any]) -> str:
    """Write a table, and its options after it, as `a=1 b=2` on one line."""
    pairs = [(name, value) for name, value in table.items() if name != "options"]
    pairs += table.get("options", {}).items()
    shown = [(name, len(value) if isinstance(value, dict) else value) for name, value in pairs]
    return " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in shown)
