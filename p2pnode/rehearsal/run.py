"""Rehearse a scenario: the same nodes as everywhere, on a memory network, under a virtual clock.

One seed gives one run, to the last event and instant, in any process of one machine (`trace`). Running the
real protocol over a seeded, simulated network while faults are injected is FoundationDB's idea.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from p2pnode.events import Event
from p2pnode.gossip.deadlines import Deadlines
from p2pnode.learning.learner import Learner
from p2pnode.net.memory import run_deterministic
from p2pnode.rehearsal import invariants
from p2pnode.rehearsal.growth import PARTS, Taken, grown, peaks, taken
from p2pnode.rehearsal.learner import shared
from p2pnode.rehearsal.scenario import Incident, Scenario
from p2pnode.rehearsal.script import script
from p2pnode.rehearsal.sums import Sums
from p2pnode.rehearsal.swarm import Swarm
from p2pnode.rehearsal.trace import Trace

STAGGER = 1.0
"""Seconds within which the first nodes are started, one after the other."""

MOST_SAID = 20
"""Lines about what is wrong: more would say nothing new."""


@dataclass(frozen=True)
class Outcome:
    """What became of a rehearsal.

    Attributes:
        digest: of all events with their times: equal for equal runs.
        wrong: a line for each thing that did not hold.
        settled: of each node that reached a final model how many nodes it contains, and its accuracy.
        learned: seconds until the nodes had the accuracy that was expected, in the mean; None if never.
        ends: how each node ended last.
        counts: how often each kind of event was told.
        virtual, real: seconds that it took.
        longest_exchange: seconds.
        most_tasks: of one node, at once.
        widest_view: peers.
        took: what all nodes took at most, at first and in the end, if that was looked at.
    """

    scenario: str
    seed: int
    digest: str
    wrong: tuple[str, ...]
    settled: Mapping[str, tuple[int, float]]
    learned: float | None
    ends: Mapping[str, str]
    counts: Mapping[str, int]
    virtual: float
    real: float
    longest_exchange: float
    most_tasks: int
    widest_view: int
    took: tuple[Taken, Taken] | None


def rehearse(
    scenario: Scenario,
    seed: int,
    write: Callable[[str], object] | None = None,
    tell: Callable[[float], object] = lambda _: None,
) -> Outcome:
    """Carry it out.

    Args:
        scenario: what happens.
        seed: of keys, links and all chance.
        write: takes each line of the trace.
        tell: is called now and then with the virtual seconds that have passed.
    """
    sums, began = Sums(), time.perf_counter()
    deeds = script(scenario, seed)
    with ExitStack() as stack:
        folder = None
        if any(deed.do == "start" for deed in deeds):
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="p2pnode-")))
        learner = shared(scenario.learning, sums.moved)
        show = Rehearsal(scenario, seed, learner, Trace(str(folder or ""), write), sums, tell)
        virtual = run_deterministic(partial(show.run, folder, deeds), seed)
    return show.outcome(virtual, time.perf_counter() - began)


class Rehearsal:
    """One run of one scenario."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        learner: Learner,
        trace: Trace,
        sums: Sums,
        tell: Callable[[float], object],
    ) -> None:
        self._scenario = scenario
        self._seed = seed
        self._learner = learner
        self._longest = Deadlines().longest(2 * 4 * learner.size)  # of an exchange, in seconds
        self._trace = trace
        self._sums = sums
        self._tell = tell
        self._wrong: dict[str, None] = {}
        self._most_tasks = 0
        self._widest_view = 0
        self._learned: float | None = None
        self._samples: list[Taken] = []
        self._swarm: Swarm

    async def run(self, folder: Path | None, deeds: Sequence[Incident]) -> float:
        """From the first start to the last end; returns when that was."""
        scenario = self._scenario
        async with trio.open_nursery() as nursery:
            self._swarm = swarm = Swarm(
                scenario, self._seed, self._learner, folder, nursery, self._say, self._sums
            )
            with trio.move_on_at(scenario.end) as scope:
                await self._play([deed for deed in deeds if deed.at == 0])
                for index in range(scenario.nodes):
                    await swarm.start(index)
                    await trio.sleep(STAGGER / scenario.nodes)
                nursery.start_soon(self._watch)
                await self._play([deed for deed in deeds if deed.at > 0])
                await self._end()
            ended = trio.current_time()
            late = [life.name for life in swarm.living()]
            if scope.cancelled_caught:
                self._note([f"not ended after {ended:.0f} s: {', '.join(late[:8])}"])
            nursery.cancel_scope.cancel()
        return ended

    def _say(self, name: str, event: Event) -> None:
        self._trace.event(trio.current_time(), name, event)

    async def _end(self) -> None:
        if self._scenario.hours:
            await trio.sleep_until(self._scenario.hours * 3600)
            for life in self._swarm.living():
                life.stop()
        for life in self._swarm.living():
            await life.ended.wait()

    async def _play(self, deeds: Sequence[Incident]) -> None:
        for deed in deeds:
            if 0 < self._scenario.hours * 3600 <= deed.at:
                break
            await trio.sleep_until(max(deed.at, trio.current_time()))
            self._trace.deed(trio.current_time(), str(deed))
            await self._do(deed)

    async def _do(self, deed: Incident) -> None:
        swarm, harm = self._swarm, self._swarm.harm.deeds.get(deed.do)
        if harm is not None:
            harm(deed)
        elif deed.do in ("kill", "leave"):
            end = swarm.kill if deed.do == "kill" else swarm.leave
            async with trio.open_nursery() as nursery:
                for node in deed.nodes:
                    nursery.start_soon(end, str(node))
        else:
            for node in deed.nodes:
                await swarm.start(node, twin=deed.do == "twin")

    # --- what must hold ---

    async def _watch(self) -> None:
        scenario = self._scenario
        while True:
            await trio.sleep(scenario.look)
            self._tell(trio.current_time())
            seen = self._swarm.glimpses()
            self._note(invariants.bounded(seen, scenario.view))
            self._note(invariants.connected(seen, scenario.grace))
            self._note(invariants.going_on(seen, scenario.pace, self._longest))
            self._most_tasks = max([self._most_tasks, *(one.tasks for one in seen)])
            self._widest_view = max([self._widest_view, *(len(one.view) for one in seen)])
            self._look_further(sum(one.tasks for one in seen))

    def _look_further(self, tasks: int) -> None:
        """At what only some scenarios ask for."""
        expect, now = self._scenario.expect, trio.current_time()
        if self._learned is None and 0 < expect.learned <= self._swarm.accuracy():
            self._learned = now
        if 0 < expect.steady * 3600 <= now:
            self._samples.append(taken(tasks, self._swarm.folder))

    def _note(self, lines: Iterable[str]) -> None:
        for line in lines:
            if len(self._wrong) < MOST_SAID:
                self._wrong[line] = None

    def outcome(self, virtual: float, real: float) -> Outcome:
        """What became of it."""
        swarm = self._swarm
        settled = {
            name: (event.counted, event.metrics["test_accuracy"]) for name, event in swarm.settled.items()
        }
        self._note(self._sums.wrong)
        self._note(self._sums.one_sided())
        self._note(invariants.in_time(swarm.longest, self._longest))
        self._note(invariants.ended_well(self._scenario, settled, self._learned, self._trace.counts))
        if self._scenario.expect.steady and len(self._samples) < PARTS:
            self._note(["it ended before growth could be looked at"])
        took = peaks(self._samples) if self._samples else None
        self._note(grown(*took) if took else ())
        return Outcome(
            scenario=self._scenario.name,
            seed=self._seed,
            digest=self._trace.digest,
            wrong=tuple(self._wrong),
            settled=settled,
            learned=self._learned,
            ends={name: life.end for name, life in swarm.lives.items()},
            counts=dict(sorted(self._trace.counts.items())),
            virtual=virtual,
            real=real,
            longest_exchange=swarm.longest,
            most_tasks=self._most_tasks,
            widest_view=self._widest_view,
            took=took,
        )
