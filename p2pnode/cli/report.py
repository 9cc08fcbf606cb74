"""What the demo shows in the end: the nodes together, alone, and with all data in one place."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from p2pnode.cli.watch import Watch
from p2pnode.identity.manifest import Manifest
from p2pnode.learning import registry
from p2pnode.learning.baselines import train_alone
from p2pnode.learning.data import Shard
from p2pnode.learning.own import Own
from p2pnode.session import rows_of
from p2pnode.world import Rows


@dataclass(frozen=True)
class Report:
    """The demo's result.

    Attributes:
        alone: test accuracy of each node without the others.
        pooled: test accuracy of one model trained on all rows, with as many steps as one node takes.
    """

    watch: Watch
    manifest: Manifest
    alone: Sequence[float]
    pooled: float

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        report = self.watch.to_json()
        baselines = {"alone_mean": mean(self.alone), "pooled": self.pooled}
        return {
            **report,
            "task": self.manifest.task.name,
            "seed": self.manifest.training.seed,
            "accuracy": report["accuracy"] | baselines,
        }

    def table(self) -> Table:
        """For people."""
        drawn = Table(box=None, pad_edge=False, title="accuracy on the common test set", title_justify="left")
        for heading in ("node", "alone", "together", "settled", "pooled", "exchanges", "sent"):
            drawn.add_column(heading, justify="left" if heading == "node" else "right")
        for (name, tally), alone in zip(self.watch.tallies.items(), self.alone, strict=True):
            drawn.add_row(
                name,
                f"{alone:.3f}",
                f"{tally.metrics.get('test_accuracy', 0.0):.3f}",
                f"{tally.settled.get('test_accuracy', 0.0):.3f}",
                f"{self.pooled:.3f}",
                str(tally.exchanges.completed),
                decimal(tally.bytes_sent),
            )
        return drawn


def compare(watch: Watch, manifest: Manifest, shards: Sequence[Shard], own: Own | None) -> Report:
    """Train the baselines on the shards of the nodes that were watched. `own`: see `registry.build`."""
    learner = registry.build(manifest, own)
    rows = [rows_of(shard)(manifest, learner.task) for shard in shards]
    test = {"test": rows[0].probes["test"]}
    pool = rows_of(Shard(0, 1))(manifest, learner.task)

    def alone(data: Rows, seed: int) -> float:
        training = manifest.training
        result = train_alone(learner, data.train, test, training.rounds, training.steps, seed)
        return result["test_accuracy"]

    return Report(watch, manifest, [alone(one, i) for i, one in enumerate(rows)], alone(pool, 0))
