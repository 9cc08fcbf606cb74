"""One of the two processes: `python -m p2pnode.bench.end ROLE PATH LOAD`.

Whoever has the role `listen` writes its address in a line; `dial` is given that in a line. Each then writes
what it found as a line of JSON, and stays until nobody listens to it any more: who leaves first would be
seen by the other as a broken connection.
"""

import json
import pkgutil
import sys
from dataclasses import asdict

import trio

from p2pnode.bench.transfer import Load, Path, dialled, listened

PATHS = {
    "ours": "p2pnode.bench.ours:PATH",
    "bulk": "p2pnode.bench.bulk:PATH",
    "stock": "p2pnode.bench.stock:PATH",
    "sealed": "p2pnode.bench.ceilings:SEALED",
    "bulk-sealed": "p2pnode.bench.ceilings:BULK_SEALED",
    "cipher": "p2pnode.bench.ceilings:CIPHER",
    "socket": "p2pnode.bench.ceilings:SOCKET",
    "copy": "p2pnode.bench.ceilings:COPY",
}
"""Where each is found: who measures one does not import the others."""


async def listen(path: Path, load: Load) -> None:
    """Be dialled."""
    async with path.listen() as (address, accept):
        _say(address)
        _say(json.dumps(asdict(await listened(accept, load))))
        await trio.to_thread.run_sync(sys.stdin.read)


async def dial(path: Path, load: Load) -> None:
    """Dial the address that is given."""
    async with path.dial(sys.stdin.readline().strip(), load.streams) as pipes:
        _say(json.dumps(asdict(await dialled(pipes, load))))
        await trio.to_thread.run_sync(sys.stdin.read)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    role, name, load = sys.argv[1:]
    path: Path = pkgutil.resolve_name(PATHS[name])
    trio.run({"listen": listen, "dial": dial}[role], path, Load(**json.loads(load)))
