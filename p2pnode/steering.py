"""What a person can ask a running node, and tell it.

Each command is a method that returns plain values for the reply. They arrive over the control socket
(`observe/control`), run between two steps of everything else, and take effect in the node's own tasks:
nothing here waits for training, except a checkpoint, which takes its turn.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from p2pnode import events
from p2pnode.errors import UserError
from p2pnode.gossip.view import Member, Stage
from p2pnode.node import Node
from p2pnode.observe.tally import Tally
from p2pnode.world import World


@dataclass(frozen=True)
class Steering:
    """The commands of one node.

    Attributes:
        node: which.
        world: the one that it was given.
        tally: keeps count of its events.
        started: trio time of its start.
    """

    node: Node
    world: World
    tally: Tally
    started: float = field(default_factory=trio.current_time)

    def commands(self) -> Mapping[str, Callable[[], Awaitable[Mapping[str, Any]]]]:
        """All of them, by name."""
        every = (self.status, self.peers, self.pause, self.resume, self.checkpoint, self.stop)
        return {command.__name__: command for command in every}

    async def status(self) -> dict[str, Any]:
        """Where the node stands.

        Bytes are at the sockets, since the start; `uptime` is in seconds, `tasks` are the event loop's.
        """
        membership, tally, traffic = self.node.membership, self.tally, self.world.network.traffic
        manifest = membership.manifest
        return {
            "peer": self.world.network.me,
            "swarm": membership.swarm.hex(),
            "addresses": self.world.network.addresses,
            "pid": os.getpid(),
            "uptime": trio.current_time() - self.started,
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "stage": membership.standing.stage.name.lower(),
            "paused": self.node.gate.shut,
            "round": membership.standing.round,
            "rounds": manifest.training.rounds if manifest else None,
            "steps": tally.steps,
            "metrics": tally.settled or tally.metrics,
            "peers": len(membership.view),
            "exchanges": vars(tally.exchanges),
            "faults": tally.faults,
            "bytes_sent": traffic.sent,
            "bytes_received": traffic.received,
            "checkpoint": {"round": tally.saved, "path": tally.checkpoint} if tally.checkpoint else None,
        }

    async def peers(self) -> dict[str, Any]:
        """The members in the node's view; `heard` is how many seconds ago they last said hello."""
        return {"peers": [self._describe(member) for member in self.node.membership.view.all()]}

    def _describe(self, member: Member) -> dict[str, Any]:
        return {
            "peer": member.peer,
            "stage": member.stage.name.lower(),
            "round": member.round,
            "addresses": member.addresses,
            "heard": trio.current_time() - member.heard,
            "missed": member.misses,
            "faults": self.node.membership.view.faults(member.peer),
        }

    async def pause(self) -> dict[str, Any]:
        """Let training and exchanges wait, from the next boundary between two chunks of steps on.

        Raises:
            UserError: the rounds are done.
        """
        standing = self.node.membership.standing
        if standing.stage >= Stage.DONE:
            raise UserError("all rounds are done: nothing is left to be paused")
        if not self.node.gate.shut:
            self.node.gate.close()
            self.world.publish(events.Paused(standing.round))
        return {"paused": True, "round": standing.round}

    async def resume(self) -> dict[str, Any]:
        """Let training go on."""
        standing = self.node.membership.standing
        if self.node.gate.shut:
            self.node.gate.open()
            self.world.publish(events.Resumed(standing.round))
        return {"paused": False, "round": standing.round}

    async def checkpoint(self) -> dict[str, Any]:
        """Save now; replies when the disk has it.

        Raises:
            UserError: there is nothing to save yet, or the disk refuses.
        """
        match await self.node.checkpoint():
            case None:
                raise UserError("the node has no model to save yet: try again in a moment")
            case events.NotSaved(reason=reason):
                raise UserError(reason)
            case saved:
                return {"round": saved.round, "path": saved.path}

    async def stop(self) -> dict[str, Any]:
        """End in good order. Replies before that is done."""
        self.node.stop("command")
        return {"pid": os.getpid()}
