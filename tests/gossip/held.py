"""What nodes of this process hold between exchanges: it must not grow."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from p2pnode.net.host import Libp2pNetwork
from tests.gossip.ends import End
from tests.net.direct import open_files
from tests.net.middleman import Middleman


@dataclass(frozen=True)
class Held:
    """How many of each."""

    files: int
    tasks: int
    threads: int
    awaited: int
    strangers: int
    slots: int


def held(ends: Sequence[End], between: Middleman | None = None) -> Held:
    """By `ends`, which have networks of libp2p, and all else in this process but a middleman."""
    networks = [end.network for end in ends if isinstance(end.network, Libp2pNetwork)]
    return Held(
        files=open_files() - (between.sockets if between else 0),
        tasks=trio.lowlevel.current_statistics().tasks_living - (between.tasks if between else 0),
        threads=threading.active_count() - len(trio._core._thread_cache.THREAD_CACHE._idle_workers),
        awaited=sum(len(network._meeting.awaited) for network in networks),
        strangers=sum(len(network._strangers) for network in networks),
        slots=sum(end.exchanger.slot.busy for end in ends),
    )
