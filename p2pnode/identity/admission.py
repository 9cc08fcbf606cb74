"""Who may join a swarm: a pure function that its manifest names.

Every node of the swarm asks it about every peer that says hello, and all get the same answer: no
list is kept, and nobody has to be asked. A node shows its credential, bytes that only the policy
understands; the hello's handshake has already proven who it is.
"""

from collections.abc import Callable, Mapping

from p2pnode.identity.manifest import Manifest
from p2pnode.ports import PeerId

LARGEST_CREDENTIAL = 1024  # bytes; a key and a few signatures, small enough for every hello

Policy = Callable[[Manifest, PeerId, bytes], bool]


def _open(manifest: Manifest, peer: PeerId, credential: bytes) -> bool:
    """Admit everybody. A credential shows that a peer means another policy: it is turned away."""
    return not credential


POLICIES: Mapping[str, Policy] = {"open": _open}


def admit(manifest: Manifest, peer: PeerId, credential: bytes) -> bool:
    """Whether `peer`, which showed `credential`, belongs into the swarm of `manifest`."""
    if len(credential) > LARGEST_CREDENTIAL:
        return False
    return POLICIES[manifest.admission.policy](manifest, peer, credential)
