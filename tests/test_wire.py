"""What travels: every message comes back as it was, and nothing else comes in."""

import re
from collections.abc import Sequence
from typing import Any, get_args

import msgpack
import numpy as np
import pytest
from attrs import astuple, evolve, fields
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from p2pnode.errors import Disconnected, Fault, PeerFault
from p2pnode.ports import Bytes, PeerId
from p2pnode.wire import arrays, messages
from p2pnode.wire.messages import (
    MAX_ADDRESS,
    MAX_ADDRESSES,
    MAX_CREDENTIAL,
    MAX_DIRECT,
    MAX_MESSAGE,
    MAX_PEER,
    MAX_PEERS,
    Accept,
    Decline,
    Fetch,
    Hello,
    Message,
    Offer,
    Outcome,
    Ready,
    Refused,
    decode,
    encode,
    receive,
)

CLASSES: Sequence[type[Any]] = get_args(Message)
DIGEST = bytes(32)


def texts(most: int) -> SearchStrategy[str]:
    return st.text(st.characters(codec="utf-8"), max_size=most)


def ascii_texts(most: int) -> SearchStrategy[str]:
    return st.text(st.characters(max_codepoint=127), max_size=most)


def binary(*sizes: int) -> SearchStrategy[bytes]:
    return st.sampled_from(sizes).flatmap(lambda size: st.binary(min_size=size, max_size=size))


ADDRESSES = st.lists(ascii_texts(MAX_ADDRESS), max_size=MAX_ADDRESSES).map(tuple)
FIELDS: dict[str, SearchStrategy[Any]] = {
    "version": st.integers(0, 2**16),
    "swarm": binary(32),
    "incarnation": st.integers(0, 2**63),
    "proof": binary(64),
    "stage": st.integers(0, 3),
    "round": st.integers(0, 2**48),
    "serial": st.integers(0, 2**48),
    "layout": binary(32),
    "members": binary(0, 32),
    "sketch": binary(0, 64),
    "credential": st.binary(max_size=MAX_CREDENTIAL),
    "addresses": ADDRESSES,
    "peers": st.lists(st.tuples(ascii_texts(MAX_PEER), ADDRESSES), max_size=3).map(tuple),
    "reason": texts(200),
    "exchange": binary(24),
    "weight": st.floats(0.0, 1.0),
    "size": st.integers(0, 2**48),
    "step": st.integers(0, 2**16),
    "counted": st.binary(max_size=1024),
    "direct": st.binary(max_size=MAX_DIRECT),
    "pieces": st.integers(0, 2**32),
    "again": st.floats(0.0, 3600.0),
    "outcome": texts(16),
    "what": texts(16),
    "digest": binary(32),
    "offset": st.integers(0, 2**48),
    "known": st.integers(0, 2**16),
    "member": st.booleans(),
    "stays": st.booleans(),
    "alive": st.booleans(),
    "peer": texts(MAX_PEER),
    "seconds": st.floats(0.0, 1e9),
}
"""Values of every field that any message has; equal names mean equal bounds, but for optional digests."""

ANY_MESSAGE = st.one_of(
    *(st.builds(cls, *(FIELDS[attribute.name] for attribute in fields(cls))) for cls in CLASSES)
)


def largest_hello() -> Hello:
    addresses = ("x" * MAX_ADDRESS,) * MAX_ADDRESSES
    return Hello(
        version=2**16,
        swarm=DIGEST,
        incarnation=2**63,
        proof=bytes(64),
        serial=2**48,
        stage=3,
        round=2**48,
        layout=DIGEST,
        members=DIGEST,
        sketch=bytes(64),
        credential=bytes(MAX_CREDENTIAL),
        addresses=addresses,
        known=2**16,
        member=True,
        peers=(("p" * MAX_PEER, addresses),) * MAX_PEERS,
    )


OFFER = Offer(bytes(24), DIGEST, 5, 0.5, 100, b"", 0, b"", 1.0)


