"""What a node keeps on disk and finds again when it starts: manifest, states, peers.

A node without a data directory keeps nothing and finds nothing; everything else is the same. A disk
that takes nothing any more does not stop a node: it says so, trains on, and tries again later. What
earlier starts left and is damaged is said, too: a node never begins anew without a word.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from p2pnode import events
from p2pnode.config import Saving
from p2pnode.errors import UserError
from p2pnode.identity.manifest import Manifest, load_manifest, write_manifest
from p2pnode.ports import Compute, PeerAddress
from p2pnode.storage.atomic import StorageError
from p2pnode.storage.directory import DataDirectory
from p2pnode.trainer import Trainer

COMPLAIN_EVERY = 60.0
"""Seconds between two events that say that nothing can be saved."""


@dataclass
class Keeping:
    """One node's files.

    Attributes:
        directory: where they are; None keeps nothing.
        swarm_id: of the swarm that the directory belongs to.
        compute: where files are read and written.
        publish: takes events.
        saving: how often.
        settled: whether the model is the swarm's final one.
    """

    directory: DataDirectory | None
    swarm_id: str
    compute: Compute
    publish: Callable[[events.Event], None]
    saving: Saving
    settled: bool = False
    _saved: float = field(default=0.0, init=False)
    _complained: float = field(default=-math.inf, init=False)
    _returning: bool = field(default=False, init=False)  # an earlier start got as far as its manifest

    def manifest(self) -> Manifest | None:
        """The swarm's manifest, if it was kept.

        Raises:
            UserError: it is another swarm's, or damaged.
        """
        if self.directory is None or not self.directory.manifest.exists():
            return None
        try:
            manifest = load_manifest(self.directory.manifest)
        except UserError as error:
            raise UserError(f"{error}: restore it from a backup, or move it away to get it anew") from error
        if manifest.swarm_id != self.swarm_id:
            raise UserError(
                f"{self.directory.path} holds a model of another swarm: choose another --data-dir, or move "
                f"{self.directory.manifest.name} away if it is damaged"
            )
        return manifest

    def keep_manifest(self, manifest: Manifest) -> None:
        """Write the manifest down, unless it is there.

        Raises:
            UserError: another swarm's is there, or the directory cannot be written.
        """
        if self.directory is None:
            return
        self._returning = self.manifest() is not None
        if not self._returning:
            write_manifest(self.directory.manifest, manifest)

    def peers(self) -> Sequence[PeerAddress]:
        """Where peers were when this node was last saved."""
        if self.directory is None:
            return ()
        peers, wrong = self.directory.load_peers()
        if wrong is not None:
            self.publish(events.NotRestored(wrong))
        return peers

    async def restore(self, trainer: Trainer) -> None:
        """Go on from the newest whole checkpoint, if there is one.

        Raises:
            UserError: none of those there is whole, or it is of another swarm or version.
        """
        self._saved = trio.current_time()
        if (directory := self.directory) is None:
            return
        checkpoint = await self.compute(directory.load_checkpoint)
        if checkpoint is None:
            if self._returning:
                line = f"the last start, which left no checkpoint in {directory.checkpoints}: beginning anew"
                self.publish(events.NotRestored(line))
            return
        for line in checkpoint.skipped.values():
            self.publish(events.NotRestored(line))
        if checkpoint.metadata.get("swarm") != self.swarm_id:
            raise UserError(f"{directory.path} holds a model of another swarm: choose another --data-dir")
        self.settled = checkpoint.metadata.get("settled") == "yes"
        if self.settled:
            await trainer.settle()
        try:
            await trainer.restore(checkpoint.arrays)
        except ValueError as error:
            raise UserError(f"{checkpoint.path} does not fit this version ({error}): move it away") from error
        self.publish(events.Restored(trainer.round, str(checkpoint.path)))

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return trio.current_time() - self._saved >= self.saving.seconds

    async def save(
        self, trainer: Trainer, peers: Sequence[PeerAddress], *, last: bool = False
    ) -> events.Checkpointed | events.NotSaved | None:
        """Write a checkpoint, and where peers are. A disk that refuses is an event, once a minute.

        But what the `last` save of a node loses is always said. Where there is no peer, those of earlier
        saves stay written down: one of them may come back.

        Returns:
            What came of the checkpoint; None without a directory.
        """
        if (directory := self.directory) is None:
            return None
        self._saved = trio.current_time()
        arrays = await trainer.save()
        round = int(arrays["round"])  # training may go on meanwhile
        metadata = {"swarm": self.swarm_id, "settled": "yes" if self.settled else "no"}

        def write() -> str:
            return str(directory.save_checkpoint(round, arrays, metadata))

        try:
            path = await self.compute(write)
        except StorageError as error:
            return self._refused(error, last)
        saved = events.Checkpointed(round, path)
        self.publish(saved)
        try:
            if peers:
                await self.compute(lambda: directory.save_peers(peers))
        except StorageError as error:
            self._refused(error, last)
        else:
            self._complained = -math.inf
        return saved

    def _refused(self, error: StorageError, last: bool) -> events.NotSaved:
        refused = events.NotSaved(str(error))
        if last or self._saved - self._complained >= COMPLAIN_EVERY:
            self._complained = self._saved
            self.publish(refused)
        return refused
