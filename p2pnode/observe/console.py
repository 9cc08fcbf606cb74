"""What a person at the terminal reads: one line an event, on stderr, and nothing else.

Libraries log what is normal for them (a peer that does not answer, a stream that was reset) as
warnings. Here networks break all day, so their records are shown only to who asks for more.
"""

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from p2pnode import events
from p2pnode.observe.stream import Stamped, Subscriber
from p2pnode.ports import PeerId

MAX_LINE = 400
"""Characters of a line. Texts of peers are in there."""

_OFF = logging.CRITICAL + 1

_LIBRARIES = {0: _OFF, 1: logging.WARNING, 2: logging.INFO}
"""How much of what libraries log is shown, by verbosity; from 3 on, everything."""

_LEVELS: dict[type[events.Event], int] = {
    events.ExchangeCompleted: logging.DEBUG,
    events.ExchangeDeclined: logging.DEBUG,
    events.ExchangeAborted: logging.DEBUG,
    events.Checkpointed: logging.DEBUG,
    events.NotSaved: logging.WARNING,
    events.NotRestored: logging.WARNING,
    events.PeerFaulted: logging.WARNING,
    events.ExchangeUnsettled: logging.WARNING,
}
"""How much an event matters; the others are INFO."""

_STYLES = {logging.ERROR: "red", logging.WARNING: "yellow", logging.INFO: "", logging.NOTSET: "dim"}
"""How a line looks, by the least level that looks so."""

_METRICS = {"test_accuracy": "test", "holdout_accuracy": "hold-out"}


def terminal() -> Console:
    """The terminal on stderr, in colours only where there is one and NO_COLOR is not set."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def printer(console: Console, verbose: int = 0, quiet: bool = False) -> Subscriber:
    """A subscriber that prints the events which matter enough, a line each."""
    threshold = _threshold(verbose, quiet)

    def show(stamped: Stamped) -> None:
        level = _LEVELS.get(type(stamped.event), logging.INFO)
        if level >= threshold:
            _print(console, stamped.time, describe(stamped.event), level)

    return show


@contextlib.contextmanager
def logging_to(console: Console, verbose: int = 0, quiet: bool = False) -> Iterator[None]:
    """Show what is logged, a line a record, until the block ends: ours like events, others' by verbosity.

    Python's own warnings are logged too, as from a library.
    """
    ours, theirs = _threshold(verbose, quiet), _OFF if quiet else _LIBRARIES.get(verbose, logging.DEBUG)
    handler = _Lines(console, ours, theirs)
    root, own, last_resort = logging.getLogger(), logging.getLogger("p2pnode"), logging.lastResort
    levels = root.level, own.level
    root.addHandler(handler)
    root.setLevel(theirs)
    own.setLevel(ours)
    # libp2p cuts its loggers off from the root when it is imported; what it logs ends up here.
    logging.lastResort = handler
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logging.lastResort = last_resort
        root.setLevel(levels[0])
        own.setLevel(levels[1])
        root.removeHandler(handler)


def describe(event: events.Event) -> str:
    """What happened, in a few words."""
    match event:
        case events.NodeReady():
            where = ", ".join(event.addresses) or "no address"
            return f"ready  {short(event.peer)}  swarm {event.swarm[:8] or 'none'}  listening on {where}"
        case events.RoundFinished():
            return _round(event)
        case events.CaughtUp():
            return f"took the model of round {event.round} from peer {short(event.peer)}"
        case events.Checkpointed():
            return f"saved round {event.round} to {event.path}"
        case events.NotSaved():
            return f"not saved, will try again: {event.reason}"
        case events.NotRestored():
            return f"passed over: {event.reason}"
        case events.Restored():
            return f"going on from round {event.round} in {event.path}"
        case events.Settled():
            parts = [f"settled with {event.counted} of {event.members} members", *metrics(event.metrics)]
            return "  ".join([*parts, f"spread {event.spread:.1e}"])
        case events.Stopped():
            return f"stopped ({event.reason})"
        case events.PeerAlive() | events.PeerLost() | events.PeerFaulted():
            return f"peer {short(event.peer)} {_peer(event)}"
        case _:
            return _exchange(event)


def _round(event: events.RoundFinished) -> str:
    parts = [f"round {event.round}/{event.rounds}"]
    if not math.isnan(event.loss):
        parts.append(f"loss {event.loss:.3g}")
    parts += [*metrics(event.metrics), plural(event.peers, "peer"), f"{decimal(event.bytes_sent)} sent"]
    return "  ".join(parts)


def _peer(event: events.PeerAlive | events.PeerLost | events.PeerFaulted) -> str:
    match event:
        case events.PeerAlive():
            return f"is here, in round {event.round}"
        case events.PeerLost():
            return f"is gone ({event.reason})"
        case events.PeerFaulted():
            return f"broke the protocol ({event.fault}, {event.count} so far): {event.detail}"


def _exchange(event: events.Event) -> str:
    match event:
        case events.ExchangeCompleted():
            size, whose = decimal(event.payload_bytes), "our" if event.initiator else "its"
            cost = f"{size} each way, {event.seconds:.2g} s"
            return f"averaged with peer {short(event.peer)} at {whose} offer: {cost}"
        case events.ExchangeDeclined():
            return f"peer {short(event.peer)} declined ({event.reason})"
        case events.ExchangeAborted():
            return f"exchange with peer {short(event.peer)} came to nothing ({event.reason})"
        case events.ExchangeUnsettled():
            return f"peer {short(event.peer)} may have averaged with us; we did not"
        case _:
            return str(event)


def short(peer: PeerId) -> str:
    """The end of a peer id: ids of one kind of key all begin alike."""
    return peer[-8:]


def metrics(values: Mapping[str, float]) -> list[str]:
    """Metrics as a person reads them: `test 0.94`."""
    return [f"{_METRICS.get(name, name)} {value:.3g}" for name, value in values.items()]


def plural(count: int, noun: str) -> str:
    """`1 peer`, `2 peers`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def one_line(text: str) -> str:
    """`text` without line breaks, terminal control codes and what is too long: peers wrote part of it."""
    flat = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return flat if len(flat) <= MAX_LINE else flat[: MAX_LINE - 1] + "…"


def _threshold(verbose: int, quiet: bool) -> int:
    """The least level of our own that is shown."""
    if quiet:
        return logging.WARNING
    return logging.DEBUG if verbose else logging.INFO


def _print(console: Console, when: float, text: str, level: int) -> None:
    clock = time.strftime("%H:%M:%S", time.localtime(when))
    style = next(style for least, style in _STYLES.items() if level >= least)
    console.print(Text(f"{clock}  {one_line(text)}", style))


class _Lines(logging.Handler):
    """Prints log records like events. `ours` and `theirs` are the least levels shown."""

    def __init__(self, console: Console, ours: int, theirs: int) -> None:
        super().__init__()
        self._console = console
        self._ours = ours
        self._theirs = theirs

    def emit(self, record: logging.LogRecord) -> None:
        if _is_ours(record) and record.levelno >= self._ours:
            _print(self._console, record.created, _message(record), record.levelno)
        elif not _is_ours(record) and record.levelno >= self._theirs:
            # What a library warns of is no warning of ours: it is shown like any detail.
            _print(self._console, record.created, f"{record.name}: {_message(record)}", logging.DEBUG)


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] == "p2pnode"


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except (TypeError, ValueError, KeyError):
        text = str(record.msg)  # a library logged arguments that do not fit its format
    error = record.exc_info[1] if record.exc_info else None
    return f"{text} ({type(error).__name__}: {error})" if error else text
