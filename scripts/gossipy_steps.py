"""The work that bench_simulate.py measures, done by gossipy; run by a Python that has it (pip: gossipy-dfl).

The same model, batches, rows and steps, on random numbers, since what it learns is of no matter here. Each
node sends its model to one other a round, which averages it with its own and trains.
"""

import sys
import time
from importlib import import_module

import numpy as np

STEPS = 10  # local steps in a round
HIDDEN = 64
BATCH = 16
ROWS = 32  # of each node


def speed(nodes: int, rounds: int) -> float:
    """Local steps of all nodes in a second."""
    torch, theirs = import_module("torch"), import_module("gossipy")
    core, data, simul = (import_module(f"gossipy.{name}") for name in ("core", "data", "simul"))
    handlers, networks = import_module("gossipy.model.handler"), import_module("gossipy.model.nn")
    theirs.set_seed(0)
    random = np.random.default_rng(0)
    x = torch.tensor(random.random((nodes * ROWS, 64)), dtype=torch.float32)
    y = torch.tensor(random.integers(0, 10, nodes * ROWS))
    handler = handlers.TorchModelHandler(
        net=networks.TorchMLP(64, 10, (HIDDEN,)),
        optimizer=torch.optim.SGD,
        optimizer_params={"lr": 0.1},
        criterion=torch.nn.CrossEntropyLoss(),
        create_model_mode=core.CreateModelMode.MERGE_UPDATE,
        batch_size=BATCH,
        local_epochs=STEPS * BATCH // ROWS,
    )
    rows = import_module("gossipy.data.handler").ClassificationDataHandler(x, y, test_size=0)
    dispatcher = data.DataDispatcher(rows, n=nodes, eval_on_user=False)
    members = import_module("gossipy.node").GossipNode.generate(
        data_dispatcher=dispatcher,
        p2p_net=core.StaticP2PNetwork(nodes),
        model_proto=handler,
        round_len=100,
        sync=True,
    )
    simulator = simul.GossipSimulator(members, dispatcher, 100, core.AntiEntropyProtocol.PUSH)
    simulator.init_nodes(seed=0)
    began = time.perf_counter()
    simulator.start(n_rounds=rounds)
    return nodes * rounds * STEPS / (time.perf_counter() - began)


if __name__ == "__main__":
    print(speed(*map(int, sys.argv[1:])))  # noqa: T201 - for the process that started this one
