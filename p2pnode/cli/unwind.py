"""What SIGINT and SIGTERM do meanwhile: to a command that has children, or that waits for an answer."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def unwinding() -> Iterator[None]:
    """Let a first SIGINT or SIGTERM end the block like an exception, and a second one end the process."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        for one in SIGNALS:
            signal.signal(one, signal.SIG_DFL)
        raise SystemExit(128 + number)  # as a shell would report it

    with handled(leave):
        yield


@contextmanager
def handled(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> Iterator[None]:
    """Let `handler` have SIGINT and SIGTERM for this block."""
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
