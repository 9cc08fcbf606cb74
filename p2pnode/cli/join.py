"""`p2pnode join`: take part in a swarm with data of one's own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2pnode.cli import options
from p2pnode.cli.groups import Lesson, configured, learning, speaking
from p2pnode.cli.named import named
from p2pnode.cli.own import agreed, showing_causes
from p2pnode.machine import allow_files, allow_memory, end_at_once, importing

if TYPE_CHECKING:
    from p2pnode.config import Config
    from p2pnode.observe.console import Voice


@click.command()
@click.argument("swarm")
@learning
@options.own_task(
    "Where the swarm's task is in a file: your copy of that, e.g. mymodel.py:task.  "
    "[default: none, for tasks that are built in]"
)
@options.data_dir("Where this node keeps its files.  [default: by swarm]")
@configured
@speaking
@options.as_json("Print one JSON object at the end.")
def join(
    swarm: str,
    lesson: Lesson,
    task: str | None,
    yes: bool,
    data_dir: Path | None,
    config: "Config",
    voice: "Voice",
    as_json: bool,
) -> None:
    """Take part in SWARM: the file of its manifest, or a link to it."""
    end_at_once()
    allow_files()  # before the imports, which open some
    allow_memory()
    with importing():
        import trio

        from p2pnode import session
        from p2pnode.observe.tally import Tally
        from p2pnode.storage.directory import DataDirectory, default_data_dir
        from p2pnode.world import Invitation

    swarm_id, manifest, known = named(swarm)
    config = replace(config, peers=tuple(dict.fromkeys([*config.peers, *known])))
    rows, tally = session.rows_of(*lesson), Tally()
    folder = data_dir or default_data_dir(swarm_id[:12])
    with voice.logging(), showing_causes(voice.verbose > 0), DataDirectory.open(folder) as directory:
        own = agreed(task, manifest, directory.accepted, yes) if task is not None else None
        invitation = Invitation(swarm_id, manifest, own)
        trio.run(session.take_part, directory, invitation, rows, config, (voice.printer(), tally))
    if as_json:
        click.echo(json.dumps(tally.to_json()))