class Wire:
    """A stream that holds `data` and counts what was read."""

    peer = PeerId("other")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.read = 0

    async def send(self, data: Bytes) -> None:
        self.data += bytes(data)

    async def receive_into(self, view: memoryview) -> None:
        part = self.data[self.read : self.read + len(view)]
        self.read += len(part)
        if len(part) < len(view):
            raise Disconnected("the end")
        view[:] = part

    async def close(self) -> None: ...
    async def reset(self) -> None: ...


def refused(body: bytes) -> Fault:
    with pytest.raises(PeerFault) as caught:
        decode(body)
    assert len(caught.value.detail) <= 200  # it goes into events and logs
    return caught.value.fault


def packed(*values: Any) -> bytes:
    body: bytes = msgpack.packb(values)
    return body


@given(ANY_MESSAGE)
def test_every_message_comes_back_as_it_was(message: Message) -> None:
    frame = encode(message)
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    assert decode(frame[4:]) == message


def test_the_strategies_reach_every_class_and_every_field() -> None:
    assert {attribute.name for cls in CLASSES for attribute in fields(cls)} == FIELDS.keys()
    assert set(messages._TAGS) == set(CLASSES)
    assert len(set(messages._TAGS.values())) == len(CLASSES)


async def test_messages_on_one_stream_arrive_one_by_one() -> None:
    wire = Wire(b"")
    for message in (OFFER, Ready(), Accept(b"\x01", 1.0, b"")):
        await messages.send(wire, message)
    assert await receive(wire, Offer) == OFFER
    assert await receive(wire, Ready) == Ready()
    assert await receive(wire, Accept, Decline) == Accept(b"\x01", 1.0, b"")


@given(ANY_MESSAGE, st.data())
def test_a_truncated_message_is_malformed(message: Message, data: st.DataObject) -> None:
    body = encode(message)[4:]
    cut = data.draw(st.integers(0, len(body) - 1))
    assert refused(body[:cut]) is Fault.MALFORMED


async def test_a_stream_that_ends_within_a_message_is_disconnected() -> None:
    frame = encode(OFFER)
    for cut in range(len(frame)):
        with pytest.raises(Disconnected):
            await receive(Wire(frame[:cut]), Offer)


@pytest.mark.parametrize("told", [("é" * 30, ()), ("peer", ("/dns/é",)), ("peer", ("€" * MAX_ADDRESS,))])
def test_names_and_addresses_are_ascii_lest_a_hello_that_tells_of_them_is_too_long(
    told: tuple[str, tuple[str, ...]],
) -> None:
    with pytest.raises(ValueError, match="peers with addresses"):
        evolve(largest_hello(), peers=(told,))
    with pytest.raises(ValueError, match="addresses"):
        evolve(largest_hello(), addresses=("/dns/é",))


@pytest.mark.parametrize("size", [MAX_MESSAGE + 1, 2**31, 2**32 - 1])
async def test_an_oversized_message_is_refused_before_its_body_is_read(size: int) -> None:
    wire = Wire(size.to_bytes(4, "big") + bytes(100))
    with pytest.raises(PeerFault) as caught:
        await receive(wire, Hello)
    assert caught.value.fault is Fault.OVERSIZED
    assert wire.read == 4


async def test_a_message_of_another_class_is_unexpected() -> None:
    with pytest.raises(PeerFault, match=re.escape("Ready instead of Accept or Decline")) as caught:
        await receive(Wire(encode(Ready())), Accept, Decline)
    assert caught.value.fault is Fault.UNEXPECTED


def is_a_message_or_malformed(body: bytes) -> bool:
    try:
        return type(decode(body)) in CLASSES
    except PeerFault as error:
        return error.fault is Fault.MALFORMED


@given(st.binary(max_size=300))
def test_random_bytes_are_malformed_or_a_message(body: bytes) -> None:
    assert is_a_message_or_malformed(body)


