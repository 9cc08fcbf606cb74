"""One whole node, from its first hello to its goodbye.

This is where the parts meet: membership keeps the view, the trainer owns the parameters, the
exchanger averages, the rounds drive both, settling ends them. They run in one nursery; each is told
only what it needs. What a node is given of the world outside (network, discovery, a place to
compute, disk, randomness) comes in as arguments, so that the same node runs over libp2p and, for
tests and simulations, over an in-memory network under a virtual clock.
"""

import hashlib
import logging
from collections.abc import Callable
from random import Random

import trio

from p2pnode import events
from p2pnode.config import Config
from p2pnode.gossip import exchange, state
from p2pnode.gossip.deadlines import Deadlines
from p2pnode.gossip.exchange import Exchanger
from p2pnode.gossip.gate import Gate
from p2pnode.gossip.known import Known
from p2pnode.gossip.membership import Membership
from p2pnode.gossip.rounds import Rounds
from p2pnode.gossip.search import search
from p2pnode.gossip.settle import Settling
from p2pnode.gossip.state import Donor, catch_up, fetch_manifest
from p2pnode.gossip.view import Stage, View
from p2pnode.identity.keys import Key
from p2pnode.identity.manifest import Manifest
from p2pnode.keeping import Keeping
from p2pnode.learning import memory
from p2pnode.learning.data import Dataset
from p2pnode.learning.task import Task
from p2pnode.ports import PeerAddress
from p2pnode.trainer import Trainer
from p2pnode.world import Invitation, Rows, World

_log = logging.getLogger(__name__)

FIRST_VIEW = 64  # peers in view until the manifest says how many it may be


