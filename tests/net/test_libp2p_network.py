"""What the libp2p network promises beyond the contract: dying peers, dialling, and going away."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import trio

from p2pnode.errors import Disconnected, Unreachable, UserError
from p2pnode.net.host import Libp2pNetwork, open_network
from p2pnode.net.limits import MOST_CONNECTIONS_PER_PEER
from p2pnode.net.multistream import receive
from p2pnode.net.yamux import YamuxStream
from p2pnode.ports import PeerAddress, Stream

from .contract import MIB, PROTOCOL, ask_echo, echo, noise, parked_handler
from .libp2p_peers import full_address, key, peer, two_peers, until

SERVE_ECHO = """
import sys, trio
from tests.net.contract import PROTOCOL, echo
from tests.net.libp2p_peers import full_address, peer

async def main():
    async with peer(int(sys.argv[1]), sys.argv[2]) as network:
        network.serve(PROTOCOL, echo)
        print(full_address(network), flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@contextmanager
def echo_process(number: int, listen: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A peer in a process of its own, and its address."""
    command = [sys.executable, "-c", SERVE_ECHO, str(number), listen]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


# Listening


async def test_a_taken_port_is_a_line_for_the_user() -> None:
    async with peer(1) as network:
        with pytest.raises(UserError, match="port is taken"):
            async with peer(2, network.addresses[0]):
                pass


@pytest.mark.parametrize(
    "address", ["", "localhost:4001", "/ip4/127.0.0.1/udp/1", "/ip4/127.0.0.1/tcp/70000"]
)
async def test_what_cannot_be_listened_on_is_a_line_for_the_user(address: str) -> None:
    with pytest.raises(UserError, match="cannot listen on"):
        async with peer(1, address):
            pass


async def test_one_address_that_cannot_be_used_frees_the_others() -> None:
    async with peer(1) as network:
        free, taken = "/ip4/127.0.0.1/tcp/0", network.addresses[0]
        with pytest.raises(UserError, match=taken):
            async with open_network(key(2), [free, taken]):
                pass


async def test_a_port_is_free_again_at_once() -> None:
    async with peer(1) as network, peer(2) as other:
        await other.connect(full_address(network))
        address = network.addresses[0]
    async with peer(1, address) as network:
        assert network.addresses == (address,)


# Dialling


async def test_peers_that_dial_each_other_at_once_can_both_talk() -> None:
    async with peer(1) as one, peer(2) as other:
        for network, target in ((one, other), (other, one)):
            network.serve(PROTOCOL, echo)
            network.learn(PeerAddress(target.me, target.addresses))

        async def talk(network: Libp2pNetwork, target: Libp2pNetwork) -> None:
            stream = await network.open(target.me, PROTOCOL)
            assert await ask_echo(stream, b"hello") == b"hello"
            await stream.reset()

        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(talk, one, other)
                    nursery.start_soon(talk, other, one)
        assert len(one._connections.of(other.me)) <= 2


async def test_a_connection_is_used_again() -> None:
    async with two_peers() as (near, far):
        far.serve(PROTOCOL, echo)
        for _ in range(5):
            await near.connect(full_address(far))
            await (await near.open(far.me, PROTOCOL)).reset()
        assert len(near._connections.of(far.me)) == 1


async def test_an_address_that_works_is_found_behind_those_that_do_not() -> None:
    async with peer(1) as near, peer(2) as far:
        far.serve(PROTOCOL, echo)
        near.learn(PeerAddress(far.me, ("/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2", *far.addresses)))
        stream = await near.open(far.me, PROTOCOL)
        assert await ask_echo(stream, b"hello") == b"hello"


async def test_a_dial_that_failed_may_be_tried_again_at_once() -> None:
    async with peer(1) as near:
        async with peer(2) as far:
            address = full_address(far)
        with pytest.raises(Unreachable):
            await near.connect(address)
        async with peer(2, address.partition("/p2p/")[0]):
            assert await near.connect(address) == key(2).peer


async def test_connections_with_one_peer_do_not_pile_up() -> None:
    async with peer(1) as near, peer(2) as far:
        async with trio.open_nursery() as nursery:
            for _ in range(5 * MOST_CONNECTIONS_PER_PEER):
                nursery.start_soon(near._dial, full_address(far))
        await until(lambda: len(near._connections.of(far.me)) == MOST_CONNECTIONS_PER_PEER)
        await until(lambda: len(far._connections.of(near.me)) == MOST_CONNECTIONS_PER_PEER)


async def test_an_idle_connection_makes_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pnode.net.connections.MOST_CONNECTIONS", 2)
    async with peer(1) as busy, peer(2) as first, peer(3) as second, peer(4) as third:
        busy.serve(PROTOCOL, echo)
        await first.connect(full_address(busy))
        stream = await first.open(busy.me, PROTOCOL)
        assert await ask_echo(stream, b"hello") == b"hello"
        for network in (second, third):
            await network.connect(full_address(busy))
        await until(lambda: set(busy.connected) == {first.me, third.me})
        assert await ask_echo(stream, b"still here") == b"still here"


# Streams


async def test_a_cancelled_send_leaves_the_connection_to_others() -> None:
    async with two_peers() as (near, far):
        accept, accepted = parked_handler()
        far.serve("/p2pnode/park/1", accept)
        far.serve(PROTOCOL, echo)
        stream = await near.open(far.me, "/p2pnode/park/1")
        other = await accepted.receive()
        with trio.move_on_after(0.2):
            await stream.send(bytes(64 * MIB))
        lively = await near.open(far.me, PROTOCOL)
        assert await ask_echo(lively, b"still here") == b"still here"
        with pytest.raises(Disconnected):
            await receive(other, 64 * MIB)
        assert len(near._connections.of(far.me)) == 1


async def test_both_sides_send_much_while_streams_come_and_go() -> None:
    data = noise(8 * MIB, seed=1)

    async def swap(stream: Stream) -> None:
        buffer = bytearray(len(data))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send, data)
            nursery.start_soon(stream.receive_into, memoryview(buffer))
        assert buffer == data

    async with two_peers() as (near, far):
        far.serve("/p2pnode/swap/1", swap)
        far.serve(PROTOCOL, echo)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swap, await near.open(far.me, "/p2pnode/swap/1"))
            for _ in range(20):
                stream = await near.open(far.me, PROTOCOL)
                assert await ask_echo(stream, b"hello") == b"hello"
                await stream.reset()


async def test_last_words_arrive() -> None:
    words = noise(100_000, seed=1)
    async with peer(1) as far:
        accept, accepted = parked_handler()
        far.serve(PROTOCOL, accept)
        async with peer(2) as near:
            await near.connect(full_address(far))
            stream = await near.open(far.me, PROTOCOL)
            other = await accepted.receive()
            await stream.send(words)
            await stream.close()
        received = bytearray(len(words))
        await other.receive_into(memoryview(received))
        assert received == words


async def test_a_short_conversation_costs_few_bytes_besides_its_words() -> None:
    async with two_peers() as (near, far):
        far.serve(PROTOCOL, echo)
        await near.connect(full_address(far))
        before = near.traffic.sent
        for _ in range(10):
            stream = await near.open(far.me, PROTOCOL)
            for _ in range(5):  # in pieces, as messages come: no credit is sent for each
                assert await ask_echo(stream, b"hello") == b"hello"
            await stream.reset()
        assert (near.traffic.sent - before) / 10 < 400


async def test_nothing_is_left_of_many_streams_and_connections() -> None:
    async with peer(1) as near, peer(2) as far:
        far.serve(PROTOCOL, echo)
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(5):
            await near.connect(full_address(far))
            streams = [await near.open(far.me, PROTOCOL) for _ in range(10)]
            for stream in streams:
                assert await ask_echo(stream, b"hello") == b"hello"
                await stream.close()
            await until(partial(_is_idle, streams[0]))
            await near.disconnect(far.me)
        await until(lambda: trio.lowlevel.current_statistics().tasks_living == before)
        assert not [*near._connections] and not [*far._connections] and not near._dialling


def _is_idle(stream: YamuxStream) -> bool:
    return not stream._session.streams


@pytest.mark.slow
async def test_a_reader_may_be_busy_for_longer_than_the_library_waits() -> None:
    async with two_peers() as (near, far):
        accept, accepted = parked_handler()
        far.serve(PROTOCOL, accept)
        stream = await near.open(far.me, PROTOCOL)
        data = noise(2 * MIB, seed=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send, data)
            other = await accepted.receive()
            await trio.sleep(6)
            received = bytearray(len(data))
            await other.receive_into(memoryview(received))
        assert received == data


# Dying


@pytest.mark.slow
async def test_a_killed_peer_is_noticed_and_found_again_at_the_same_port() -> None:
    async with peer(1) as near:
        with echo_process(2, "/ip4/127.0.0.1/tcp/0") as (process, address):
            await near.connect(address)
            stream = await near.open(key(2).peer, PROTOCOL)
            assert await ask_echo(stream, b"hello") == b"hello"
            process.kill()
            with trio.fail_after(10), pytest.raises(Disconnected):
                await receive(stream, 1)
            with trio.fail_after(10), pytest.raises(Unreachable):
                await near.open(key(2).peer, PROTOCOL)
        with echo_process(2, address.partition("/p2p/")[0]):
            stream = await near.open(key(2).peer, PROTOCOL)
            assert await ask_echo(stream, b"back again") == b"back again"


@pytest.mark.slow
async def test_a_silent_peer_is_unreachable_and_dialled_anew_when_it_speaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with peer(1) as near:
        with echo_process(2, "/ip4/127.0.0.1/tcp/0") as (process, address):
            await near.connect(address)
            monkeypatch.setattr("p2pnode.net.host.OPEN_SECONDS", 0.3)
            os.kill(process.pid, signal.SIGSTOP)
            for _ in range(2):  # over the old connection, then dialling
                with trio.fail_after(10), pytest.raises(Unreachable):
                    await near.open(key(2).peer, PROTOCOL)
                assert near.connected == ()
            os.kill(process.pid, signal.SIGCONT)
            monkeypatch.undo()
            stream = await near.open(key(2).peer, PROTOCOL)
            assert await ask_echo(stream, b"hello") == b"hello"
