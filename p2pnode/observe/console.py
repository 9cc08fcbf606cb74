"""What a node says on stderr: a line an event or log record, for people, or as JSON for programs.

Libraries log what is normal for them (a peer that does not answer, a stream that was reset) as
warnings. Here networks break all day, so their records are shown only to who asks for more.
"""

import contextlib
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from p2pnode import events
from p2pnode.observe.stream import Stamped, Subscriber, to_json
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


@dataclass(frozen=True)
class Voice:
    """How a command speaks.

    Attributes:
        console: on stderr.
        verbose: 1 says details, and what libraries warn of; 2 what they note too; 3 everything.
        quiet: only warnings are said.
        as_json: each line is a JSON object.
    """

    console: Console
    verbose: int = 0
    quiet: bool = False
    as_json: bool = False

    def printer(self) -> Subscriber:
        """A subscriber that prints the events which matter enough, a line each."""
        threshold = self._threshold

        def show(stamped: Stamped) -> None:
            level = _LEVELS.get(type(stamped.event), logging.INFO)
            if level >= threshold and self.as_json:
                _print_json(self.console, to_json(stamped))
            elif level >= threshold:
                _print(self.console, stamped.time, describe(stamped.event), level)

        return show

    @contextlib.contextmanager
    def logging(self) -> Iterator[None]:
        """Show what is logged, a line a record, until the block ends: ours like events, others' if asked for.

        Python's own warnings are logged too, as from a library.
        """
        ours = self._threshold
        theirs = _OFF if self.quiet else _LIBRARIES.get(self.verbose, logging.DEBUG)
        handler = _Lines(self.console, ours, theirs, self.as_json)
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

    @property
    def _threshold(self) -> int:
        """The least level of our own that is shown."""
        if self.quiet:
            return logging.WARNING
        return logging.DEBUG if self.verbose else logging.INFO


def terminal(plain: bool = False) -> Console:
    """The terminal on stderr, in colours only where there is one, unless `plain` or NO_COLOR is set."""
    return Console(stderr=True, highlight=False, soft_wrap=True, no_color=plain or None)


def describe(event: events.Event) -> str:
    """What happened, in a few words."""
    match event:
        case events.NodeReady():
            where = ", ".join(event.addresses) or "no address"
            return f"ready  {short(event.peer)}  swarm {event.swarm[:8] or 'none'}  listening on {where}"
        case events.RoundFinished():
            return _round(event)
        case events.Paused() | events.Resumed() | events.Alone() | events.InCompany():
            return _course(event)
        case events.CaughtUp():
            return f"took the model of round {event.round} from peer {short(event.peer)}"
        case events.Checkpointed() | events.NotSaved() | events.NotRestored() | events.Restored():
            return _keeping(event)
        case events.Settled():
            parts = [f"settled with {event.counted} of {event.members} members", *metrics(event.metrics)]
            return "  ".join([*parts, f"spread {event.spread:.1e}"])
        case events.Stopped():
            return f"stopped ({event.reason})"
        case events.PeerAlive() | events.PeerLost() | events.PeerFaulted():
            return f"peer {short(event.peer)} {_peer(event)}"
        case _:
            return _exchange(event)


def _course(event: events.Paused | events.Resumed | events.Alone | events.InCompany) -> str:
    match event:
        case events.Paused():
            return f"paused after round {event.round}: `p2pnode resume` lets it go on"
        case events.Resumed():
            return f"going on after round {event.round}"
        case events.Alone():
            return "no peer answers: training goes on alone"
        case events.InCompany():
            return f"no longer alone: {plural(event.peers, 'peer')}"


def _keeping(
    event: events.Checkpointed | events.NotSaved | events.NotRestored | events.Restored,
) -> str:
    match event:
        case events.Checkpointed():
            return f"saved round {event.round} to {event.path}"
        case events.NotSaved():
            return f"not saved, will try again: {event.reason}"
        case events.NotRestored():
            return f"passed over: {event.reason}"
        case events.Restored():
            return f"going on from round {event.round} in {event.path}"


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


def _print(console: Console, when: float, text: str, level: int) -> None:
    clock = time.strftime("%H:%M:%S", time.localtime(when))
    style = next(style for least, style in _STYLES.items() if level >= least)
    console.print(Text(f"{clock}  {one_line(text)}", style))


def _print_json(console: Console, content: Mapping[str, Any]) -> None:
    # ASCII: neither terminal control codes nor a stderr of another encoding are a matter then.
    console.out(json.dumps(content), highlight=False)


class _Lines(logging.Handler):
    """Prints log records like events. `ours` and `theirs` are the least levels shown."""

    def __init__(self, console: Console, ours: int, theirs: int, as_json: bool) -> None:
        super().__init__()
        self._console = console
        self._ours = ours
        self._theirs = theirs
        self._as_json = as_json

    def emit(self, record: logging.LogRecord) -> None:
        ours = _is_ours(record)
        if record.levelno < (self._ours if ours else self._theirs):
            return
        message = _message(record)
        if self._as_json:
            _print_json(
                self._console,
                {
                    "time": record.created,
                    "level": record.levelname.lower(),
                    "logger": record.name,
                    "message": message,
                },
            )
        elif ours:
            _print(self._console, record.created, message, record.levelno)
        else:
            # What a library warns of is no warning of ours: it is shown like any detail.
            _print(self._console, record.created, f"{record.name}: {message}", logging.DEBUG)


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] == "p2pnode"


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except (TypeError, ValueError, KeyError):
        text = str(record.msg)  # a library logged arguments that do not fit its format
    error = record.exc_info[1] if record.exc_info else None
    return f"{text} ({type(error).__name__}: {error})" if error else text
