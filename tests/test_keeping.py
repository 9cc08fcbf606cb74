"""A disk that refuses costs checkpoints, and a line once a minute; never the training."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from p2pnode.config import Saving
from p2pnode.events import Checkpointed, Event, NotSaved
from p2pnode.keeping import Keeping
from p2pnode.net.memory import MemoryFabric
from p2pnode.storage.directory import DataDirectory
from p2pnode.trainer import inline
from tests.gossip.ends import ends


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def test_a_disk_that_refuses_is_said_once_a_minute_and_tried_again(
    tmp_path: Path, clock: MockClock
) -> None:
    said: list[Event] = []
    async with ends(MemoryFabric(seed=1), 1) as (end,):
        with DataDirectory.open(tmp_path / "data") as directory:
            keeping = Keeping(directory, "00" * 32, inline, said.append, Saving(20))

            async def save(times: int) -> list[type[Event]]:
                said.clear()
                for _ in range(times):
                    await trio.sleep(20)
                    assert keeping.due()
                    await keeping.save(end.trainer, [])
                return [type(event) for event in said]

            assert await save(1) == [Checkpointed]
            directory.checkpoints.rename(tmp_path / "moved")
            directory.checkpoints.touch()  # no folder: refuses root too, unlike a read-only one
            assert await save(7) == [NotSaved] * 3  # at 0, 60 and 120 s
            directory.checkpoints.unlink()
            (tmp_path / "moved").rename(directory.checkpoints)
            assert await save(2) == [Checkpointed] * 2
            directory.checkpoints.rename(tmp_path / "moved")
            assert await save(1) == [NotSaved]
            said.clear()
            await keeping.save(end.trainer, [], last=True)  # soon after, and yet said
            assert [type(event) for event in said] == [NotSaved]
