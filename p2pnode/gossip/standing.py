"""What a node says of itself in its hellos, and what others check of it before they believe it."""

from dataclasses import dataclass

from p2pnode.errors import Fault, PeerFault, UserError
from p2pnode.gossip.view import Member, Stage
from p2pnode.identity.admission import admit
from p2pnode.identity.keys import public_of, verify
from p2pnode.identity.manifest import Manifest
from p2pnode.ports import PeerId
from p2pnode.wire.messages import Hello

VERSION = 1

DAY = 86_400_000
"""In milliseconds, which incarnations are the time in."""


class Superseded(UserError):
    """Another process with this node's key has started later: in `incarnation`."""

    def __init__(self, incarnation: int, own: int) -> None:
        line = (
            "another node has been started with this node's key, so this one stops; "
            "give each node a --data-dir of its own"
        )
        if (days := (incarnation - own) // DAY) > 0:
            line += f" (by its clock {days} days later: if that was wrong and it has ended, start this again)"
        super().__init__(line)
        self.incarnation = incarnation


@dataclass
class Standing:
    """What a node says of itself in its hellos. The node's other parts keep it up to date."""

    stage: Stage = Stage.NEWCOMER
    round: int = 0
    layout: bytes = b""
    members: bytes = b""
    sketch: bytes = b""


def claim(swarm: bytes, incarnation: int) -> bytes:
    """What the holder of a key signs about its incarnation."""
    return b"p2pnode incarnation\0" + swarm + incarnation.to_bytes(8, "big")


def check(
    peer: PeerId, hello: Hello, known: Member | None, swarm: bytes, layout: bytes, manifest: Manifest | None
) -> None:
    """Whether a hello belongs here.

    Args:
        peer: who says it.
        hello: what it says.
        known: what it said before.
        swarm: this node's.
        layout: this node's, where it knows it already.
        manifest: the same.

    Raises:
        PeerFault: it does not.
    """
    if hello.version != VERSION:
        raise PeerFault(Fault.WRONG_VERSION, f"speaks version {hello.version}, this node {VERSION}")
    if hello.swarm != swarm:
        raise PeerFault(Fault.WRONG_SWARM, f"is in swarm {hello.swarm.hex()[:16]}…")
    if known is None or (known.incarnation, known.proof) != (hello.incarnation, hello.proof):
        try:
            public = public_of(peer)
        except ValueError as error:
            raise PeerFault(Fault.NOT_ADMITTED, "its id holds no Ed25519 key") from error
        if not verify(public, hello.proof, claim(swarm, hello.incarnation)):
            raise PeerFault(Fault.FALSE_CLAIM, "did not sign its incarnation")
    if layout and hello.layout and hello.layout != layout:
        raise PeerFault(Fault.WRONG_LAYOUT, "shares other parameters, or by another rule or codec")
    if manifest is not None and not admit(manifest, peer, hello.credential):
        raise PeerFault(Fault.NOT_ADMITTED, f"its credential does not satisfy {manifest.admission.policy}")
