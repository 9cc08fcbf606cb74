"""What a node's model is compared with: training alone, and training with all data in one place.

Both take the same local steps, with the same rule, as a node in the swarm; only nobody exchanges.
"""

from collections.abc import Mapping

from p2pnode.learning.data import Dataset
from p2pnode.learning.learner import Learner


def train_alone(
    learner: Learner, data: Dataset, probes: Mapping[str, Dataset], rounds: int, steps: int, seed: int
) -> dict[str, float]:
    """Metrics on `probes`, named `<probe>_<metric>`, after `rounds` times `steps` local steps on `data`."""
    state = learner.init(seed)
    for _ in range(rounds):
        state, _ = learner.steps(state, data, steps)
        state = learner.end_round(state)
    return {
        f"{name}_{metric}": float(value)
        for name, rows in probes.items()
        for metric, value in learner.evaluate(state, rows).items()
    }
