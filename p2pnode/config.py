"""What one node may choose for itself.

Everything that a swarm must agree on is in its manifest; this is the rest. Each field says what it
is, how to choose it, and the symptom of a wrong value. Sections are passed on by themselves: the
whole config goes no further than `node.py`.
"""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Start:
    """When training begins.

    Attributes:
        peers: members to wait for before the first round. 0 starts at once; a node that starts
            alone runs ahead and exchanges less with those who come later.
        wait: seconds to wait for them at most; then the node trains alone and says so.
    """

    peers: int = 1
    wait: float = 30.0


@dataclass(frozen=True)
class Finish:
    """What happens after the last round.

    Attributes:
        grace: seconds to wait for members that are still in their rounds. Too low: slow nodes are
            left out of the settling and end with less than the others.
        linger: seconds to stay for the others after having settled, for their questions.
    """

    grace: float = 60.0
    linger: float = 5.0


@dataclass(frozen=True)
class Saving:
    """What a node keeps on disk.

    Attributes:
        seconds: between two checkpoints at least. A crash loses at most the work since the last one.
    """

    seconds: float = 30.0


@dataclass(frozen=True)
class Config:
    """One node's own choices.

    Attributes:
        listen: multiaddrs to listen on. Port 0 takes any free one. `/ip4/127.0.0.1/...` is reachable
            from this machine only: nobody else will ever find such a node.
        peers: full multiaddrs of members or bootstrap nodes to try first.
        mdns: whether to announce and look for the swarm on the local network.
        direct: whether large models go over a second TCP connection with the partner, to the same port as the
            first, encrypted in threads. Turn it off where a firewall counts connections. Off, large exchanges
            take more CPU, and training feels them more (`p2pnode bench exchange`).
        bandwidth: bytes a second that this node sends at most, all connections together; infinite for no
            limit. Choose less than the line carries, so that others on it do not suffer. Too low:
            exchanges take long, and the first ones with each peer miss their deadlines until these have
            grown, see `gossip/deadlines.py`.
        evaluate: rounds between two evaluations. 1 costs an evaluation each round.
        hello: seconds between two hellos to one of up to 16 members, give or take half; with more members
            longer, so that all hellos cost the same. Who dies is noticed sooner, by the next exchange. Choose
            more where thousands of nodes are simulated in one process. Too long: the dead stay in the view.
    """

    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/0",)
    peers: tuple[str, ...] = ()
    mdns: bool = True
    direct: bool = True
    bandwidth: float = math.inf
    evaluate: int = 1
    hello: float = 5.0
    start: Start = field(default_factory=Start)
    finish: Finish = field(default_factory=Finish)
    saving: Saving = field(default_factory=Saving)