@given(ANY_MESSAGE, st.data())
def test_a_changed_byte_is_malformed_or_a_message(message: Message, data: st.DataObject) -> None:
    body = bytearray(encode(message)[4:])
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    assert is_a_message_or_malformed(bytes(body))


def test_a_missing_an_extra_and_a_trailing_field_are_malformed() -> None:
    for message in (OFFER, largest_hello(), Ready(), Outcome("unknown")):
        values = (messages._TAGS[type(message)], *astuple(message, recurse=False))
        assert decode(packed(*values)) == message
        assert refused(packed(*values, 0)) is Fault.MALFORMED
        assert refused(packed(*values) + b"\x00") is Fault.MALFORMED
        if len(values) > 1:
            assert refused(packed(*values[:-1])) is Fault.MALFORMED


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",  # never used in msgpack
        packed(),
        packed(99),
        packed(-1),
        packed(None),
        packed("Hello"),
        packed(1.0),
        packed(True, "reason", 1.0),  # equals tag 1, a hello's
        packed((1,)),
        packed(["x"]),
        packed(float("nan")),
        msgpack.packb(7),
        msgpack.packb({13: 13}),
        msgpack.packb({}),
        packed(13, msgpack.ExtType(5, b"")),
        msgpack.packb("\u00e9" * 3),
        packed(19, b"unknown"),
        b"\x92\x13\xa2\xff\xfe",  # a text that is not UTF-8
        b"\x92\x13\xd6\xff\x00\x00\x00\x00",  # a timestamp
    ],
)
def test_what_is_no_message_of_ours_is_malformed(body: bytes) -> None:
    assert refused(body) is Fault.MALFORMED


@pytest.mark.parametrize("opening", [b"\x91", b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01"])
def test_deep_nesting_is_malformed(opening: bytes) -> None:
    for depth in (2, 500, 1100, MAX_MESSAGE // len(opening)):
        assert refused(opening * depth + b"\x00") is Fault.MALFORMED
        assert refused(opening * depth) is Fault.MALFORMED


@pytest.mark.parametrize(
    "body",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of four thousand million
        b"\xdc\xff\xff",
        b"\xdf\xff\xff\xff\xff",  # a map
        b"\x92\x13\xdb\xff\xff\xff\xff",  # a text
        b"\x92\x13\xc6\xff\xff\xff\xff",  # a byte string
        b"\x92\x13\xc9\xff\xff\xff\xff\x01",  # an extension
        b"\x9c\x01" + b"\xdd\x7f\xff\xff\xff" * 11,
    ],
)
def test_a_huge_count_is_malformed_and_takes_no_memory(body: bytes) -> None:
    assert refused(body) is Fault.MALFORMED


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", -1),
        ("version", 2**16 + 1),
        ("version", True),
        ("version", 1.0),
        ("version", "1"),
        ("swarm", bytes(31)),
        ("swarm", bytes(33)),
        ("swarm", b""),
        ("swarm", "x" * 32),
        ("incarnation", 2**63 + 1),
        ("proof", b""),
        ("stage", 4),
        ("round", None),
        ("layout", bytes(1)),
        ("members", bytes(64)),
        ("sketch", bytes(60)),
        ("credential", bytes(MAX_CREDENTIAL + 1)),
        ("addresses", ("x" * (MAX_ADDRESS + 1),)),
        ("addresses", ("x",) * (MAX_ADDRESSES + 1)),
        ("addresses", "x"),
        ("addresses", (b"x",)),
        ("addresses", (1,)),
        ("peers", (("p", ()),) * (MAX_PEERS + 1)),
        ("peers", (("p" * 65, ()),)),
        ("peers", (("p", (), ()),)),
        ("peers", (("p", "x"),)),
        ("peers", (("p", ("x",) * (MAX_ADDRESSES + 1)),)),
        ("peers", (("p",),)),
        ("peers", (7,)),
    ],
)
def test_a_hello_out_of_bounds_is_neither_made_nor_read(name: str, value: object) -> None:
    hello = largest_hello()
    with pytest.raises(ValueError, match=name):
        evolve(hello, **{name: value})  # type: ignore[arg-type]
    names = [attribute.name for attribute in fields(Hello)]
    values = [value if field == name else getattr(hello, field) for field in names]
    assert refused(packed(1, *values)) is Fault.MALFORMED


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan"), float("inf"), 1, True, "0.5", None])
def test_a_weight_is_a_number_from_0_to_1(weight: object) -> None:
    values = list(astuple(OFFER, recurse=False))
    values[3] = weight
    assert refused(packed(10, *values)) is Fault.MALFORMED


