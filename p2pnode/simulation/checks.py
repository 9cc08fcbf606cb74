"""What is wrong with a scenario's names and options, found before the first of its runs takes its time."""

from p2pnode.errors import UserError
from p2pnode.learning.registry import OPTIMIZERS, TASKS, known
from p2pnode.learning.topology.table import TOPOLOGIES, scheduled
from p2pnode.simulation.run import recipe_of
from p2pnode.simulation.scenario import NOBODY, NODES, POOLED, SERVER, WEIGHTED_SERVER, Run, Scenario

WITHOUT_SCHEDULE = (NODES, SERVER, WEIGHTED_SERVER, NOBODY, POOLED)


def examine(scenario: Scenario) -> None:
    """Look at every run.

    Raises:
        UserError: one has a name or an option that nobody knows, or is there twice.
    """
    if known("task", scenario.task, TASKS).described:
        raise UserError(f"task {scenario.task} has no data of its own: choose another")
    known("optimizer", scenario.optimizer, OPTIMIZERS)
    seen = set()
    for run in scenario.runs:
        recipe_of(scenario, run)
        _examine_topology(scenario, run)
        if run.label in seen:
            raise UserError(f"scenario {scenario.name} has the same run twice: {run.label}")
        seen.add(run.label)


def _examine_topology(scenario: Scenario, run: Run) -> None:
    known("topology", run.topology, {**TOPOLOGIES, **dict.fromkeys(WITHOUT_SCHEDULE)})
    if run.topology not in WITHOUT_SCHEDULE:
        if scenario.nodes == 1:
            raise UserError(f"topology {run.topology} needs at least 2 nodes")
        scheduled(run.topology, scenario.nodes, 1, 0, run.topology_options)
    elif run.topology_options:
        raise UserError(f"topology {run.topology} has no options")
