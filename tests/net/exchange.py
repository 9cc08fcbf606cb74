"""What two peers of different makes do with a stream: random bytes both ways, and a hash of each."""

import hashlib
import random
from dataclasses import dataclass

import trio

from p2pnode.ports import Stream

PROTOCOL = "/p2pnode/exchange/1"


@dataclass(frozen=True)
class Hashes:
    """SHA-256, in hexadecimal, of what went each way, as one end sees it."""

    sent: str
    received: str

    @property
    def seen_from_there(self) -> "Hashes":
        return Hashes(self.received, self.sent)


async def exchange(stream: Stream, sends: int, receives: int, seed: int = 0) -> Hashes:
    """Send so many bytes and close this side, while so many are received."""
    data, buffer = random.Random(seed).randbytes(sends), bytearray(receives)

    async def send() -> None:
        await stream.send(data)
        await stream.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await stream.receive_into(memoryview(buffer))
    return Hashes(hashlib.sha256(data).hexdigest(), hashlib.sha256(buffer).hexdigest())
