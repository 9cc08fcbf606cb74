"""What every libp2p peer may ask of another: who it is, and whether it is still there.

Identify (https://github.com/libp2p/specs/blob/master/identify/README.md) tells public key, addresses
and protocols; ping (https://github.com/libp2p/specs/blob/master/ping/ping.md) echoes 32 bytes. Our
nodes answer both, so that any libp2p tool can look at them, and ask neither of their peers: a
connection's handshake already says who is there, and a hello says the rest. Only `doctor` pings.
"""

import secrets
from collections.abc import Callable

import trio
import varint
from libp2p.crypto.ed25519 import Ed25519PublicKey
from libp2p.identity.identify.pb.identify_pb2 import Identify
from multiaddr import Multiaddr

from p2pnode.errors import Disconnected
from p2pnode.ports import Handler, Stream

IDENTIFY = "/ipfs/id/1.0.0"
PING = "/ipfs/ping/1.0.0"

_PING_BYTES = 32

PATIENCE_SECONDS = 60.0
"""Between two pings of one stream, and for each answer to be taken: a stream that nobody uses is not kept."""


def identify(
    public: bytes, addresses: Callable[[], tuple[str, ...]], protocols: Callable[[], tuple[str, ...]]
) -> Handler:
    """Answer who this node is: its Ed25519 key (32 bytes), its addresses, and what it speaks."""

    async def answer(stream: Stream) -> None:
        message = Identify(
            protocol_version="p2pnode/1",
            agent_version="p2pnode",
            public_key=Ed25519PublicKey.from_bytes(public).serialize(),
            listen_addrs=[Multiaddr(address).to_bytes() for address in addresses()],
            protocols=protocols(),
        ).SerializeToString()
        await stream.send(varint.encode(len(message)) + message)

    return answer


async def ping(stream: Stream) -> None:
    """Echo until the peer has had enough, or says nothing for a while."""
    echo = memoryview(bytearray(_PING_BYTES))
    while True:
        with trio.move_on_after(PATIENCE_SECONDS) as patience:
            await stream.receive_into(echo)
            await stream.send(echo)
        if patience.cancelled_caught:
            raise Disconnected("a ping that has had enough")


async def round_trip(stream: Stream) -> float:
    """Seconds that a ping takes to its peer and back.

    Raises:
        Disconnected: the stream ended, or something else came back.
    """
    sent, echo = secrets.token_bytes(_PING_BYTES), bytearray(_PING_BYTES)
    began = trio.current_time()
    await stream.send(sent)
    await stream.receive_into(memoryview(echo))
    if echo != sent:
        raise Disconnected("a ping came back as something else")
    return trio.current_time() - began
