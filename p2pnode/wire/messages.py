"""The messages of every conversation, and their bytes.

A message is a frame: four bytes of length (big-endian), then a msgpack array `[tag, field, ...]` in
the order of the class's attributes. Positions instead of names keep messages small and leave nothing
to be ignored: another field, another type or a value outside its bound is a `PeerFault`. The length
is checked before the body is read, and msgpack is told the same bounds, so a peer can make us take
at most `MAX_MESSAGE` bytes. Source: the msgpack specification; the idea of one table of message
classes from which everything else follows is h11's.

Bulk data (parameters, manifests) never travels inside a message: a message announces its size, both
ends know the bound, and the bytes follow raw on the same stream.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar, overload

import msgpack
from attrs import Attribute, astuple, field, frozen

from p2pnode.errors import Fault, PeerFault
from p2pnode.ports import Stream

MAX_MESSAGE = 32 * 1024
"""Bytes of the largest message. A hello with 16 peers of 8 addresses each stays below 24 KiB: names and
addresses are ASCII, where a letter takes a byte."""

MAX_PEERS = 16  # peers told in one hello: enough to spread, too few to flood a view
MAX_PEER = 64  # characters of a peer's name: it has 52
MAX_ADDRESSES = 8  # of one peer: an interface each for IPv4 and IPv6, and some relays
MAX_ADDRESS = 160  # characters: a relayed multiaddr with two peer ids has about 150
MAX_CREDENTIAL = 1024  # bytes: room for a short chain of signatures
MAX_DIRECT = 64  # bytes: a seed and what comes with it
MAX_TEXT = 200  # characters of a reason meant for a person

M = TypeVar("M")
N = TypeVar("N")
O = TypeVar("O")  # noqa: E741 - after N


def _integer(low: int, high: int) -> Any:
    def check(_: Any, attribute: "Attribute[Any]", value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"{attribute.name} is not an integer in {low}..{high}")

    return field(validator=check)


def _number(low: float, high: float) -> Any:
    def check(_: Any, attribute: "Attribute[Any]", value: Any) -> None:
        if type(value) is not float or not low <= value <= high:  # nan fails the comparison
            raise ValueError(f"{attribute.name} is not a number in {low}..{high}")

    return field(validator=check)


def _bytes(*sizes: int, most: int = -1) -> Any:
    def check(_: Any, attribute: "Attribute[Any]", value: Any) -> None:
        if type(value) is not bytes or (len(value) not in sizes and len(value) > most):
            raise ValueError(f"{attribute.name} is not a byte string of an allowed length")

    return field(validator=check)


def _flag() -> Any:
    def check(_: Any, attribute: "Attribute[Any]", value: Any) -> None:
        if not isinstance(value, bool):
            raise ValueError(f"{attribute.name} is neither true nor false")

    return field(validator=check)


def _is_text(value: Any, most: int) -> bool:
    return isinstance(value, str) and len(value) <= most


def _text(most: int) -> Any:
    def check(_: Any, attribute: "Attribute[Any]", value: Any) -> None:
        if not _is_text(value, most):
            raise ValueError(f"{attribute.name} is not a text of at most {most} characters")

    return field(validator=check)


def _is_address(value: Any) -> bool:
    return _is_text(value, MAX_ADDRESS) and value.isascii()


def _is_addresses(value: Any) -> bool:
    return type(value) is tuple and len(value) <= MAX_ADDRESSES and all(map(_is_address, value))


def tellable(addresses: Sequence[str]) -> tuple[str, ...]:
    """Those of a peer's addresses that a message has room for: others come from elsewhere than messages."""
    return tuple(filter(_is_address, addresses))[:MAX_ADDRESSES]


def _is_peer(value: Any) -> bool:
    if type(value) is not tuple or len(value) != 2:
        return False
    return _is_text(value[0], MAX_PEER) and value[0].isascii() and _is_addresses(value[1])


def _addresses() -> Any:
    def check(_: Any, attribute: "Attribute[Any]", value: Any) -> None:
        if not _is_addresses(value):
            raise ValueError(f"{attribute.name} is not a short list of addresses")

    return field(validator=check)


def _peers() -> Any:
    def check(_: Any, attribute: "Attribute[Any]", value: Any) -> None:
        if type(value) is not tuple or len(value) > MAX_PEERS or not all(map(_is_peer, value)):
            raise ValueError(f"{attribute.name} is not a short list of peers with addresses")

    return field(validator=check)


