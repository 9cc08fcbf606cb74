"""A swarm in one line, to paste into a chat: `p2pnode:<swarm id>?peer=<multiaddr>&peer=...`.

The swarm id says what to join and lets whoever fetches the manifest check it; the peers are only
places to ask first. The form is that of a URI without authority, like `magnet:` and `mailto:`
(RFC 3986). A peer's address is a multiaddr (https://github.com/multiformats/multiaddr) that ends in
`/p2p/<peer id>`: whoever answers there must prove to be that peer.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from p2pnode.errors import UserError
from p2pnode.identity.keys import public_of
from p2pnode.ports import PeerId

MOST_PEERS = 16  # as many as a hello carries: enough for some to be alive
LONGEST_ADDRESS = 512  # characters; a relayed address with two DNS names takes about 300
_LONGEST_LINK = 3 * MOST_PEERS * LONGEST_ADDRESS  # three for each character that is percent-encoded
_SWARM_ID = re.compile(r"[0-9a-f]{64}")
_FORM = "p2pnode:<swarm id>?peer=<address>"


@dataclass(frozen=True)
class Link:
    """Where to join a swarm.

    Attributes:
        swarm_id: 64 lowercase hexadecimal digits.
        peers: full multiaddrs, possibly none.
    """

    swarm_id: str
    peers: tuple[str, ...] = ()

    def __str__(self) -> str:
        query = "&".join(f"peer={quote(peer, safe='/:')}" for peer in self.peers)
        return f"p2pnode:{self.swarm_id}" + (f"?{query}" if query else "")


def parse_link(text: str) -> Link:
    """Read a link.

    Raises:
        UserError: it is no link, or one of a form that only a newer p2pnode knows.
    """
    if not text.startswith("p2pnode:") or len(text) > _LONGEST_LINK:
        raise UserError(f"not a link to a swarm: expected {_FORM}")
    swarm_id, _, query = text.removeprefix("p2pnode:").partition("?")
    if not _SWARM_ID.fullmatch(swarm_id):
        raise UserError(f"no swarm id in the link: expected {_FORM}, with 64 of 0-9a-f as the id")
    pairs = [pair.partition("=") for pair in query.split("&")] if query else []
    for name, _, _ in pairs:
        if name != "peer":
            raise UserError(f"the link holds {name!r}: it is damaged, or needs a newer p2pnode")
    if len(pairs) > MOST_PEERS:
        raise UserError(f"the link names {len(pairs)} peers: at most {MOST_PEERS} are allowed")
    return Link(swarm_id, tuple(check_address(unquote(value)) for _, _, value in pairs))


def check_address(text: str) -> str:
    """Return a peer's full address as it is usually written.

    Raises:
        UserError: not a multiaddr, or one that does not end in `/p2p/` and an Ed25519 peer id.
    """
    shown = repr(text[:80])
    if len(text) > LONGEST_ADDRESS or not text.isascii() or not text.isprintable():
        raise UserError(f"{shown} is not an address: expected at most {LONGEST_ADDRESS} plain characters")
    try:
        address = str(Multiaddr(text))
    except (MultiaddrError, ValueError) as error:
        raise UserError(
            f"{shown} is not an address: expected e.g. /ip4/1.2.3.4/tcp/4001/p2p/12D3..."
        ) from error
    _, _, peer = address.rpartition("/p2p/")
    try:
        public_of(PeerId(peer))
    except ValueError as error:
        raise UserError(
            f"{shown} names no peer: expected /p2p/ and its peer id (12D3...) at the end"
        ) from error
    return address
