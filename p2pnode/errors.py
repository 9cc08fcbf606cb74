"""Every error says whose fault it is.

A `UserError` is a person's mistake: one line that says what to do, exit code 2. A `LinkError` is
nobody's: networks break. A `PeerFault` is a peer's: it is counted against that peer and the node
goes on. Any other exception is our own bug and ends the node loudly. The split follows h11, whose
errors are Local or Remote.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import TypeVar

E = TypeVar("E", bound=BaseException)


class UserError(Exception):
    """A person's mistake. The message is one line that says what is wrong and what to do."""


class LinkError(Exception):
    """The network failed; nobody is to blame and nothing is counted."""


class Unreachable(LinkError):
    """No stream could be opened: no address answers, or the protocol is not spoken there."""


class Disconnected(LinkError):
    """A stream ended before the conversation did. Nothing further can be sent or received."""


class Fault(StrEnum):
    """What a peer did wrong."""

    MALFORMED = "malformed"  # bytes that are not a message of ours
    OVERSIZED = "oversized"  # announced more than its bound allows
    UNEXPECTED = "unexpected"  # a valid message at the wrong moment
    STALLED = "stalled"  # did not answer before the deadline
    WRONG_SWARM = "wrong-swarm"  # belongs to another swarm
    WRONG_VERSION = "wrong-version"  # speaks no protocol version that we speak
    WRONG_LAYOUT = "wrong-layout"  # other parameter names, shapes, dtypes, rule or codec
    NOT_FINITE = "not-finite"  # sent NaN or infinity
    NOT_ADMITTED = "not-admitted"  # its credential does not satisfy the manifest
    FALSE_CLAIM = "false-claim"  # what it sent does not match the hash or signature it promised


class PeerFault(Exception):
    """A peer broke the protocol. Our own state is as it was before the conversation.

    Attributes:
        fault: what it did, for counting.
    """

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault
        self.detail = detail


def leaves(group: BaseExceptionGroup[E]) -> Iterator[E]:
    """The exceptions in a group of groups, as nurseries make them."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error