@frozen
class Hello:
    """Who I am and where I stand. Asked and answered with the same message.

    Attributes:
        version: protocol version spoken.
        swarm: SHA-256 id of the swarm.
        incarnation: grows with every start of this key (milliseconds since the epoch, at least one
            more than the last).
        proof: Ed25519 signature of swarm and incarnation, so that whoever refuses the earlier of two
            processes with one key can show it the later one's own word.
        serial: counts the sender's hellos since its start: one may be overtaken by the next.
        stage: 0 newcomer (no model yet), 1 training, 2 rounds done, 3 settled.
        round: finished rounds.
        layout: digest of what is shared; empty while the manifest is not known yet.
        members: while settling, the digest of the member list this node proposes; else empty.
        sketch: once settled, 16 float32 projections of the model, to tell how far apart models are;
            while others may still fail to get there, those of the model it would settle on.
        credential: what the manifest's admission asks for.
        addresses: where the sender listens.
        known: members in the sender's view.
        member: whether the receiver is one of them, or would be if it agreed.
        peers: some others it knows, with addresses: hints.
    """

    version: int = _integer(0, 2**16)
    swarm: bytes = _bytes(32)
    incarnation: int = _integer(0, 2**63)
    proof: bytes = _bytes(64)
    serial: int = _integer(0, 2**48)
    stage: int = _integer(0, 3)
    round: int = _integer(0, 2**48)
    layout: bytes = _bytes(0, 32)
    members: bytes = _bytes(0, 32)
    sketch: bytes = _bytes(0, 64)
    credential: bytes = _bytes(most=MAX_CREDENTIAL)
    addresses: tuple[str, ...] = _addresses()
    known: int = _integer(0, 2**16)
    member: bool = _flag()
    peers: tuple[tuple[str, tuple[str, ...]], ...] = _peers()


@frozen
class Refused:
    """The hello did not succeed. With `superseded` comes the later incarnation and its proof."""

    reason: str = _text(MAX_TEXT)
    incarnation: int = _integer(0, 2**63)
    proof: bytes = _bytes(0, 64)


@frozen
class Goodbye:
    """The receiver is no longer in the sender's view: the sender leaves the swarm, or `stays` in it."""

    stays: bool = _flag()


@frozen
class Probe:
    """Does the sender's member `peer`, who does not answer it, answer you?"""

    peer: str = _text(MAX_PEER)


@frozen
class Probed:
    """Whether it does."""

    alive: bool = _flag()


@frozen
class Offer:
    """Let us average.

    Attributes:
        exchange: id of this exchange: both ends' incarnations and the initiator's counter, 8 bytes
            each, so that no two exchanges of any two processes share one.
        layout: digest of what the initiator shares.
        round: the initiator's finished rounds.
        weight: of the difference; both ends must compute the same one.
        size: bytes of an encoded snapshot; of the larger one where the two ends' differ.
        members: while settling, the digest of the agreed member list; else empty.
        step: while settling, the position in the schedule; else 0.
        counted: while settling, one bit for each member already contained in the sender's model.
        seconds: that the initiator would give the exchange, by what it knows of the acceptor.
    """

    exchange: bytes = _bytes(24)
    layout: bytes = _bytes(32)
    round: int = _integer(0, 2**48)
    weight: float = _number(0.0, 1.0)
    size: int = _integer(0, 2**48)
    members: bytes = _bytes(0, 32)
    step: int = _integer(0, 2**16)
    counted: bytes = _bytes(most=1024)
    seconds: float = _number(0.0, 1e9)


@frozen
class Accept:
    """Yes.

    Attributes:
        counted: as in the offer, from the acceptor's side.
        seconds: that the acceptor gives the exchange from here on: what the initiator would, if that is
            longer and no more than strangers have, or what it would itself.
        direct: the acceptor's part in a direct connection; empty when it wants none.
    """

    counted: bytes = _bytes(most=1024)
    seconds: float = _number(0.0, 1e9)
    direct: bytes = _bytes(most=MAX_DIRECT)


@frozen
class Decline:
    """No, for `reason`; asking again makes sense after `again` seconds."""

    reason: str = _text(MAX_TEXT)
    again: float = _number(0.0, 3600.0)


@frozen
class Begin:
    """The initiator has the accept and sends its snapshot now; `direct` as in the accept, from its side."""

    direct: bytes = _bytes(most=MAX_DIRECT)


@frozen
class Arrived:
    """So many pieces of your snapshot came over the direct connection; send the others here."""

    pieces: int = _integer(0, 2**32)


@frozen
class Withdraw:
    """The initiator is in another exchange by now."""


