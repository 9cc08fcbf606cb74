"""The one stream of events: stamped once, handed to everybody who asked, and written as JSON.

Log, live view, metrics and tests all subscribe here, so none of them can disagree about what
happened. Publishing is a plain call: whoever publishes is never held up by who listens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints, overload

import trio

from p2pnode.events import Event
from p2pnode.ports import WallClock

E = TypeVar("E", bound=Event)

EVENTS: dict[str, type[Event]] = {kind.__name__: kind for kind in Event.__subclasses__()}
"""Every kind of event, by the name it has in JSON."""


@dataclass(frozen=True)
class Stamped:
    """An event and when it happened.

    Attributes:
        time: seconds since the Unix epoch.
        event: what happened.
    """

    time: float
    event: Event


Subscriber = Callable[[Stamped], None]


class EventStream:
    """Where a node says what happens. Everything here is called from the trio thread.

    Args:
        wall: stamps the events.
    """

    def __init__(self, wall: WallClock) -> None:
        self._wall = wall
        self._subscribers: list[Subscriber] = []

    def publish(self, event: Event) -> None:
        """Stamp `event` and hand it to every subscriber, in the order they came.

        An exception of a subscriber's is a bug, and leaves through here.
        """
        stamped = Stamped(self._wall(), event)
        for subscriber in tuple(self._subscribers):
            subscriber(stamped)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` for every event from now on, until the returned function is called."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    @overload
    async def wait_for(self, wanted: type[E]) -> E: ...

    @overload
    async def wait_for(self, wanted: Callable[[Event], bool]) -> Event: ...

    async def wait_for(self, wanted: type[E] | Callable[[Event], bool]) -> Event:
        """The next event of the kind `wanted`, or for which `wanted` is true. The past is not searched."""
        arrived = trio.Event()
        found: list[Event] = []

        def look(stamped: Stamped) -> None:
            matches = isinstance(stamped.event, wanted) if isinstance(wanted, type) else wanted(stamped.event)
            if matches:
                found.append(stamped.event)
                arrived.set()

        unsubscribe = self.subscribe(look)
        try:
            await arrived.wait()
        finally:
            unsubscribe()
        return found[0]


def to_json(stamped: Stamped) -> dict[str, Any]:
    """`stamped` as plain JSON values: the time, the event's kind, and its fields.

    JSON has no NaN and no infinity: they become the strings "nan", "inf" and "-inf".
    """
    event = stamped.event
    content = {field.name: plain(getattr(event, field.name)) for field in fields(event)}
    return {"time": stamped.time, "event": type(event).__name__, **content}


def from_json(content: object) -> Stamped:
    """The inverse of `to_json`.

    Raises:
        ValueError: an unknown kind of event, or fields that it does not have, lacks or cannot hold.
    """
    match content:
        case {"time": time, "event": str(name), **values} if name in EVENTS:
            kind = EVENTS[name]
        case _:
            raise ValueError("it has no time, or is no kind of event that is known")
    types = get_type_hints(kind)
    if values.keys() != types.keys():
        raise ValueError(f"{name} has the fields {', '.join(types)}, not {', '.join(map(str, values))}")
    arguments = {field: _typed(types[field], values[field]) for field in types}
    return Stamped(_typed(float, time), kind(**arguments))


def plain(value: Any) -> Any:
    """`value` as JSON has it: lists for tuples, and words for numbers that are none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def _typed(kind: Any, value: Any) -> Any:
    """`value`, read from JSON, as a value of the annotation `kind`; ValueError when it is none."""
    kind = getattr(kind, "__supertype__", kind)  # a NewType such as PeerId
    if kind is float and value in ("nan", "inf", "-inf"):
        return float(value)
    if kind is float and type(value) in (int, float):
        return float(value)
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_typed(get_args(kind)[0], item) for item in value)
    if get_origin(kind) is dict and isinstance(value, dict):
        return {_typed(str, key): _typed(get_args(kind)[1], item) for key, item in value.items()}
    if kind in (str, int, bool) and type(value) is kind:
        return value
    raise ValueError(f"{value!r} is not {getattr(kind, '__name__', kind)}")
