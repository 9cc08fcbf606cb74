"""How fast streams are: ours, the library's own, and the ceilings above both, side by side.

Machines differ, and one machine differs from one minute to the next. So every turn measures everything once,
and what is compared is compared within a turn: medians are taken over the turns, of ratios too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from p2pnode.bench.pair import Both, measure
from p2pnode.bench.transfer import BLOCKS, Load

ONE_WAY, BOTH_WAYS, MANY, TRIP = "one way", "both ways", "64 streams", "round trip"
STREAMS, TRIPS = 64, 1000

Key = tuple[str, str]
"""Path and case."""


@dataclass(frozen=True)
class Spread:
    """What several turns came to."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(median(values), min(values), max(values))


@dataclass(frozen=True)
class Transfer:
    """A row of the table.

    Attributes:
        path: name of the path, of `end.PATHS`.
        case: what was done.
        bytes: that arrived, in each turn.
        rate: MB/s, both directions together.
        sending: CPU-seconds of whoever dialled, for each GB.
        receiving: the same of whoever listened.
        memory: bytes by which the peaks of the two rose: sender, receiver.
    """

    path: str
    case: str
    bytes: int
    rate: Spread
    sending: Spread
    receiving: Spread
    memory: tuple[Spread, Spread]


@dataclass(frozen=True)
class Trip:
    """A row of the second table: microseconds until 64 bytes are back.

    Attributes:
        path: name of the path.
        middle: medians of the turns.
        slow: 99th percentiles of the turns.
    """

    path: str
    middle: Spread
    slow: Spread


@dataclass(frozen=True)
class Report:
    """All that was found.

    Attributes:
        of_ceiling: what part of the rate of cipher and socket together ours reaches.
        direct_of_ceiling: the same of a direct connection, with its own cipher.
        cpu_to_stock: CPU of both ends to that of the library's, one way.
        both_ways_to_stock: rate both ways to that of the library's.
        seconds_to_stock: wall time to that of the library's, one way.
    """

    transfers: Sequence[Transfer]
    trips: Sequence[Trip]
    of_ceiling: Spread
    direct_of_ceiling: Spread
    cpu_to_stock: Spread | None = None
    both_ways_to_stock: Spread | None = None
    seconds_to_stock: Spread | None = None


def plan(size: int, stock: bool) -> dict[Key, Load]:
    """What each turn measures, in this order.

    Args:
        size: bytes each way.
        stock: whether to measure the library's own host, too.
    """
    cases = {
        ONE_WAY: Load(size),
        BOTH_WAYS: Load(size, both=True),
        MANY: Load(size // STREAMS, STREAMS),
        TRIP: Load(trips=TRIPS),
    }
    nodes = ("ours", "stock") if stock else ("ours",)
    ceilings = [(path, ONE_WAY) for path in ("sealed", "cipher", "socket", "copy")]
    every = [*((path, case) for case in cases for path in nodes), *ceilings, ("socket", TRIP)]
    large = Load(size, blocks=BLOCKS)
    direct = {("bulk", ONE_WAY): large, ("bulk-sealed", ONE_WAY): large}
    return {(path, case): cases[case] for path, case in every} | direct


def run(jobs: dict[Key, Load], turns: int, tell: Callable[[int, Key], None]) -> Report:
    """Measure everything in each of so many turns.

    Args:
        jobs: see `plan`.
        turns: at least one.
        tell: is called before each transfer with the number of its turn, from 1.

    Raises:
        subprocess.CalledProcessError: a process failed; it said why on stderr.
    """
    found: dict[Key, list[Both]] = {key: [] for key in jobs}
    for turn in range(1, turns + 1):
        for key, load in jobs.items():
            tell(turn, key)
            found[key].append(measure(key[0], load))
    return summary(found)


def summary(found: dict[Key, list[Both]]) -> Report:
    """What the turns came to."""
    transfers = [_transfer(*key, turns) for key, turns in found.items() if key[1] != TRIP]
    trips = [_trip(path, turns) for (path, case), turns in found.items() if case == TRIP]
    ours = found["ours", ONE_WAY]
    of_ceiling = _ratio(_rate, ours, found["sealed", ONE_WAY])
    direct_of_ceiling = _ratio(_rate, found["bulk", ONE_WAY], found["bulk-sealed", ONE_WAY])
    if ("stock", ONE_WAY) not in found:
        return Report(transfers, trips, of_ceiling, direct_of_ceiling)
    stock = found["stock", ONE_WAY]
    return Report(
        transfers,
        trips,
        of_ceiling,
        direct_of_ceiling,
        _ratio(_cpu, ours, stock),
        _ratio(_rate, found["ours", BOTH_WAYS], found["stock", BOTH_WAYS]),
        _ratio(lambda both: both.seconds, ours, stock),
    )


def _transfer(path: str, case: str, turns: Sequence[Both]) -> Transfer:
    return Transfer(
        path,
        case,
        turns[0].bytes,
        spread([_rate(both) for both in turns]),
        spread([both.dialler.usage.cpu / both.bytes * 1e9 for both in turns]),
        spread([both.listener.usage.cpu / both.bytes * 1e9 for both in turns]),
        (
            spread([both.dialler.usage.memory for both in turns]),
            spread([both.listener.usage.memory for both in turns]),
        ),
    )


def _trip(path: str, turns: Sequence[Both]) -> Trip:
    trips = [sorted(both.dialler.trips) for both in turns]
    middle = [median(one) * 1e6 for one in trips]
    return Trip(path, spread(middle), spread([one[len(one) * 99 // 100] * 1e6 for one in trips]))


def _rate(both: Both) -> float:
    return both.bytes / both.seconds / 1e6


def _cpu(both: Both) -> float:
    return both.dialler.usage.cpu + both.listener.usage.cpu


def _ratio(of: Callable[[Both], float], ours: Sequence[Both], theirs: Sequence[Both]) -> Spread:
    return spread([of(one) / of(other) for one, other in zip(ours, theirs, strict=True)])