@frozen
class Ready:
    """The acceptor has everything, and keeps the difference aside."""


@frozen
class Commit:
    """The initiator has applied; so must the acceptor."""


@frozen
class Abort:
    """Nothing happened, on either side."""

    reason: str = _text(MAX_TEXT)


@frozen
class AskOutcome:
    """The acceptor said `ready` and never heard the decision: what was it?"""

    exchange: bytes = _bytes(24)


@frozen
class Outcome:
    """`pending`, `committed`, or `unknown`, which means aborted."""

    outcome: str = _text(16)


@frozen
class Fetch:
    """Send me the `manifest` or the `model`, from `offset` on.

    Attributes:
        what: `manifest` or `model`.
        digest: of the content that an interrupted transfer was receiving; empty at first.
        offset: bytes of it that have already arrived.
    """

    what: str = _text(16)
    digest: bytes = _bytes(0, 32)
    offset: int = _integer(0, 2**48)


@frozen
class Content:
    """What follows: `size` bytes in all, of which those from `offset` on are sent now."""

    digest: bytes = _bytes(32)
    size: int = _integer(0, 2**48)
    offset: int = _integer(0, 2**48)
    round: int = _integer(0, 2**48)


Message: TypeAlias = (
    Hello
    | Refused
    | Goodbye
    | Probe
    | Probed
    | Offer
    | Accept
    | Decline
    | Begin
    | Arrived
    | Withdraw
    | Ready
    | Commit
    | Abort
    | AskOutcome
    | Outcome
    | Fetch
    | Content
)

_TAGS: dict[type[Any], int] = {
    Hello: 1,
    Refused: 2,
    Goodbye: 3,
    Probe: 4,
    Probed: 5,
    Offer: 10,
    Accept: 11,
    Decline: 12,
    Begin: 13,
    Withdraw: 14,
    Ready: 15,
    Commit: 16,
    Abort: 17,
    AskOutcome: 18,
    Outcome: 19,
    Arrived: 20,
    Fetch: 30,
    Content: 31,
}
_CLASSES = {tag: cls for cls, tag in _TAGS.items()}


def encode(message: Message) -> bytes:
    """The whole frame of `message`."""
    body: bytes = msgpack.packb([_TAGS[type(message)], *astuple(message, recurse=False)])
    assert len(body) <= MAX_MESSAGE, f"a {type(message).__name__} of {len(body)} bytes"  # by its bounds
    return len(body).to_bytes(4, "big") + body


def decode(body: bytes) -> Message:
    """The message in `body`, a frame without its length.

    Raises:
        PeerFault: `MALFORMED`: not msgpack, an unknown tag, or fields of a wrong number, type or bound.
    """
    try:
        value = msgpack.unpackb(
            body, use_list=False, max_array_len=64, max_map_len=0, max_ext_len=0, strict_map_key=True
        )
        tag, *fields = value
        cls = _CLASSES[tag]
        message: Message = cls(*fields)
    # msgpack's own errors are ValueErrors, except for these two of its borders.
    except (ValueError, TypeError, KeyError, msgpack.UnpackException, RecursionError) as error:
        raise PeerFault(Fault.MALFORMED, f"not a message ({error})"[:MAX_TEXT]) from error
    return message


async def send(stream: Stream, message: Message) -> None:
    """Send one message. Raises `Disconnected`."""
    await stream.send(encode(message))


@overload
async def receive(stream: Stream, expected: type[M], /) -> M: ...


@overload
async def receive(stream: Stream, expected: type[M], other: type[N], /) -> M | N: ...


@overload
async def receive(stream: Stream, expected: type[M], other: type[N], third: type[O], /) -> M | N | O: ...


async def receive(stream: Stream, *expected: type[Any]) -> Any:
    """The next message, which must be one of `expected`.

    Raises:
        Disconnected: the stream ended.
        PeerFault: `OVERSIZED` before any of it is read, `MALFORMED`, or `UNEXPECTED`.
    """
    header = bytearray(4)
    await stream.receive_into(memoryview(header))
    size = int.from_bytes(header, "big")
    if size > MAX_MESSAGE:
        raise PeerFault(Fault.OVERSIZED, f"a message of {size} bytes; at most {MAX_MESSAGE} are read")
    body = bytearray(size)
    await stream.receive_into(memoryview(body))
    message = decode(bytes(body))
    if not isinstance(message, expected):
        names = " or ".join(cls.__name__ for cls in expected)
        raise PeerFault(Fault.UNEXPECTED, f"{type(message).__name__} instead of {names}")
    return message
