"""The libp2p network keeps the contract of all networks, over real sockets on the loopback."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import pytest
import trio

from p2pnode.identity.keys import Key
from p2pnode.net.host import Libp2pNetwork, open_network

from .contract import CHECKS, Check

LOOPBACK = "/ip4/127.0.0.1/tcp/0"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_the_libp2p_network_keeps_the_contract(check: Check) -> None:
    numbers = count(1)

    @asynccontextmanager
    async def start() -> AsyncIterator[Libp2pNetwork]:
        async with open_network(Key(next(numbers).to_bytes(32, "big")), [LOOPBACK]) as network:
            yield network

    with trio.fail_after(60):
        await check(start)