def test_the_largest_hello_fits_a_message() -> None:
    frame = encode(largest_hello())
    assert len(frame) - 4 <= MAX_MESSAGE
    assert decode(frame[4:]) == largest_hello()


def test_no_message_within_its_bounds_is_too_long_to_send() -> None:
    wide = "\U0001f600"  # four bytes a character
    for message in (
        Refused(wide * 200, 2**63, bytes(64)),
        evolve(OFFER, counted=bytes(1024)),
        Fetch(wide * 16, DIGEST, 2**48),
    ):
        assert decode(encode(message)[4:]) == message


# --- arrays ---

SHAPES = st.dictionaries(
    st.text("abc/", min_size=1, max_size=4),
    st.tuples(
        st.lists(st.integers(0, 4), max_size=3).map(tuple),
        st.sampled_from(["float32", "int8", "uint8", "int32", "float64", "bool"]),
    ),
    max_size=5,
)


@given(SHAPES, st.randoms(use_true_random=False))
def test_arrays_come_back_as_they_were(shapes: dict[str, tuple[tuple[int, ...], str]], random: Any) -> None:
    sent: dict[str, Any] = {}
    for name, (shape, kind) in shapes.items():
        count = int(np.prod(shape, dtype=int))
        values = np.frombuffer(random.randbytes(8 * count), np.uint64) % 100
        sent[name] = values.astype(kind).reshape(shape)
    payload = b"".join(arrays.pack(sent))
    assert len(payload) == arrays.size(sent)
    came = arrays.unpack(sent, memoryview(payload))
    assert came.keys() == sent.keys()
    for name, array in came.items():
        assert (array.dtype, array.shape) == (sent[name].dtype, sent[name].shape)
        np.testing.assert_array_equal(array, sent[name])


SPECS: dict[str, Any] = {"b": np.arange(4, dtype=np.int8), "a": np.eye(3, dtype=np.float32)}


def test_arrays_travel_in_the_order_of_their_names() -> None:
    one = b"".join(arrays.pack(SPECS))
    assert one == b"".join(arrays.pack(dict(reversed(SPECS.items()))))
    assert one == SPECS["a"].tobytes() + SPECS["b"].tobytes()


def test_an_array_that_is_not_contiguous_travels_as_it_reads() -> None:
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    payload = b"".join(arrays.pack({"x": turned}))
    np.testing.assert_array_equal(arrays.unpack({"x": turned}, memoryview(payload))["x"], turned)


@pytest.mark.parametrize("size", [0, 1, 35, 39, 41, 80])
def test_a_payload_of_another_size_is_a_value_error(size: int) -> None:
    with pytest.raises(ValueError, match=r"bytes|size|shape|buffer"):
        arrays.unpack(SPECS, memoryview(bytes(size)))


def test_neither_packing_nor_unpacking_copies() -> None:
    part = arrays.pack({"a": SPECS["a"]})[0]
    assert np.shares_memory(np.asarray(part), SPECS["a"])
    payload = memoryview(bytearray(arrays.size(SPECS)))
    for array in arrays.unpack(SPECS, payload).values():
        assert np.shares_memory(array, np.frombuffer(payload, np.uint8))
