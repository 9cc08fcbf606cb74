"""What nodes are forked from: everything imported, nothing begun."""

import json
import os
import subprocess
import sys
from typing import Any

from p2pnode import forkserver
from tests.cli.run import ROOT


def output_of(program: str) -> Any:
    """What a program prints, as JSON, in the environment of a fork server."""
    environment = forkserver.environment(os.environ) | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return json.loads(
        subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
        ).stdout
    )


def test_the_fork_server_has_one_thread_and_has_touched_no_device() -> None:
    program = """
import json, sys
from p2pnode import forkserver
from p2pnode.cluster.launcher import BODY
forkserver.prepare(BODY)
import jax._src.xla_bridge as bridge
print(json.dumps([forkserver.threads(), bridge.backends_are_initialized(), "libp2p" in sys.modules]))
"""
    assert output_of(program) == [1, False, True]


def test_a_node_imports_next_to_nothing_after_its_fork() -> None:
    program = """
import json, sys
from p2pnode import forkserver
from p2pnode.cluster.launcher import BODY
forkserver.prepare(BODY)
before = set(sys.modules)
from p2pnode.cli.manifest import make_manifest
own = set(sys.modules) - before
from p2pnode.learning import registry
learner = registry.build(make_manifest("small", "breast-cancer", {}))
state, loss = learner.steps(learner.init(0), learner.task.load()[0], 1)
learner.share(state, 0)
print(json.dumps(sorted(set(sys.modules) - before - own)))
"""
    late = output_of(program)
    assert len(late) < 7, late
