"""Finding a swarm on the local network, without anybody's help: multicast DNS.

Each node announces a DNS-SD service (RFC 6762, RFC 6763) whose text record holds its swarm, its peer
id and its addresses, and watches for others of the same swarm. zeroconf does this in a thread of its
own; what it notices crosses into trio through one bounded channel. The libp2p module for the same
purpose announces no swarm and blocks the event loop.

An announcement is a claim by anybody on the network: addresses to try, which a handshake must prove.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random

import trio
from zeroconf import Error as ZeroconfError
from zeroconf import InterfaceChoice, ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

from p2pnode.identity.keys import public_of
from p2pnode.net.addresses import ADDRESSES_PER_PEER, LONGEST_ADDRESS, is_dialable, parse_address
from p2pnode.ports import Network, PeerAddress, PeerId

logger = logging.getLogger(__name__)

SERVICE = "_p2pnode._tcp.local."

MOST_NOTICES = 256
"""Names seen and not yet looked up; more at once are dropped, and come again with the next answer."""

LOOKUPS_AT_ONCE, LOOKUP_MILLISECONDS = 4, 1000
"""For the text records of names; those of living peers come with the name itself."""

RETRY_SECONDS = 60.0
"""Before a network without multicast is tried again: a laptop may have changed it meanwhile."""


class MdnsDiscovery:
    """Implements `ports.Discovery`.

    Args:
        network: whose addresses are announced.
        random: for jitter.
        interfaces: IP addresses of the interfaces to use; all of them when None.
    """

    def __init__(self, network: Network, random: Random, interfaces: Sequence[str] | None = None) -> None:
        self._network = network
        self._random = random
        self._interfaces = list(interfaces) if interfaces is not None else InterfaceChoice.All

    async def run(self, swarm: str, found: Callable[[PeerAddress], None]) -> None:
        told = False
        while True:
            try:
                await self._announce_and_watch(swarm, found)
            except* (OSError, ZeroconfError) as group:
                if not told:
                    logger.warning("cannot look around on the local network: %s", group.exceptions[0])
                told = True
            await trio.sleep(RETRY_SECONDS * self._random.uniform(0.7, 1.3))

    async def _announce_and_watch(self, swarm: str, found: Callable[[PeerAddress], None]) -> None:
        zeroconf = await trio.to_thread.run_sync(lambda: Zeroconf(interfaces=self._interfaces))
        try:
            names, noticed = trio.open_memory_channel[str](MOST_NOTICES)
            ServiceBrowser(zeroconf, SERVICE, handlers=[_crossing_into_trio(names)])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._announce, zeroconf, swarm)
                for _ in range(LOOKUPS_AT_ONCE):
                    nursery.start_soon(self._look_up, zeroconf, noticed, swarm, found)
        finally:
            with trio.CancelScope(shield=True):  # ends the browser too, and says goodbye: about 0.1 s
                await trio.to_thread.run_sync(zeroconf.close)

    async def _announce(self, zeroconf: Zeroconf, swarm: str) -> None:
        info = ServiceInfo(
            SERVICE,
            f"{self._network.me}.{SERVICE}",
            port=parse_address(self._network.addresses[0]).port,
            properties=text_record(swarm, self._network.me, self._network.addresses),
            server=f"{self._network.me}.local.",
            parsed_addresses=[parse_address(self._network.addresses[0]).host],
        )
        # No probing for the same name elsewhere: it holds our peer id.
        register = partial(zeroconf.register_service, info, cooperating_responders=True)
        await trio.to_thread.run_sync(register)

    async def _look_up(
        self,
        zeroconf: Zeroconf,
        names: trio.MemoryReceiveChannel[str],
        swarm: str,
        found: Callable[[PeerAddress], None],
    ) -> None:
        async for name in names:
            lookup = partial(zeroconf.get_service_info, SERVICE, name, LOOKUP_MILLISECONDS)
            try:
                info = await trio.to_thread.run_sync(lookup)
            except ZeroconfError as error:  # anybody may announce a name that is none
                logger.debug("%r is not looked up: %s", name, error)
                continue
            peer = read_text_record(swarm, info.properties) if info is not None else None
            if peer is not None and peer.peer != self._network.me:
                found(peer)


def why_silent() -> str | None:
    """Why the local network cannot be looked at, or None. Blocks for a moment."""
    try:
        Zeroconf(interfaces=InterfaceChoice.All).close()
    except (OSError, ZeroconfError) as error:
        return str(error)
    return None


def _crossing_into_trio(names: trio.MemorySendChannel[str]) -> Callable[..., None]:
    token = trio.lowlevel.current_trio_token()

    def put(name: str) -> None:
        try:
            names.send_nowait(name)
        except trio.WouldBlock:
            logger.debug("too many announcements at once, dropped %s", name)

    def notice(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        del zeroconf, service_type
        if state_change is not ServiceStateChange.Removed:
            token.run_sync_soon(put, name)

    return notice


def text_record(swarm: str, peer: PeerId, addresses: Sequence[str]) -> dict[str | bytes, str | bytes | None]:
    """Write what is announced. The swarm is hashed: its id is enough to join, so it is not shouted."""
    chosen = [address for address in addresses if len(address) < LONGEST_ADDRESS // 2][:ADDRESSES_PER_PEER]
    return {"swarm": _digest(swarm), "peer": peer, **{f"a{i}": address for i, address in enumerate(chosen)}}


def read_text_record(swarm: str, record: Mapping[bytes, bytes | None]) -> PeerAddress | None:
    """Read an announcement; None for another swarm's, and for what is none."""
    text = {
        key.decode("ascii", "replace"): (value or b"").decode("ascii", "replace")
        for key, value in record.items()
    }
    addresses = tuple(a for i in range(ADDRESSES_PER_PEER) if is_dialable(a := text.get(f"a{i}", "")))
    peer = PeerId(text.get("peer", ""))
    try:
        public_of(peer)
    except ValueError:
        return None
    return PeerAddress(peer, addresses) if addresses and text.get("swarm") == _digest(swarm) else None


def _digest(swarm: str) -> str:
    return hashlib.sha256(f"p2pnode mdns {swarm}".encode()).hexdigest()[:32]
