"""A node in a process of its own: `python -m p2pnode.bench.node`.

On stdin it is told what it is to be. It writes a line when its modules are imported, and one for each
event that happens in it: JSON, as in the event log.
"""

import json
import pickle
import sys
import time

from p2pnode.machine import importing

IMPORTED = "imported"


def main() -> None:
    """Be the node."""
    with importing():  # as `p2pnode join` does
        from p2pnode.cluster import child  # noqa: PLC0415 - to be measured
        from p2pnode.observe.stream import to_json  # noqa: PLC0415
    _say({IMPORTED: time.process_time()})
    assignment = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that started this one
    child.live(assignment, lambda stamped: _say(to_json(stamped)))


def _say(content: object) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
