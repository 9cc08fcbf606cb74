"""`p2pnode swarm`: make, look at, sign and pass on what a swarm agrees on.

A manifest is a file for people, so these commands only ever write it whole, with every default in
it, and say what to type next. What can be chosen, and what is chosen for whoever chooses nothing,
comes from the task.
"""

import json
import secrets
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pnode.cli.table import lines, propose
from p2pnode.errors import UserError
from p2pnode.identity.keys import Key, load_key
from p2pnode.identity.link import MOST_PEERS, Link, check_address
from p2pnode.identity.manifest import (
    VERSION,
    Admission,
    Bounds,
    Hints,
    Manifest,
    RuleSpec,
    TaskSpec,
    Training,
    load_manifest,
    sign_manifest,
    signed,
    write_manifest,
)

if TYPE_CHECKING:
    from p2pnode.learning.own import Own

_BOUNDS = Bounds(parameters=2**24, peers=64)  # 64 MiB a vector: ten times the largest built-in model
_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def swarm() -> None:
    """Make, show, sign or share a swarm's manifest."""


@swarm.command()
@_FILE
@click.option(
    "--task",
    metavar="TASK",
    help="What is learned: digits, breast-cancer, or a task of your own in a file: mymodel.py:task.  "
    "[default: digits, or tabular with --from-data]",
)
@click.option(
    "--from-data",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Learn from tables like this one (.csv, .npz, .parquet): the manifest gets its columns, "
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
@click.option("--rule", metavar="RULE", help="How nodes average.  [default: the task's]")
@click.option(
    "--codec", metavar="CODEC", help="How parameters are written for the way.  [default: the task's]"
)
@click.option("--rounds", metavar="ROUNDS", type=int, help="Rounds of each node.  [default: the task's]")
@click.option("--steps", metavar="STEPS", type=int, help="Local steps in a round.  [default: the task's]")
@click.option(
    "--optimizer",
    metavar="OPTIMIZER",
    help="Of the local steps: sgd, momentum, adam, adamw.  [default: the task's]",
)
@click.option(
    "--learning-rate", metavar="RATE", type=float, help="Size of a local step.  [default: the task's]"
)
@click.option(
    "--batch-size", metavar="ROWS", type=int, help="Samples in a local step.  [default: the task's]"
)
@click.option(
    "--seed", metavar="NUMBER", type=int, help="Where all agreed randomness begins.  [default: random]"
)
@click.option(
    "--author-key",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Sign with the key in this file.  [default: not signed]",
)
@click.option(
    "--hint",
    "hints",
    metavar="ADDRESS",
    multiple=True,
    help="Address of a member or bootstrap node. Repeatable.  [default: none]",
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
    author_key: Path | None,
    from_data: Path | None,
    target: str | None,
    ignore: tuple[str, ...],
    as_json: bool,
    **chosen: Any,
) -> None:
    """Write a new swarm's manifest to FILE, with every setting explained in it."""
    from p2pnode.learning.own import is_own

    key = load_key(author_key) if author_key else None
    proposal = propose(from_data, target, ignore)
    chosen["task"] = chosen["task"] or ("tabular" if proposal else "digits")
    chosen["described"] = proposal.schema.options() if proposal else {}
    manifest = _manifest(chosen, default_name=file.stem[:64], key=key)
    write_manifest(file, manifest)
    if as_json:
        click.echo(json.dumps({"file": str(file), **_summary(manifest)}))
        return
    click.echo(f"swarm {manifest.swarm_id}")
    click.echo(f"{file} says everything this swarm agrees on; editing it makes another swarm.")
    own = f" --task {chosen['task']}" if is_own(manifest.task) else ""
    if own:
        click.echo("Whoever joins needs a copy of the task's file: p2pnode sends no code.")
    if from_data and proposal:
        click.echo("\n".join(lines(from_data, proposal)))
        own = f" --data {from_data}"
    click.echo(f"Next: p2pnode join {file}{own}")


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
@click.option(
    "--key",
    "key_file",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="The author's key.",
)
def sign(file: Path, key_file: Path) -> None:
    """Sign FILE as its author; nothing else in it changes."""
    manifest = sign_manifest(file, load_key(key_file))
    click.echo(f"swarm {manifest.swarm_id}")
    click.echo(f"signed by {manifest.author}")


@swarm.command()
@_FILE
@click.option(
    "--peer",
    "peers",
    metavar="ADDRESS",
    multiple=True,
    help="Full address of a member. Repeatable.  [default: those of FILE]",
)
def link(file: Path, peers: tuple[str, ...]) -> None:
    """Print the link to FILE's swarm, to be pasted in quotes after `p2pnode join`."""
    manifest = load_manifest(file)
    addresses = dict.fromkeys([*map(check_address, peers), *manifest.hints.addresses])
    click.echo(Link(manifest.swarm_id, tuple(addresses)[:MOST_PEERS]))


def _manifest(chosen: dict[str, Any], default_name: str, key: Key | None) -> Manifest:
    """Fill the task's defaults around what was `chosen`, and refuse what no node could start with."""
    from p2pnode.learning import registry

    given = {name: value for name, value in chosen.items() if value is not None}
    names = {name: given[name] for name in ("task", "rule") if name in given}
    own = _own(given["task"])
    if own is not None:
        names["task"], given["task"] = own, own.task.name
    settings = registry.defaults(**names, described=chosen["described"]) | given
    manifest = Manifest(
        version=VERSION,
        name=settings.get("name", default_name),
        task=TaskSpec(settings["task"], settings["task_options"]),
        rule=RuleSpec(settings["rule"], settings["codec"], settings["rule_options"]),
        training=Training(
            # At random, because two swarms that are set up alike are still two swarms.
            seed=settings.get("seed", secrets.randbits(31)),
            optimizer=settings["optimizer"],
            learning_rate=settings["learning_rate"],
            batch_size=settings["batch_size"],
            steps=settings["steps"],
            rounds=settings["rounds"],
            overlap=settings["overlap"],
        ),
        admission=Admission(),
        bounds=replace(_BOUNDS, parameters=max(_BOUNDS.parameters, own.layout().size)) if own else _BOUNDS,
        author=key.did if key else "",
        hints=Hints(tuple(map(check_address, settings["hints"])), settings["description"]),
    )
    registry.build(manifest, own)
    return signed(manifest, key) if key else manifest


def _own(text: str) -> "Own | None":
    """The task in a file of one's own, tried out; None for one that ships."""
    from p2pnode.learning import own
    from p2pnode.learning.check import check

    if not own.is_file(text):
        return None
    loaded = own.run(own.read(text))
    findings = check(loaded.task).findings
    for finding in findings:
        if finding.error:
            raise UserError(f"{text}: {finding.what}: {finding.do}")
        click.echo(f"p2pnode: {text}: {finding.what}: {finding.do}", err=True)
    return loaded


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
