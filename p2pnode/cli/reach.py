"""What `doctor` looks at on the network: who could dial this node, and whom it can dial.

Nobody is contacted but the addresses that were given, and they meet a key made for the occasion.
"""

import ipaddress
import socket
from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING

from p2pnode.cli.checks import Check, Finding, Plan, fail, ok, warn
from p2pnode.errors import LinkError, UserError

if TYPE_CHECKING:
    from p2pnode.net.host import Libp2pNetwork

SLOW = 0.5
"""Seconds for a round trip, above which exchanges wait for the network more than they compute."""

PINGS = 3

NOWHERE = ("/ip4/127.0.0.1/tcp/0",)
"""Where a node listens that only dials."""


def listening(plan: Plan) -> Iterator[Finding]:
    """The port is free, and others can dial it."""
    import trio

    from p2pnode.identity.keys import Key
    from p2pnode.net.host import open_network

    async def look() -> tuple[str, ...]:
        async with open_network(Key.generate(), plan.listen) as network:
            return network.addresses

    try:
        yield judge_addresses(trio.run(look))
    except UserError as error:
        yield fail("listening", str(error), "choose another --listen")


def judge_addresses(addresses: Sequence[str]) -> Finding:
    """Multiaddrs at which this node would be reached, by whom."""
    from p2pnode.net.addresses import parse_address

    hosts = {address: ipaddress.ip_address(parse_address(address).host) for address in addresses}
    others = [address for address, host in hosts.items() if not host.is_loopback]
    found = ", ".join(others or addresses)
    if not others:
        return warn("listening", f"{found}: only this machine can dial it", "leave --listen away")
    if not any(hosts[address].is_global for address in others):
        return ok(
            "listening", f"{found}: from its own network; from elsewhere if the router forwards the port"
        )
    return ok("listening", found)


def names(plan: Plan) -> Iterator[Finding]:
    """DNS, where an address needs it."""
    from p2pnode.net.addresses import parse_address

    for host in dict.fromkeys(parse_address(one).host for one in plan.peers if one.startswith("/dns")):
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError as error:
            yield fail("dns", f"{host}: {error.strerror}", "check the name, and this machine's name server")
        else:
            yield ok("dns", f"{host} is {found[0][4][0]}")


def peers(plan: Plan) -> Iterator[Finding]:
    """Each bootstrap node or member answers pings."""
    import trio

    if plan.peers:
        yield from trio.run(_ping_all, plan.peers)
    else:
        yield warn("peers", "no address to try", "give --peer, unless all are on this local network")


async def _ping_all(addresses: Sequence[str]) -> list[Finding]:
    import trio

    from p2pnode.identity.keys import Key
    from p2pnode.net.host import open_network

    found: dict[str, Finding] = {}

    async def visit(network: "Libp2pNetwork", address: str) -> None:
        found[address] = await _ping(network, address)

    async with open_network(Key.generate(), NOWHERE) as network, trio.open_nursery() as nursery:
        for address in addresses:
            nursery.start_soon(visit, network, address)
    return [found[address] for address in addresses]


async def _ping(network: "Libp2pNetwork", address: str) -> Finding:
    import trio

    from p2pnode.net.host import OPEN_SECONDS
    from p2pnode.net.identify import PING, round_trip

    where, _, peer = address.partition("/p2p/")
    where, _, peer = address.partition("/p2p/")
    try:
        with trio.fail_after(OPEN_SECONDS):
            stream = await network.open(await network.connect(address), PING)
            seconds = median([await round_trip(stream) for _ in range(PINGS)])
            await stream.reset()
    except (LinkError, trio.TooSlowError) as error:
        why = str(error).removeprefix(f"{peer}: ").replace(f"/p2p/{peer}", "") or "does not answer"
        return fail(
            "peer",
            why if where in why else f"{where}: {why}",
            "see that it runs, that this is its address, and that no firewall is between",
        )
    return judge_peer(where, seconds)


def judge_peer(address: str, seconds: float) -> Finding:
    """A peer that answers within `seconds`."""
    found = f"{address} answers in {1000 * seconds:.1f} ms"
    if seconds > SLOW:
        return warn("peer", found, "exchanges will mostly wait for the network: take larger rounds")
    return ok("peer", found)


def multicast(_plan: Plan) -> Iterator[Finding]:
    """The local network can be looked at."""
    from p2pnode.net.mdns import why_silent

    if why := why_silent():
        yield warn("mdns", why, "peers on the local network need --peer")
    else:
        yield ok("mdns", "the local network can be looked at")


NETWORK: Sequence[Check] = (listening, names, peers, multicast)
"""In the order in which a node needs them."""
