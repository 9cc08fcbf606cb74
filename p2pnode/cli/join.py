"""`p2pnode join`: take part in a swarm with data of one's own."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2pnode.cli.options import at_least, dialable, speaking
from p2pnode.cli.own import agreed, showing_causes
from p2pnode.errors import UserError
from p2pnode.machine import allow_files, end_at_once

if TYPE_CHECKING:
    from p2pnode.observe.console import Voice

MOST_UNEVEN = 0.01
"""Below, every label is in one pair of hands already, and the numbers run out of floating point."""

SCHEME = re.compile("[A-Za-z][A-Za-z0-9+.-]+:")
"""How a link begins, of whatever kind; a file's name that looks like one is written with `./` before it."""


def parse_shard(text: str) -> tuple[int, int]:
    """`2/5` as (1, 5): the second of five.

    Raises:
        UserError: it is nothing of the kind.
    """
    index, slash, nodes = text.partition("/")
    if slash and index.isdecimal() and nodes.isdecimal() and 1 <= int(index) <= int(nodes):
        return int(index) - 1, int(nodes)
    raise UserError(f"--shard {text}: expected e.g. 2/5, the second of five parts")


@click.command()
@click.argument("swarm")
@click.option(
    "--data",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Rows to learn from: a table (.csv, .npz, .parquet) where the swarm's task is `tabular`, else .npz "
    "with arrays x and y.  [default: none: say this or --shard]",
)
@click.option(
    "--test",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Rows to judge the model by, of the same form.  [default: the task's, if it has any]",
)
@click.option(
    "--any-units", is_flag=True, help="Take a table whose numbers are of another size than the swarm's."
)
@click.option(
    "--shard",
    metavar="PART/PARTS",
    help="Learn from a part of the task's own data instead, e.g. 2/5: the second of five.  "
    "[default: none: say this or --data]",
)
@click.option(
    "--uneven",
    metavar="ALPHA",
    type=float,
    callback=at_least(MOST_UNEVEN),
    help="With --shard: deal labels unevenly; 0.3 is very, 100 hardly.  [default: evenly]",
)
@click.option(
    "--task",
    metavar="TASK",
    help="Where the swarm's task is in a file: your copy of that, e.g. mymodel.py:task.  "
    "[default: none, for tasks that are built in]",
)
@click.option("--yes", is_flag=True, help="Run the code in the task's file without asking.")
@click.option(
    "--data-dir",
    metavar="DIRECTORY",
    type=click.Path(path_type=Path),
    help="Where this node keeps its files.  [default: by swarm]",
)
@click.option(
    "--listen",
    metavar="ADDRESS",
    multiple=True,
    help="Multiaddr to listen on. Repeatable.  [default: any free port]",
)
@click.option(
    "--peer",
    "peers",
    metavar="ADDRESS",
    multiple=True,
    callback=dialable,
    help="Full address of a member or bootstrap node. Repeatable.  [default: those of SWARM]",
)
@click.option(
    "--mdns/--no-mdns", default=True, show_default=True, help="Look for members on the local network."
)
@click.option(
    "--wait-peers",
    metavar="MEMBERS",
    default=1,
    show_default=True,
    callback=at_least(0),
    help="Members to wait for before the first round.",
)
@click.option(
    "--wait",
    metavar="SECONDS",
    default=30.0,
    show_default=True,
    callback=at_least(0.0),
    help="Seconds to wait for them at most.",
)
@click.option(
    "--save-every",
    metavar="SECONDS",
    default=30.0,
    show_default=True,
    callback=at_least(0.0),
    help="Seconds between two checkpoints at least.",
)
@speaking
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def join(
    swarm: str,
    data: Path | None,
    test: Path | None,
    any_units: bool,
    shard: str | None,
    uneven: float | None,
    task: str | None,
    yes: bool,
    data_dir: Path | None,
    listen: tuple[str, ...],
    peers: tuple[str, ...],
    mdns: bool,
    wait_peers: int,
    wait: float,
    save_every: float,
    as_json: bool,
    voice: "Voice",
) -> None:
    """Take part in SWARM: the file of its manifest, or a link to it."""
    end_at_once()
    allow_files()  # before the imports, which open some
    import trio

    from p2pnode import session
    from p2pnode.config import Config, Saving, Start
    from p2pnode.identity.link import parse_link
    from p2pnode.identity.manifest import load_manifest
    from p2pnode.learning.data import Shard
    from p2pnode.node import Invitation
    from p2pnode.observe.tally import Tally
    from p2pnode.storage.directory import DataDirectory, default_data_dir

    if (data is None) == (shard is None):
        raise UserError(
            "say what to learn from: --data FILE, or --shard 1/3 for a part of the task's own data"
        )
    if uneven is not None and shard is None:
        raise UserError("--uneven deals out the task's own data: it goes with --shard")
    source: Path | Shard
    source = Shard(*parse_shard(shard), uneven) if shard else data  # type: ignore[assignment]
    if SCHEME.match(swarm):
        link = parse_link(swarm)
        invitation, known = Invitation(link.swarm_id), link.peers
    else:
        manifest = load_manifest(Path(swarm))
        invitation, known = Invitation(manifest.swarm_id, manifest), manifest.hints.addresses
    config = Config(
        listen=listen or Config.listen,
        peers=tuple(dict.fromkeys([*peers, *known])),
        mdns=mdns,
        start=Start(wait_peers, wait),
        saving=Saving(save_every),
    )
    tally = Tally()
    folder = data_dir or default_data_dir(invitation.swarm_id[:12])
    with voice.logging(), showing_causes(voice.verbose > 0), DataDirectory.open(folder) as directory:
        if task is not None:
            invitation = replace(invitation, own=agreed(task, invitation.manifest, directory.accepted, yes))
        show = voice.printer()
        rows = session.rows_of(source, test, any_units)
        trio.run(session.take_part, directory, invitation, rows, config, (show, tally))
    if as_json:
        click.echo(json.dumps(tally.to_json()))
