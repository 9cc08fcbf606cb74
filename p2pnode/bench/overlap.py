"""What training feels of exchanges: steps a second with them and without, and how late the event loop is.

Two processes (`averager.py`) share two cores. One trains a small transformer without end; the other only
answers. In some phases the first has one exchange after another, in the others none, by turns. The threads
that train have the first core to themselves, one XLA thread; everything else of both processes, the event
loops and all that exchanges do beside training, has the second, also while there are no exchanges.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from p2pnode.bench.averager import Plan
from p2pnode.bench.group import group
from p2pnode.bench.stream import Spread, spread
from p2pnode.errors import UserError

SECONDS = 8.0
"""Of a phase, at least."""

ONE_THREAD = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}


@dataclass(frozen=True)
class Phase:
    """What was measured while there were exchanges, or none.

    Attributes:
        steps: a second.
        late: by how many milliseconds the event loop woke up too late, of 100 times all but one.
        exchanges: a second.
    """

    steps: float
    late: float
    exchanges: float


@dataclass(frozen=True)
class Overlap:
    """All phases, by turns.

    Attributes:
        parameters: of the model.
        alone: steps a second without exchanges.
        together: with them.
        ratio: of these two, turn by turn.
        late: of the event loop, in milliseconds, with exchanges.
        late_alone: without.
        exchanges: a second.
    """

    parameters: int
    alone: Spread
    together: Spread
    ratio: Spread
    late: Spread
    late_alone: Spread
    exchanges: Spread


def run(turns: int, tell: Callable[[int], None]) -> Overlap:
    """Measure both in each of so many turns.

    Raises:
        UserError: there is only one core.
        subprocess.CalledProcessError: a process failed; it said why on stderr.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise UserError("this process may use one core only: it takes two to see what training feels")
    plans = [
        Plan(0, trains=True, training_core=cores[0], core=cores[1]),
        Plan(1, trains=True, training_core=cores[1], core=cores[1]),
    ]
    with group(plans, ONE_THREAD) as (one, other):
        one.ask("train", other.name, SECONDS)  # takes memory, and does not count
        found = []
        for turn in range(1, turns + 1):
            tell(turn)
            found.append([Phase(**one.ask("train", peer, SECONDS)) for peer in ("", other.name)])
        return summary(int(one.ask("size")["bytes"]) // 4, found)


def summary(parameters: int, found: Sequence[Sequence[Phase]]) -> Overlap:
    """What the turns came to; in each the phase without exchanges comes first."""
    alone, together = zip(*found, strict=True)
    return Overlap(
        parameters,
        spread([phase.steps for phase in alone]),
        spread([phase.steps for phase in together]),
        spread([phase.steps / before.steps for before, phase in found]),
        spread([phase.late for phase in together]),
        spread([phase.late for phase in alone]),
        spread([phase.exchanges for phase in together]),
    )
