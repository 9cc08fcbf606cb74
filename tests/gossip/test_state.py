"""What newcomers are given, by donors that are honest, broken, or lie."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import trio
from trio.testing import MockClock

from p2pnode.errors import Fault, LinkError, PeerFault, Unreachable
from p2pnode.events import PeerFaulted
from p2pnode.gossip import state
from p2pnode.gossip.deadlines import Deadlines
from p2pnode.gossip.state import (
    FRESH,
    MAX_MANIFEST,
    PROTOCOL,
    RESUMES,
    Arrival,
    Donor,
    catch_up,
    fetch,
)
from p2pnode.gossip.view import Stage
from p2pnode.identity.manifest import parse_canonical
from p2pnode.net.memory import MemoryFabric
from p2pnode.net.memory_link import Link
from p2pnode.net.memory_stream import Verdict
from p2pnode.ports import Bytes, Model, PeerId, Stream
from p2pnode.trainer import inline
from p2pnode.wire.messages import Content, Fetch, decode, receive, send
from tests.gossip.ends import End, ends, learner, manifest, slow, vector

MIB = 1 << 20
SIZE = 4 * learner().size
SWARM = manifest().swarm_id


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def fabric() -> MemoryFabric:
    return MemoryFabric(seed=4, link=Link(latency=0.01))


def serve(end: End, model: Model | None = None, deadlines: Deadlines | None = None) -> Donor:
    donor = Donor(
        manifest=manifest().canonical(),
        model=model or end.trainer,
        compute=inline,
        known=end.membership.view.__contains__,
        fault=lambda peer, fault: end.faults.append(fault),
        deadlines=deadlines or Deadlines(),
    )
    end.network.serve(PROTOCOL, donor.serve)
    return donor


async def fetch_model(newcomer: End, donor: End, size: int = SIZE) -> Arrival:
    return await fetch(newcomer.network, donor.network.me, "model", Deadlines(), least=size, most=size)


async def fetch_manifest(newcomer: End, donor: End) -> Arrival:
    return await fetch(
        newcomer.network, donor.network.me, "manifest", Deadlines(), least=1, most=MAX_MANIFEST
    )


def content(data: bytes, offset: int = 0, size: int | None = None) -> Content:
    return Content(hashlib.sha256(data).digest(), len(data) if size is None else size, offset, 5)


def forge(end: End, *replies: tuple[Content, Bytes]) -> list[Fetch]:
    """Let `end` answer fetches with `replies`, one after the other; what it was asked."""
    asked: list[Fetch] = []

    async def handler(stream: Stream) -> None:
        asked.append(await receive(stream, Fetch))
        head, data = replies[min(len(asked), len(replies)) - 1]
        await send(stream, head)
        await stream.send(data)

    end.network.serve(PROTOCOL, handler)
    return asked


async def fault_of(fetching: Awaitable[Arrival]) -> Fault:
    with pytest.raises(PeerFault) as caught:
        await fetching
    return caught.value.fault


async def test_the_manifest_arrives_and_has_the_swarms_id(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (donor, newcomer):
        serve(donor)
        fetched = await fetch_manifest(newcomer, donor)
        assert parse_canonical(bytes(fetched.content), SWARM).swarm_id == SWARM


async def test_the_model_arrives_with_its_round(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (donor, newcomer):
        serve(donor)
        await donor.trainer.jump(9, vector(7))
        fetched = await fetch_model(newcomer, donor)
        assert fetched.round == 9
        np.testing.assert_array_equal(np.frombuffer(fetched.content, np.float32), vector(7))


async def test_a_donor_keeps_one_content_while_it_is_fresh(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (donor, newcomer):
        serve(donor)
        first = await fetch_model(newcomer, donor)
        await donor.trainer.jump(1, vector(7))
        assert await fetch_model(newcomer, donor) == first
        await trio.sleep(FRESH)
        second = await fetch_model(newcomer, donor)
        assert second.round == 1 and second.content != first.content


async def test_content_with_another_hash_is_a_false_claim(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (donor, newcomer):
        forge(donor, (content(bytes(SIZE)), b"\x01" + bytes(SIZE - 1)))
        assert await fault_of(fetch_model(newcomer, donor)) is Fault.FALSE_CLAIM


@pytest.mark.parametrize("size", [0, SIZE - 4, SIZE + 1, 2**40, 2**48])
async def test_content_of_another_size_is_refused_before_it_takes_memory(size: int, clock: MockClock) -> None:
    async with ends(fabric(), 2) as (donor, newcomer):
        forge(donor, (content(b"", size=size), bytes(SIZE)))
        assert await fault_of(fetch_model(newcomer, donor)) is Fault.OVERSIZED


async def test_content_from_an_offset_that_nobody_asked_for_is_refused(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (donor, newcomer):
        forge(donor, (content(bytes(SIZE), offset=4), bytes(SIZE - 4)))
        assert isinstance(await fault_of(fetch_model(newcomer, donor)), Fault)


async def test_an_answer_that_never_comes_is_stalled(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (donor, newcomer):

        async def freeze(stream: Stream) -> None:
            await trio.sleep_forever()

        donor.network.serve(PROTOCOL, freeze)
        started = trio.current_time()
        assert await fault_of(fetch_model(newcomer, donor)) is Fault.STALLED
        assert trio.current_time() - started < Deadlines().first(SIZE) + 1


async def test_a_trickle_is_stalled(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (donor, newcomer):

        async def trickle(stream: Stream) -> None:
            await receive(stream, Fetch)
            await send(stream, content(bytes(SIZE)))
            for _ in range(SIZE):
                await stream.send(b"\0")
                await trio.sleep(1)

        donor.network.serve(PROTOCOL, trickle)
        assert await fault_of(fetch_model(newcomer, donor)) is Fault.STALLED


# --- broken transfers ---


class Large:
    """The parts of a model that a donor needs, of 3.5 MiB: more than one piece of a transfer."""

    round = 3

    def __init__(self) -> None:
        self.params = np.random.default_rng(0).normal(size=7 * MIB // 8).astype(np.float32)

    async def vector(self) -> npt.NDArray[np.float32]:
        await trio.lowlevel.checkpoint()
        return self.params


@dataclass
class Watch:
    """Sees every fetch that travels."""

    fetches: list[Fetch]

    def __call__(self, source: PeerId, target: PeerId, protocol: str, data: bytes) -> Verdict:
        if protocol == PROTOCOL and len(data) < 200 and isinstance(message := decode(data[4:]), Fetch):
            self.fetches.append(message)
        return Verdict.DELIVER


async def fetch_large(
    meanwhile: Callable[[Donor, Large], None],
) -> tuple[Arrival, Large, list[Fetch], int]:
    """Fetch at 1 MiB/s while the connection breaks between the second and the third piece."""
    network = MemoryFabric(seed=4, link=Link(latency=0.01, bandwidth=MIB))
    async with ends(network, 2) as (donor, newcomer), trio.open_nursery() as nursery:
        network.tap, model = Watch([]), Large()
        serving = serve(donor, cast(Model, model))

        async def break_it() -> None:
            await trio.sleep(1.5)  # what is under way, up to 1 MiB, still arrives
            await donor.network.disconnect(newcomer.network.me)
            meanwhile(serving, model)

        nursery.start_soon(break_it)
        fetched = await fetch_model(newcomer, donor, model.params.nbytes)
        return fetched, model, network.tap.fetches, newcomer.network.traffic.received


async def test_a_broken_transfer_goes_on_where_it_stopped(clock: MockClock) -> None:
    fetched, model, fetches, received = await fetch_large(lambda donor, model: None)
    assert bytes(fetched.content) == model.params.tobytes()
    digest = hashlib.sha256(model.params.tobytes()).digest()
    assert fetches == [Fetch("model", b"", 0), Fetch("model", digest, 2 * MIB)]
    assert received < model.params.nbytes + MIB  # nothing twice but the piece that was cut


async def test_a_broken_transfer_starts_over_when_the_donor_has_moved_on(clock: MockClock) -> None:
    def move_on(donor: Donor, model: Large) -> None:
        model.params = -model.params
        model.round = 4
        donor._made, donor._digest = -FRESH, b""

    fetched, model, fetches, received = await fetch_large(move_on)
    assert bytes(fetched.content) == model.params.tobytes()
    assert fetched.round == 4
    assert fetches[1].offset == 2 * MIB
    assert received > model.params.nbytes + 2 * MIB


async def test_a_transfer_that_keeps_breaking_is_given_up(clock: MockClock) -> None:
    network, breaks = fabric(), []

    def tap(source: PeerId, target: PeerId, protocol: str, data: bytes) -> Verdict:
        if len(data) < SIZE:
            return Verdict.DELIVER
        breaks.append(source)
        return Verdict.RESET

    network.tap = tap
    async with ends(network, 2) as (donor, newcomer):
        serve(donor)
        with pytest.raises(LinkError):
            await fetch_model(newcomer, donor)
        assert breaks == [donor.network.me] * (RESUMES + 1)


async def test_a_resumed_transfer_must_be_of_the_very_content(clock: MockClock) -> None:
    """Else a donor could name the hash of a mixture, or of less than was promised."""
    one, other = bytes(2 * MIB), b"\x01" * 2 * MIB
    mixture = one[:MIB] + other[MIB:]
    for second in (content(mixture, MIB), content(one, MIB, size=2 * MIB + 1), content(one, MIB, size=MIB)):
        async with ends(fabric(), 2) as (donor, newcomer):
            asked = forge(donor, (content(one), one[:MIB]), (second, other[MIB:]))
            fetching = fetch(
                newcomer.network, donor.network.me, "model", Deadlines(), least=1, most=2 * MIB + 1
            )
            assert await fault_of(fetching) is Fault.FALSE_CLAIM
            assert asked[1].offset == MIB


async def test_a_donor_that_dies_is_a_link_error(clock: MockClock) -> None:
    network = fabric()
    async with ends(network, 2) as (donor, newcomer):

        async def die(stream: Stream) -> None:
            await send(stream, content(bytes(SIZE)))
            network.kill(donor.network.me)

        donor.network.serve(PROTOCOL, die)
        with pytest.raises(Unreachable):
            await fetch_model(newcomer, donor)


# --- the donor's side ---


async def test_nobody_is_given_anything_before_its_hello(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (donor, stranger):
        serve(donor)
        donor.membership.view.remove(stranger.network.me)
        for fetching in (fetch_model(stranger, donor), fetch_manifest(stranger, donor)):
            with pytest.raises(LinkError):
                await fetching
        assert {fault.fault for fault in donor.faults} == {Fault.UNEXPECTED}
        assert donor.network.traffic.sent == 0


async def test_what_nobody_has_is_malformed(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (donor, newcomer):
        serve(donor)
        with pytest.raises(LinkError):
            await fetch(newcomer.network, donor.network.me, "secrets", Deadlines(), least=0, most=10)
        assert {fault.fault for fault in donor.faults} == {Fault.MALFORMED}


@pytest.mark.parametrize("offset", [0, 1, SIZE, SIZE + 1, 2**48])
async def test_any_offset_is_answered_within_the_content(offset: int, clock: MockClock) -> None:
    async with ends(fabric(), 2) as (donor, newcomer):
        serve(donor)
        whole = vector(0).tobytes()
        for digest in (b"", bytes(32), hashlib.sha256(whole).digest()):
            stream = await newcomer.network.open(donor.network.me, PROTOCOL)
            await send(stream, Fetch("model", digest, offset))
            head = await receive(stream, Content)
            known = digest in (b"", head.digest) and offset <= SIZE
            assert head == content(whole, offset if known else 0, SIZE) or head.round == 0
            assert head.offset == (offset if known else 0)
            rest = bytearray(SIZE - head.offset)
            await stream.receive_into(memoryview(rest))
            assert rest == whole[head.offset :]


async def test_who_fetches_and_does_not_read_is_counted(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (donor, newcomer):
        serve(donor, cast(Model, Large()))
        stream = await newcomer.network.open(donor.network.me, PROTOCOL)
        await send(stream, Fetch("model", b"", 0))
        await trio.sleep(60)
        assert [fault.fault for fault in donor.faults] == [Fault.STALLED]


# --- catching up ---


def good(scale: float = 0.0) -> npt.NDArray[np.float32]:
    """Parameters near zero guess evenly; far from it they are sure of the wrong label."""
    return scale * vector(1)


async def give(donor: End, newcomer: End, round: int, model: npt.NDArray[np.float32]) -> None:
    """Let `donor` stand at this round with this model, and `newcomer` know of it."""
    serve(donor)
    await donor.trainer.jump(round, model)
    newcomer.membership.view.put(replace(donor.member(), round=round))


def counted(end: End) -> list[str]:
    """The faults that it counted, of all peers."""
    return [event.fault for event in end.events if isinstance(event, PeerFaulted)]


async def catch(newcomer: End) -> PeerId | None:
    return await catch_up(newcomer.membership, newcomer.trainer)


async def test_the_better_of_two_models_is_taken_and_the_lower_round(clock: MockClock) -> None:
    for best in (0, 1):
        async with ends(fabric(), 3) as (newcomer, *donors):
            await newcomer.trainer.jump(0, good(9))
            await give(donors[best], newcomer, 5, good())
            await give(donors[1 - best], newcomer, 8, good(3))
            assert await catch(newcomer) == donors[best].network.me
            np.testing.assert_array_equal(await newcomer.trainer.vector(), good())
            assert newcomer.trainer.round == 5


async def test_its_own_model_is_kept_when_the_donors_are_worse(clock: MockClock) -> None:
    async with ends(fabric(), 3) as (newcomer, *donors):
        await newcomer.trainer.jump(0, good())
        for round, donor in enumerate(donors, start=6):
            await give(donor, newcomer, round, good(round * (-1) ** round))
        assert await catch(newcomer) is None
        np.testing.assert_array_equal(await newcomer.trainer.vector(), good())
        assert newcomer.trainer.round == 6


async def test_two_models_that_are_alike_are_believed_even_where_they_are_bad_at_ones_own_rows(
    clock: MockClock,
) -> None:
    async with ends(fabric(), 3) as (newcomer, *donors):
        await newcomer.trainer.jump(0, good())
        for scale, donor in zip((8, 9), donors, strict=True):
            await give(donor, newcomer, 6, good(scale))
        assert await catch(newcomer) in {donor.network.me for donor in donors}
        assert not (await newcomer.trainer.vector() == good()).all()


async def test_a_model_with_nan_is_counted_and_not_taken(clock: MockClock) -> None:
    for poison in (np.nan, np.inf):
        async with ends(fabric(), 2) as (newcomer, donor):
            bad = good()
            bad[-1] = poison
            await give(donor, newcomer, 5, bad)
            assert await catch(newcomer) is None
            assert counted(newcomer) == [Fault.NOT_FINITE]
            np.testing.assert_array_equal(await newcomer.trainer.vector(), vector(0))
            assert newcomer.trainer.round == 0


async def test_a_liar_with_huge_numbers_does_not_keep_a_newcomer_from_an_honest_donor(
    clock: MockClock,
) -> None:
    async with ends(fabric(), 3) as (newcomer, liar, honest):
        await give(liar, newcomer, 9, np.full_like(good(), 3e38))
        await give(honest, newcomer, 8, good())
        assert await catch(newcomer) == honest.network.me
        np.testing.assert_array_equal(await newcomer.trainer.vector(), good())


async def test_who_does_not_read_keeps_no_more_than_two_contents(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (newcomer, donor):
        serving = serve(donor)
        for _ in range(10):
            await trio.sleep(2 * FRESH)
            await donor.trainer.jump(donor.trainer.round + 1, None)
            stream = await newcomer.network.open(donor.network.me, PROTOCOL)
            await send(stream, Fetch("model", b"", 0))
            await receive(stream, Content)
            serving._going.append(serving._digest)  # as if the rest were on its way for long
            assert len(set(serving._going)) <= 2


async def test_one_liar_cannot_make_a_newcomer_skip_rounds(clock: MockClock) -> None:
    async with ends(fabric(), 3) as (newcomer, liar, honest):
        await give(liar, newcomer, 2**48, good())
        await give(honest, newcomer, 5, good(2))
        assert await catch(newcomer) == liar.network.me
        assert newcomer.trainer.round == 5


async def test_nobody_goes_back_in_rounds(clock: MockClock) -> None:
    async with ends(fabric(), 2) as (newcomer, donor):
        await newcomer.trainer.jump(7, good(9))
        await give(donor, newcomer, 5, good())
        assert await catch(newcomer) == donor.network.me
        assert newcomer.trainer.round == 7


async def test_donors_that_fail_are_made_up_for_by_others(clock: MockClock) -> None:
    network = fabric()
    async with ends(network, 4) as (newcomer, dead, liar, honest):
        await give(dead, newcomer, 9, good())
        await give(liar, newcomer, 8, good())
        await give(honest, newcomer, 5, good())
        network.kill(dead.network.me)
        forge(liar, (content(bytes(SIZE)), b"\x01" + bytes(SIZE - 1)))
        assert await catch(newcomer) == honest.network.me
        assert counted(newcomer) == [Fault.FALSE_CLAIM]
        assert newcomer.trainer.round == 5


async def leave_midway(donor: End, sends: npt.NDArray[np.float32]) -> None:
    """Let `donor` send half of these parameters to whoever asks, and break all connections then."""
    half = sends.tobytes()[: SIZE // 2]

    async def handler(stream: Stream) -> None:
        await receive(stream, Fetch)
        await send(stream, content(sends.tobytes()))
        await stream.send(half)
        await trio.sleep(0.1)
        await stream.reset()
        donor.network.serve(PROTOCOL, vanish)

    async def vanish(stream: Stream) -> None:
        await stream.reset()

    donor.network.serve(PROTOCOL, handler)


async def test_what_a_donor_sent_before_it_left_is_completed_by_another(
    clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "PIECE", SIZE // 4)
    async with ends(fabric(), 3) as (newcomer, leaves, stays):
        first, second = good(), good() + np.float32(1e-3)
        await give(leaves, newcomer, 9, first)
        await give(stays, newcomer, 5, second)
        await leave_midway(leaves, first)
        before = newcomer.network.traffic.received
        assert await catch(newcomer) == stays.network.me
        assert newcomer.network.traffic.received - before < SIZE + 1000  # nothing twice
        taken = await newcomer.trainer.vector()
        half = SIZE // 8
        np.testing.assert_array_equal(taken[:half], first[:half])
        np.testing.assert_array_equal(taken[half:], second[half:])
        assert newcomer.trainer.round == 5
        assert not counted(newcomer)


@pytest.mark.parametrize("nonsense", [np.nan, 1e6])
async def test_nonsense_from_a_donor_that_left_does_not_spoil_the_next_ones_model(
    nonsense: float, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "PIECE", SIZE // 4)
    async with ends(fabric(), 3) as (newcomer, liar, honest):
        await give(liar, newcomer, 9, good())
        await give(honest, newcomer, 5, good(0.01))
        await leave_midway(liar, vector(0) * np.float32(nonsense))
        assert await catch(newcomer) == honest.network.me
        np.testing.assert_array_equal(await newcomer.trainer.vector(), good(0.01))
        assert not counted(newcomer)


async def test_nobody_is_asked_who_has_finished_no_round_or_misbehaved(clock: MockClock) -> None:
    async with ends(fabric(), 4) as (newcomer, *others):
        for end, round, stage in zip(others, (0, 5, 5), (1, 0, 1), strict=True):
            await give(end, newcomer, round, good())
            newcomer.membership.view.put(replace(end.member(), round=round, stage=Stage(stage)))
        newcomer.membership.fault(others[2].network.me, PeerFault(Fault.STALLED, "test"))
        assert await catch(newcomer) is None
        assert newcomer.trainer.round == 0
        assert newcomer.network.traffic.sent == 0


async def test_nobody_is_late_for_those_who_had_finished_no_round_when_it_began(clock: MockClock) -> None:
    async with ends(fabric(), 2, compute=slow(1.0)) as (newcomer, quick):
        await give(quick, newcomer, 0, good())

        async def run_ahead() -> None:
            await trio.sleep(0.5)
            await give(quick, newcomer, 5, good())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_ahead)
            assert await catch(newcomer) is None
        assert newcomer.trainer.round == 0
