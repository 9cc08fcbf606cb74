"""What happens to which node and when: undone in the end, and never to too many at once."""

from hypothesis import given
from hypothesis import strategies as st

from p2pnode.chaos.schedule import KINDS, Fault, Width, moments, plan

plans = st.builds(
    lambda seed, nodes, seconds, every, kinds: (plan(seed, nodes, seconds, every, kinds), nodes, seconds),
    st.integers(0, 2**31),
    st.integers(2, 12),
    st.floats(1, 600),
    st.floats(1, 60),
    st.lists(st.sampled_from(list(KINDS)), min_size=1, unique=True),
)


def together(faults: list[Fault], moment: float) -> list[Fault]:
    return [fault for fault in faults if fault.at <= moment <= fault.until]


@given(plans)
def test_every_fault_is_undone_in_time(planned: tuple[list[Fault], int, float]) -> None:
    faults, _, seconds = planned
    assert all(0 < fault.at < fault.until <= seconds for fault in faults)
    assert all(fault.until - fault.at <= KINDS[fault.kind].longest for fault in faults)
    ends = moments(faults)
    assert [moment.time for moment in ends] == sorted(moment.time for moment in ends)
    for fault in faults:
        mine = [moment for moment in ends if moment.fault is fault]
        assert [(moment.time, moment.undo) for moment in mine] == [(fault.at, False), (fault.until, True)]


@given(plans)
def test_half_of_the_nodes_are_left_alone_but_for_a_restart_of_all(
    planned: tuple[list[Fault], int, float],
) -> None:
    faults, nodes, _ = planned
    for fault in faults:
        now = [index for one in together(faults, fault.at) for index in one.nodes]
        assert len(now) == len(set(now))  # none has two faults at once
        assert set(now) <= set(range(nodes))
        if KINDS[fault.kind].width is Width.ALL:
            assert together(faults, fault.at) == [fault] and len(now) == nodes
        else:
            assert len(now) <= nodes // 2


@given(plans)
def test_the_network_has_one_cut_at_a_time(planned: tuple[list[Fault], int, float]) -> None:
    faults, _, _ = planned
    for fault in faults:
        assert [one.kind for one in together(faults, fault.at)].count("partition") <= 1


def test_a_seed_says_everything() -> None:
    assert plan(3, 8, 300, 10, list(KINDS)) == plan(3, 8, 300, 10, list(KINDS))
    assert plan(3, 8, 300, 10, list(KINDS)) != plan(4, 8, 300, 10, list(KINDS))


def test_all_kinds_and_all_nodes_have_their_turn() -> None:
    faults = plan(0, 8, 3600, 15, list(KINDS))
    assert {fault.kind for fault in faults} == set(KINDS)
    assert {node for fault in faults for node in fault.nodes} == set(range(8))
    assert {fault.skew for fault in faults if fault.kind == "clock"} == {-300.0, 300.0}


def test_a_kill_every_thirty_seconds_is_one_on_average() -> None:
    faults = plan(0, 8, 1800, 30, ["kill"])
    assert 50 <= len(faults) <= 70
    for index, fault in enumerate(faults[:-1]):
        assert faults[index + 1].nodes != fault.nodes  # there are rested ones
