"""Drives a swarm through its faults: it works, they are done and undone, and it works again."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import IO, TYPE_CHECKING

from p2pnode.chaos.actions import ACTIONS
from p2pnode.chaos.diary import Diary, Done
from p2pnode.chaos.means import disks
from p2pnode.chaos.schedule import KINDS, Fault, Moment, Need, moments
from p2pnode.chaos.usage import Usage, usage
from p2pnode.cluster.assignment import usual
from p2pnode.cluster.goal import NodeEnded
from p2pnode.cluster.launcher import prepared
from p2pnode.cluster.local import LocalCluster
from p2pnode.cluster.sync import SyncCluster
from p2pnode.config import Saving
from p2pnode.errors import UserError
from p2pnode.events import ExchangeCompleted
from p2pnode.identity.manifest import Manifest

if TYPE_CHECKING:  # it brings JAX, which only nodes need
    from p2pnode.learning.own import Own

FIRST = 180.0
"""Seconds in which every node must have averaged for the first time."""

UNEVEN = 0.3
"""Dirichlet's alpha: a node sees few of the classes."""

SAVING = Saving(seconds=5.0)
"""Often, so that a full disk is in the way."""

BEAT = 0.2
"""Seconds between two looks at the nodes."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """What is to be done to which swarm.

    Attributes:
        nodes: how many.
        warm: seconds of work before the first fault, and after all are over, before nodes are measured.
        faults: in the order of time.
        kinds: that there may be among them.
    """

    manifest: Manifest
    nodes: int
    warm: float
    faults: Sequence[Fault]
    kinds: Sequence[str]
    own: "Own | None" = None

    def needs(self, need: Need) -> bool:
        """Whether a kind of fault does."""
        return any(need in KINDS[kind].needs for kind in self.kinds)


@dataclass(frozen=True)
class State:
    """The swarm at work: the mean of the nodes' accuracies, and what each of them takes."""

    accuracy: float
    usage: Sequence[Usage]


@dataclass
class Outcome:
    """What came of a trial.

    Attributes:
        diary: everything that happened.
        before: after the warm-up; None if it did not come so far.
        after: the faults, and as much work again.
        failure: why it was not carried through; empty if it was.
        ends: how nodes ended, where that was not in good order.
        stderr: what the nodes wrote there.
        folders: the nodes' data directories, there until the block of `carried_out` ends.
    """

    folders: Sequence[Path]
    diary: Diary = field(default_factory=Diary)
    before: State | None = None
    after: State | None = None
    failure: str = ""
    ends: Sequence[str] = ()
    stderr: str = ""


@contextmanager
def carried_out(trial: Trial, tell: Tell) -> Iterator[Outcome]:
    """Do it; the nodes have ended when the block begins, and their files are there.

    Args:
        trial: what is done.
        tell: is called with a line for people now and then.
    """
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p2pnode-chaos-")))
        errors = stack.enter_context(tempfile.TemporaryFile())
        outcome = Outcome([place / f"node-{index + 1}" for index in range(trial.nodes)])
        if trial.needs(Need.DISKS):
            stack.enter_context(disks(outcome.folders))
        server = stack.enter_context(prepared(errors, place))
        cluster = stack.enter_context(prepare(trial, place, outcome.diary).sync(live=False, server=server))
        driver = Driver(cluster, outcome, Tail(errors), tell)
        driver.drive(trial)
        for node in cluster:
            node.stop()
        ended = [node for index, node in enumerate(cluster) if index not in driver.down]
        outcome.ends = [f"{node.name} {node.end}" for node in ended if node.exit_code != 0]
        outcome.stderr = Tail(errors).read()
        yield outcome


def prepare(trial: Trial, place: Path, diary: Diary) -> LocalCluster:
    """The cluster, with its files in `place`."""
    cluster = LocalCluster(
        trial.manifest,
        trial.nodes,
        uneven=UNEVEN,
        folder=place,
        config=replace(usual(trial.nodes, trial.manifest), saving=SAVING),
        separate=trial.needs(Need.NETWORKS),
        task=trial.own,
    )
    cluster.subscribe(diary)
    return cluster


class Tail:
    """Reads what others write to a file.

    Args:
        file: theirs; its position is left alone.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._at = 0

    def read(self) -> str:
        """What is new."""
        size = os.fstat(self._file.fileno()).st_size
        content = os.pread(self._file.fileno(), size - self._at, self._at)
        self._at += len(content)
        return content.decode(errors="replace")


@dataclass
class Driver:
    """Takes a cluster through a trial.

    Attributes:
        cluster: open.
        outcome: filled in.
        errors: what the nodes write to stderr.
        tell: as of `carried_out`.
        down: indices of nodes that are not meant to run.
    """

    cluster: SyncCluster
    outcome: Outcome
    errors: Tail
    tell: Tell
    down: set[int] = field(default_factory=set)

    def drive(self, trial: Trial) -> None:
        """From the first round to the last measurement, or to the first node that ends by itself."""
        try:
            self.cluster.wait_for(event=ExchangeCompleted, round=1, timeout=FIRST)
            self.outcome.before = self._at_work(trial.warm)
            began = time.monotonic()
            for moment in moments(trial.faults):
                self._sleep_until(began + moment.time)
                self._act(moment)
            self._wait(self._over)
            self.outcome.after = self._at_work(trial.warm)
        except (UserError, TimeoutError) as error:
            self.outcome.failure = str(error)

    def _at_work(self, seconds: float) -> State:
        """The swarm after so many seconds of work."""
        self.tell(f"{seconds:g} s of work without faults")
        self._sleep_until(time.monotonic() + seconds)
        nodes = list(self.cluster)
        taken = [usage(node.pid, node.data_dir) for node in nodes if node.pid is not None]
        return State(mean(node.accuracy for node in nodes), taken)

    def _act(self, moment: Moment) -> None:
        fault, action, done = moment.fault, ACTIONS[moment.fault.kind], self.outcome.diary.done
        names = ", ".join(str(index + 1) for index in fault.nodes)
        self.tell(f"{moment.time:.0f} s: {fault.kind} of node {names}{' is over' if moment.undo else ''}")
        now = time.monotonic()
        if moment.undo:
            next(one for one in done if one.fault is fault).ended = now
            action.undo(self.cluster, fault)
            self.down -= set(fault.nodes)
        else:
            done.append(Done(fault, now))
            if fault.kind in {"kill", "swarm"}:
                self.down |= set(fault.nodes)
            action.do(self.cluster, fault)

    def _over(self) -> bool:
        """Whether all nodes are back, or late."""
        diary, now = self.outcome.diary, time.monotonic()
        return all(
            now > min(done.ended + KINDS[done.fault.kind].within, diary.again(done, node))
            or diary.returned(done, node) is not None
            for done in diary.done
            for node in done.fault.nodes
        )

    def _sleep_until(self, due: float) -> None:
        self._wait(lambda: time.monotonic() >= due)

    def _wait(self, true: Callable[[], bool]) -> None:
        """Until `true()`, with an eye on the nodes.

        Raises:
            NodeEnded: one did, and nobody told it to.
        """
        while not true():
            time.sleep(BEAT)
            for line in self.errors.read().splitlines():
                self.tell(f"a node says: {line}")
            for index, node in enumerate(self.cluster):
                if index not in self.down and not node.running:
                    raise NodeEnded(f"{node.name} {node.end}")
