"""Which swarm a person means: one by the file of its manifest, or by a link."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from p2pnode.identity.manifest import Manifest

_SCHEME = re.compile("[A-Za-z][A-Za-z0-9+.-]+:")
"""How a link begins, of whatever kind; a file's name that looks like one is written with `./` before it."""


class Named(NamedTuple):
    """A swarm that a person named.

    Attributes:
        swarm_id: in hexadecimal digits.
        manifest: None where only a link is known.
        peers: full addresses of whom that names.
    """

    swarm_id: str
    manifest: "Manifest | None"
    peers: tuple[str, ...]


def named(swarm: str) -> Named:
    """The swarm that a file or a link stands for.

    Raises:
        UserError: there is no such file, or it or the link is not in order.
    """
    from p2pnode.identity.link import parse_link
    from p2pnode.identity.manifest import load_manifest

    if _SCHEME.match(swarm):
        link = parse_link(swarm)
        return Named(link.swarm_id, None, link.peers)
    manifest = load_manifest(Path(swarm))
    return Named(manifest.swarm_id, manifest, manifest.hints.addresses)
