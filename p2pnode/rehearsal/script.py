"""When what is done to whom: a scenario's events with all chance and all repetition taken out of them.

Only simple things are left: each happens at one moment. The same scenario and seed give the same list.
"""

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from p2pnode.rehearsal.scenario import Incident, Scenario

UNTIL = {"freeze": "thaw", "partition": "heal", "cut": "mend", "directory-down": "directory-up"}
"""What ends something that has a length."""


def script(scenario: Scenario, seed: int) -> list[Incident]:
    """All that happens, in its order."""
    random = Random(f"{seed} script")
    deeds = [deed for one in scenario.events for deed in _parts(one, scenario.nodes, random)]
    return sorted(deeds, key=lambda deed: deed.at)  # of equal times, as they are written


def _parts(incident: Incident, nodes: int, random: Random) -> Iterator[Incident]:
    everybody = tuple(range(nodes))
    incident = replace(
        incident,
        nodes=incident.nodes or everybody,
        source=incident.source or everybody,
        target=incident.target or everybody,
    )
    over = replace(incident, at=incident.at + incident.seconds, seconds=0.0)
    if incident.do == "churn":
        yield from churn(incident, nodes, random)
    elif incident.do == "restart":
        yield replace(incident, do="kill")
        yield replace(over, do="start")
    else:
        yield incident
        if incident.do in UNTIL and incident.seconds > 0:
            yield replace(over, do=UNTIL[incident.do])


def churn(incident: Incident, nodes: int, random: Random) -> Iterator[Incident]:
    """Nodes that go by chance, at a constant rate, and come back (a Poisson process).

    At least one is always there: a swarm of which everybody is away has lost what was not saved.
    """
    now, end, back = incident.at, incident.at + incident.seconds, dict.fromkeys(range(nodes), 0.0)
    while incident.rate > 0:
        now += random.expovariate(incident.rate * nodes / 3600)
        here = [node for node, due in back.items() if due <= now]
        if now >= end:
            break
        if len(here) > 1:
            gone = random.choice(here)
            back[gone] = now + incident.away
            yield Incident(now, "leave" if incident.orderly else "kill", nodes=(gone,))
            yield Incident(back[gone], "start", nodes=(gone,))
