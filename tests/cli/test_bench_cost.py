"""`p2pnode bench start` and `p2pnode bench idle`: what is measured is there, and nothing of it stays."""

import os
from pathlib import Path

import pytest

from p2pnode.bench import idle, process, start
from p2pnode.bench.launch import running
from p2pnode.bench.start import Start
from p2pnode.cli.bench_cost import swarm

MB = 1_000_000


def test_what_is_not_imports_is_taken_within_each_start() -> None:
    found = start.summary(2, [Start(10, 8, 6, 5), Start(4, 3, 6, 4), Start(5, 3, 9, 5)])
    assert (found.rest.least, found.rest.median, found.rest.most) == (1, 2, 2)
    assert (found.seconds.median, found.imports.median, found.cpu.most) == (5, 3, 9)


def test_a_process_is_read_from_outside() -> None:
    before = process.now()
    with running("-c", "import time; print(sum(range(10**6)), flush=True); time.sleep(60)") as child:
        child.line()
        assert process.parent(child.pid) == os.getpid()
        assert before - 0.02 <= process.began(child.pid) <= process.now()
        assert 0 < process.cpu(child.pid) < 10
        assert MB < process.memory(child.pid) < 100 * MB


@pytest.mark.slow
def test_a_bootstrap_node_has_no_jax_and_stays_small_with_peers() -> None:
    with idle.bootstrap() as (node, address):
        with running("-m", "p2pnode.bench.peers", "5", address) as peers:
            assert peers.line() == "connected"
            assert process.memory(node.pid) < 120 * MB
        assert "jaxlib" not in Path(f"/proc/{node.pid}/maps").read_text()
        pid = node.pid
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.slow
def test_a_paused_member_has_peers_that_greet_it() -> None:
    manifest = swarm()
    with idle.member(manifest) as (node, address):
        with running("-m", "p2pnode.bench.peers", "3", address, manifest.swarm_id) as peers:
            assert peers.line() == "connected"
        assert process.memory(node.pid) > 0


@pytest.mark.slow
def test_two_nodes_start_and_average() -> None:
    one = start.pair(swarm())
    assert 0 < one.imports < one.seconds
    assert 0 < one.imports_cpu <= one.cpu
