"""What a node of a cluster does in its own process.

Its owner says through a socket what it is to be, then hears its events: one JSON object a line, as
in the event log. A person's mistake is the last line.
"""

import contextlib
import json
import pickle
import socket
import time

import trio

from p2pnode.cluster.assignment import Assignment
from p2pnode.errors import UserError, leaves
from p2pnode.learning import own
from p2pnode.observe.stream import Subscriber, to_json
from p2pnode.session import rows_of, take_part
from p2pnode.storage.directory import DataDirectory
from p2pnode.world import Invitation, Rows


def run(channel: socket.socket) -> None:
    """Be the node that the other end of `channel` asks for, until it ends. Exit code 2: a mistake."""
    with channel.makefile("rb") as requests:
        assignment = pickle.load(requests)  # noqa: S301 - from the process that started this one

    def say(content: object) -> None:
        # A broken pipe: the owner has died, and this process is about to be killed.
        with contextlib.suppress(BrokenPipeError):
            channel.sendall(json.dumps(content).encode() + b"\n")

    mistake = ""
    try:
        live(assignment, lambda stamped: say(to_json(stamped)))
    except* UserError as mistakes:
        mistake = "; ".join(dict.fromkeys(map(str, leaves(mistakes))))
    if mistake:
        say({"mistake": mistake})
        raise SystemExit(2)


def live(assignment: Assignment, tell: Subscriber) -> None:
    """From the data directory to the exit."""
    manifest, skew = assignment.manifest, assignment.skew
    with DataDirectory.open(assignment.folder) as directory:
        task = own.run(assignment.file) if assignment.file else None
        invitation = Invitation(manifest.swarm_id, manifest, task)
        data = assignment.data
        rows = (lambda _manifest, _task: data) if isinstance(data, Rows) else rows_of(data)
        trio.run(
            take_part, directory, invitation, rows, assignment.config, (tell,), lambda: time.time() + skew
        )
