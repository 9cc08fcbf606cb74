"""What every test stands on: one CPU device, strict JAX, the same choices in every run.

JAX reads its settings from the environment, so the processes that tests start inherit them, and
tests that need no JAX do not wait for its import.
"""

import os
from collections.abc import Mapping

import pytest
import trio
from hypothesis import settings

JAX_SETTINGS: Mapping[str, str] = {
    "JAX_PLATFORMS": "cpu",  # a GPU test says so itself
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",  # nothing grows to another dtype unasked
    "JAX_NUMPY_RANK_PROMOTION": "raise",  # nothing broadcasts by accident
}

for name, value in JAX_SETTINGS.items():
    os.environ.setdefault(name, value)

# The same few examples every time; `--hypothesis-profile=search` looks for new ones.
settings.register_profile("same", derandomize=True, deadline=None, max_examples=25, database=None)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile("same")


@pytest.fixture(autouse=True)
def _same_schedule_every_run() -> None:
    """Let trio run ready tasks in an order that depends on nothing but the program.

    trio shuffles them on purpose. pytest-trio asks for a deterministic order before the shuffle;
    seeding the shuffle does the rest, and trio has no public name for it.
    """
    trio._core._run._r.seed(0)
