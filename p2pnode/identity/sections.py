"""The tables of a manifest, key by key: what each means, how to choose it, what a wrong value does.

These texts stand above the keys in the file that `p2pnode swarm create` writes, so the file explains
itself, and nothing is said twice. The ranges are wide: they keep out what no machine could do, and
leave judgement to the texts.
"""

from dataclasses import dataclass, field
from typing import Annotated

from p2pnode.errors import UserError
from p2pnode.identity.link import MOST_PEERS, check_address
from p2pnode.identity.schema import Entry, Options, integer, number, one_of, text


def _are_addresses(value: object) -> bool:
    if not isinstance(value, tuple) or len(value) > MOST_PEERS:
        return False
    try:
        return all(isinstance(address, str) and check_address(address) for address in value)
    except UserError:
        return False


@dataclass(frozen=True)
class TaskSpec:
    """What is learned; the task itself understands its options."""

    name: Annotated[
        str,
        text(
            1, 64, "The model and its data, by name. `p2pnode swarm create --help` lists the built-in ones."
        ),
    ]
    options: Annotated[
        Options,
        "Options of the task, e.g. the size of its model (of `tabular`, 0 hidden units make it linear). The "
        "task says which; a wrong one is refused when a node starts. Of the columns of a table, a number is "
        "read as (value - mean) / scale; `missing` is what stands for a missing value.",
    ] = field(hash=False)


@dataclass(frozen=True)
class RuleSpec:
    """How nodes average; the rule itself understands its options."""

    name: Annotated[
        str,
        text(
            1,
            64,
            "How a node averages with a partner. Choose `momentum` unless you compare rules: plain averaging "
            "learns several points worse when the nodes' data differ.",
        ),
    ]
    codec: Annotated[
        str,
        text(
            1,
            64,
            "How parameters are written for the way. `int4` sends an eighth of `float32`, and pairs learn as "
            "well with it; too few bits show as an accuracy that stops rising early.",
        ),
    ]
    options: Annotated[
        Options, "Options of the rule. The rule says which; a wrong one is refused when a node starts."
    ] = field(hash=False)


@dataclass(frozen=True)
class Training:
    """What a node does between exchanges, and how often."""

    seed: Annotated[
        int,
        integer(
            0,
            2**31 - 1,
            "Where all agreed randomness begins: first parameters, split of the data, schedules. Any number "
            "will do; two swarms that differ in it alone are still two swarms.",
        ),
    ]
    optimizer: Annotated[
        str,
        text(
            1,
            64,
            "The local optimizer. `sgd` with the rule's momentum is the tested choice; an optimizer's own "
            "moments stay on each node and are not averaged.",
        ),
    ]
    learning_rate: Annotated[
        float,
        number(
            0,
            1000,
            "Size of a local step. Take what works on one node alone, or a little less. Too large: the loss "
            "jumps or becomes nan; too small: it has hardly fallen when the rounds are over.",
        ),
    ]
    batch_size: Annotated[
        int,
        integer(
            1,
            2**20,
            "Samples in a local step, at most what the smallest node holds. Too large: out of memory; too "
            "small: a device is idle most of the time and the loss is noisy.",
        ),
    ]
    steps: Annotated[
        int,
        integer(
            0,
            2**20,
            "Local steps in a round, before an exchange; 0 averages without training. 5 to 20 is usual. Too "
            "many: nodes drift apart and averaging hurts; too few: most of the time goes into exchanges.",
        ),
    ]
    rounds: Annotated[
        int,
        integer(
            1,
            2**31 - 1,
            "Rounds that each node counts for itself before the swarm settles on one model. steps x rounds "
            "is the whole training; stop when the hold-out metric has been flat for a while.",
        ),
    ]
    overlap: Annotated[
        int,
        integer(
            0,
            2**20,
            "Local steps that a node may take while an exchange is open, before it waits for it; 0 "
            "alternates strictly. A few hide a slow link; as many as `steps` cost some accuracy.",
        ),
    ]


@dataclass(frozen=True)
class Admission:
    """Who may join."""

    policy: Annotated[
        str, one_of(("open",), "Who may join: `open` lets everybody in who has the swarm's link.")
    ] = "open"


@dataclass(frozen=True)
class Bounds:
    """What no node of this swarm will go beyond, whatever a peer says."""

    parameters: Annotated[
        int,
        integer(
            1,
            2**30,
            "The most shared parameters a model may have; each takes 4 bytes, several times over. Somewhat "
            "above the model's size is right; below it, nodes refuse to start.",
        ),
    ]
    peers: Annotated[
        int,
        integer(
            1,
            4096,
            "The most peers a node keeps in view. 64 is plenty for swarms of any size; with too few, parts "
            "of a swarm can lose each other, and with too many, nodes spend their time on hellos.",
        ),
    ]


@dataclass(frozen=True)
class Hints:
    """What helps to find and to recognise the swarm without being part of it."""

    addresses: Annotated[
        tuple[str, ...],
        Entry(
            "Full addresses of members or bootstrap nodes to ask first. Old ones do no harm: they are tried "
            "and passed over.",
            f"a list of at most {MOST_PEERS} addresses like /ip4/1.2.3.4/tcp/4001/p2p/12D3...",
            _are_addresses,
        ),
    ] = ()
    description: Annotated[str, text(0, 280, "One line for people who consider joining.")] = ""
