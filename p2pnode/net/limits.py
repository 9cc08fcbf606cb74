"""How much others may ask of this node, and how fast.

Whatever is over a limit is refused at once, and nothing is queued. A `Rate` is kept by a bucket (`bucket`).

What costs nothing to make in any number limits nobody, and peer ids cost nothing. Addresses on the internet
are dear, so connections are also counted by the network that they come from: /24 in IPv4, and /56 in IPv6,
what a customer gets. Those from this machine or its private networks are not: there anybody has as many
addresses as he likes, and a cluster of hundreds of nodes shares one.

Every limit is far above what was counted at honest nodes in their busiest second: 40 nodes that find each
other through one entry point, and two tiny models that are averaged again and again without training.
docs/LIMITS.md lists them all.
"""

import ipaddress

from p2pnode.bucket import Rate

MOST_CONNECTIONS = 512
"""Connections at once, each 0.1 MB when idle, 0.35 MB once it has carried much. A bootstrap node sees many
more peers, one after the other."""

MOST_CONNECTIONS_PER_PEER = 4
"""Connections with one peer. One is used; two peers that dial each other at once have two, and a restart may
leave dead ones."""

MOST_CONNECTIONS_PER_SUBNET = 128
"""Accepted ones: two with each of the 64 members of a view. It takes four networks to fill a node."""

MOST_STRANGERS = 64
"""Handshakes at once with who dialled. More hang up at once, and try again."""

MOST_STRANGERS_PER_SUBNET = 16
"""The same from one network: three others can still be heard while it says nothing."""

ARRIVALS = Rate(100, 256)
"""Connections accepted. A handshake costs 1 ms: a tenth of a core. 24 came in one second at most."""

ARRIVALS_PER_SUBNET = Rate(10, 64)
"""The same from one network: a tenth, so that nobody takes all."""

DIALS = Rate(5, 128)
"""Dials in vain: one where the right peer answers costs nothing. Addresses are hints, and who tells many
false ones makes a node knock at others' doors. 64 members that have all gone take half of the burst."""

DIALS_PER_HOST = Rate(2, 64)
"""The same at one host, except this machine: 64 nodes there may go at once."""

STREAMS = Rate(1000, 2000)
"""Streams that others open. To agree on a protocol costs 0.25 ms: a quarter of a core."""

STREAMS_PER_PEER = Rate(500, 1000)
"""The same, one peer: 477 came in a second when two nodes did nothing but average four thousand numbers."""

REFUSALS = Rate(100, 1000)
"""Refused streams on one connection. Who goes on is cut off, at fault: a refusal costs time too."""

MOST_SERVED = 4096
"""Streams open at once that others opened, 5 kB each; 256 on one connection."""

MOST_SERVED_PER_PEER = 256
"""The same, one peer: honest ones have a handful."""

FEW_SERVED = 8
"""The same, once half of all are taken: so that those who hold many keep nobody from being heard."""

QUESTIONS = Rate(100, 200)
"""Conversations in which the DHT answers, 2 ms each. 96 came in the first second, when 40 nodes started."""

QUESTIONS_PER_PEER = Rate(1, 20)
"""The same, one peer: it walks eight times in its first ten seconds, then ever more rarely."""

MOST_ASKING_PER_PEER = 2
"""Conversations at once of the 12 that the DHT has: one for each kind of walk."""

MOST_ANSWERS = 4
"""Answers in one such conversation: two are needed."""


def subnet_of(host: str) -> str | None:
    """The network that connections from `host`, an IP address, are counted in; None: they are not."""
    address = ipaddress.ip_address(host.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    if not address.is_global:
        return None
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 56), strict=False))


def target_of(host: str) -> str | None:
    """Under which name dials of `host`, an IP address or a DNS name, are counted; None: only in all."""
    try:
        return None if ipaddress.ip_address(host).is_loopback else host
    except ValueError:
        return host.lower()