class Node:
    """A member of one swarm.

    Args:
        key: who it is.
        incarnation: larger at every start with the same key.
        invitation: which swarm.
        rows: loads this node's data, once the manifest and its task are known. Raises UserError.
        config: its own choices.
        world: what it is given.
    """

    def __init__(
        self,
        key: Key,
        incarnation: int,
        invitation: Invitation,
        rows: Callable[[Manifest, Task], Rows],
        config: Config,
        world: World,
    ) -> None:
        self._invitation = invitation
        self._rows = rows
        self._config = config
        self._world = world
        self._seed = int.from_bytes(hashlib.sha256(key.public).digest()[:4], "big")
        self._deadlines = Deadlines()
        self._trainer: Trainer | None = None
        self._exchanger: Exchanger | None = None
        self._keeping = Keeping(
            world.directory, invitation.swarm_id, world.compute, world.publish, config.saving
        )
        self._work = trio.CancelScope()
        self._stop = trio.Event()
        self._reason = "signal"
        self.gate = Gate()  # shut while a person has paused training
        self.membership = Membership(
            network=world.network,
            key=key,
            swarm=bytes.fromhex(invitation.swarm_id),
            incarnation=incarnation,
            view=View(FIRST_VIEW),
            publish=world.publish,
            random=Random(f"{self._seed} {incarnation}"),
            interval=config.hello,
            deadlines=self._deadlines,
        )

    async def run(self) -> None:
        """Take part until the rounds are done and settled, or until `stop`.

        Raises:
            UserError: the data, the directory or the manifest does not fit, or another process with
                this key started later. Raised from within nurseries, so possibly in a group.
        """
        membership = self.membership
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_when_asked)
            with self._work:
                self._world.network.on_fault = membership.fault
                await nursery.start(membership.run)
                known = Known(self._config.peers, self._world.network, membership.random)
                sources, earlier = [known, *self._world.discoveries], self._keeping.peers()
                nursery.start_soon(search, membership, self._invitation.swarm_id, sources, earlier)
                await self._take_part()
            with trio.move_on_after(self._deadlines.first(), shield=True):
                await self._leave()
            nursery.cancel_scope.cancel()
        traffic = self._world.network.traffic
        reason = self._reason if self._work.cancelled_caught else "finished"
        self._world.publish(events.Stopped(reason, traffic.sent, traffic.received))

    def stop(self, reason: str = "signal") -> None:
        """End in good order: finish or abort the exchange, save, say goodbye."""
        self._reason = reason
        self._stop.set()

    async def checkpoint(self) -> events.Checkpointed | events.NotSaved | None:
        """Save now; what came of it, None when there is nothing to save yet, or nowhere to."""
        return None if self._trainer is None else await self._save(self._trainer)

    async def _end_when_asked(self) -> None:
        await self._stop.wait()
        if self._exchanger is not None:
            with trio.move_on_after(self._deadlines.first()):
                await self._exchanger.close()
        self._work.cancel()

    # --- the life of a node, in its order ---

    async def _take_part(self) -> None:
        manifest = self._invitation.manifest or self._keeping.manifest()
        if manifest is None:
            manifest = await fetch_manifest(self.membership, self._invitation.swarm_id)
        self._keeping.keep_manifest(manifest)
        trainer = await self._make_trainer(manifest)
        if self._keeping.settled:
            return
        exchanger = self._serve(manifest, trainer)
        self._world.publish(
            events.NodeReady(
                self._world.network.me, self._world.network.addresses, manifest.swarm_id, trainer.round
            )
        )
        await trainer.warm_up()
        self.membership.standing.stage = Stage.TRAINING
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.membership.greet_all)
            await self._wait_for_peers()
        await self._catch_up(trainer, manifest)
        exchanger.slot.closed = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._say_when_alone)
            await self._rounds(manifest, trainer, exchanger).run()
            nursery.cancel_scope.cancel()
        await self.gate.passed()
        await self._settle(trainer, exchanger)

    async def _make_trainer(self, manifest: Manifest) -> Trainer:
        def build() -> Trainer:
            learner = self._world.build(manifest, self._invitation.own)
            memory.check(learner, memory.available())
            rows = self._rows(manifest, learner.task)
            _mention_few(rows.train, manifest.training.batch_size)
            overlap = manifest.training.overlap
            world = self._world
            return Trainer(learner, rows.train, rows.probes, world.compute, world.beside, self._seed, overlap)

        trainer = await self._world.compute(build)
        await self._keeping.restore(trainer)
        self._trainer = trainer
        membership = self.membership
        membership.manifest = manifest
        membership.view.limit = manifest.bounds.peers
        membership.standing.layout = trainer.layout
        membership.standing.round = trainer.round
        return trainer

    def _serve(self, manifest: Manifest, trainer: Trainer) -> Exchanger:
        membership, network = self.membership, self._world.network
        exchanger = Exchanger(
            network=network,
            model=trainer,
            incarnation=membership.incarnation,
            view=membership.view,
            publish=self._world.publish,
            fault=membership.fault,
            suspect=membership.suspect,
            deadlines=self._deadlines,
        )
        exchanger.slot.gate = self.gate
        exchanger.slot.closed = True  # until this node has a model worth averaging
        donor = Donor(
            manifest=manifest.canonical(),
            model=trainer,
            compute=self._world.compute,
            known=membership.view.__contains__,
            fault=membership.fault,
            deadlines=self._deadlines,
        )
        self._exchanger = exchanger
        network.serve(exchange.PROTOCOL, exchanger.serve)
        network.serve(state.PROTOCOL, donor.serve)
        return exchanger

    async def _wait_for_peers(self) -> None:
        membership, start = self.membership, self._config.start
        with trio.move_on_after(start.wait):
            while len(membership.view.partners(trio.current_time())) < start.peers:
                await membership.changed.wait()

    async def _say_when_alone(self) -> None:
        """A node without peers is no failure, only worth a line; and one more when there are some."""
        membership, alone = self.membership, False
        while True:
            changed, peers = membership.changed, len(membership.view)
            if alone != (peers == 0):
                alone = not alone
                self._world.publish(events.Alone() if alone else events.InCompany(peers))
            await changed.wait()

    async def _catch_up(self, trainer: Trainer, manifest: Manifest) -> None:
        membership = self.membership
        donor = await catch_up(membership, trainer)
        trainer.round = min(trainer.round, manifest.training.rounds)
        membership.standing.round = trainer.round
        if donor is not None:
            self._world.publish(events.CaughtUp(donor, trainer.round))

    def _rounds(self, manifest: Manifest, trainer: Trainer, exchanger: Exchanger) -> Rounds:
        async def finished(loss: float, seconds: float) -> None:
            last = trainer.round == manifest.training.rounds
            traffic = self._world.network.traffic
            self._world.publish(
                events.RoundFinished(
                    round=trainer.round,
                    rounds=manifest.training.rounds,
                    steps=trainer.taken,
                    loss=loss,
                    metrics=await trainer.evaluate()
                    if last or trainer.round % self._config.evaluate == 0
                    else {},
                    peers=len(self.membership.view),
                    seconds=seconds,
                    bytes_sent=traffic.sent,
                    bytes_received=traffic.received,
                )
            )
            if self._keeping.due():
                await self._save(trainer)

        random = Random(f"partners {self._seed}")
        me = self._world.network.me
        return Rounds(me, trainer, exchanger, self.membership, manifest.training, random, finished)

    async def _settle(self, trainer: Trainer, exchanger: Exchanger) -> None:
        settling = Settling(
            me=self._world.network.me,
            model=trainer,
            exchanger=exchanger,
            membership=self.membership,
            finish=self._config.finish,
            compute=self._world.compute,
        )
        settlement = await settling.run()
        self._keeping.settled = True
        metrics = await trainer.evaluate()
        self._world.publish(
            events.Settled(settlement.members, settlement.counted, settlement.spread, metrics)
        )

    async def _save(
        self, trainer: Trainer, *, last: bool = False
    ) -> events.Checkpointed | events.NotSaved | None:
        peers = [PeerAddress(member.peer, member.addresses) for member in self.membership.view.all()]
        return await self._keeping.save(trainer, peers, last=last)

    async def _leave(self) -> None:
        if self._trainer is not None:
            await self._save(self._trainer, last=True)
        await self.membership.say_goodbye()


def _mention_few(rows: Dataset, batch: int) -> None:
    if len(rows.y) < batch:
        _log.warning(
            "only %d rows to train on, fewer than a batch of %d: each batch repeats some", len(rows.y), batch
        )
