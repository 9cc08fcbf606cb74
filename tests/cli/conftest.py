"""Starting processes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.run import Program, launcher


@pytest.fixture
def start(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Program]]:
    """Starts `p2pnode` with the given arguments, in a folder of its own; kills it after the test."""
    with launcher(tmp_path, tmp_path_factory.getbasetemp() / "cache") as start:
        yield start
