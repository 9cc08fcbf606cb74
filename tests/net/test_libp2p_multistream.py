"""Two sides agree on a protocol by name, or find that they cannot."""

import pytest
import trio
import trio.testing

from p2pnode.errors import Disconnected, LinkError, Unreachable
from p2pnode.net.multistream import agree, propose

GREETING = b"\x13/multistream/1.0.0\n"


class End:
    """One end of an in-memory pipe."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = bytes(await self._stream.receive_some(size - len(data)))
            if not more:
                raise Disconnected("end")
            data += more
        return data

    async def write(self, data: bytes) -> None:
        await self._stream.send_all(data)


def pipe() -> tuple[End, End]:
    one, other = trio.testing.memory_stream_pair()
    return End(one), End(other)


async def test_a_name_that_both_speak_is_agreed_on() -> None:
    opener, other = pipe()
    agreed: list[str] = []

    async def answer() -> None:
        agreed.append(await agree(other.read, other.write, ["/a/1", "/b/1"]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        await propose(opener.read, opener.write, "/b/1")
    assert agreed == ["/b/1"]


async def test_a_name_that_only_one_speaks_is_unreachable() -> None:
    opener, other = pipe()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(agree, other.read, other.write, ["/a/1"])
        with pytest.raises(Unreachable, match="/b/1"):
            await propose(opener.read, opener.write, "/b/1")
        nursery.cancel_scope.cancel()


async def test_a_peer_that_is_refused_may_ask_for_something_else() -> None:
    opener, other = pipe()
    await opener.write(GREETING + b"\x05/b/1\n" + b"\x05/a/1\n")
    assert await agree(other.read, other.write, ["/a/1"]) == "/a/1"
    assert await opener.read(len(GREETING) + 4 + 6) == GREETING + b"\x03na\n" + b"\x05/a/1\n"


@pytest.mark.parametrize(
    "talk", [b"\x00", b"\xff\xff\xff\xff\x7f", b"\x04abc\n", GREETING + b"\x00", GREETING + 9 * b"\x03/x\n"]
)
async def test_other_talk_ends_the_conversation(talk: bytes) -> None:
    opener, other = pipe()
    await opener.write(talk)
    with pytest.raises(LinkError):
        await agree(other.read, other.write, ["/a/1"])
