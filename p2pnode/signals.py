"""How a person ends a node: signals."""

import os
import signal
from collections.abc import Callable

import trio


async def obey_signals(
    stop: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Let the first SIGINT or SIGTERM end the node in good order, and the second one end it at once."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        await anext(signals)
        stop()
        number = await anext(signals)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
