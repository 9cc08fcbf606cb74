"""What is somebody doing who wears a phone? Six activities of 30 people: 21 are clients, 9 nobody has seen.

The HAPT recordings (Reyes-Ortiz et al. 2016, "Transition-Aware Human Activity Recognition"), acceleration and
turning at 50 Hz in windows of 128, which `scripts/fetch_data wearables` fetches. The model sees a window's
statistics and spectrum, not the window: on the unseen people that is as good as the best and fast anywhere.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from p2pnode.learning.data import Dataset, fetched_arrays, pooled, take
from p2pnode.learning.task import Task
from p2pnode.learning.tasks.mlp import classifier

UNSEEN = (2, 4, 9, 10, 12, 13, 18, 20, 24)
"""People to test with, the same as in the data's first publication."""

BANDS = 8
"""Of four frequencies each, up to 12.5 Hz."""

FEATURES = 6 * (5 + BANDS)

Person = tuple[Dataset, Dataset]


def wearables(hidden: int) -> Task:
    """One hidden layer of `hidden` units; with 0 the model is linear (logistic regression)."""
    widths = (FEATURES, hidden, 6) if hidden else (FEATURES, 6)
    return replace(classifier("wearables", widths, load), clients=clients)


def load() -> tuple[Dataset, Dataset]:
    """The clients' windows to train on, and all windows of the unseen people.

    Raises:
        UserError: nobody has fetched them.
    """
    people, unseen = _people()
    return pooled(people)[0], unseen


def clients() -> list[Person]:
    """Each client's windows; the last fifth of each activity is for testing."""
    return _people()[0]


def _people() -> tuple[list[Person], Dataset]:
    arrays = fetched_arrays("wearables")
    found, person = features(arrays["x"]), arrays["person"]
    seen = ~np.isin(person, UNSEEN)
    found = (found - found[seen].mean(axis=0)) / found[seen].std(axis=0)
    rows = Dataset(found.astype(np.float32), arrays["y"].astype(np.int32))
    people = [_by_time(take(rows, np.flatnonzero(person == one))) for one in np.unique(person[seen])]
    return people, take(rows, np.flatnonzero(~seen))


def features(x: np.ndarray) -> np.ndarray:
    """f64[rows, features] for windows f32[rows, 128, 6]."""
    x = x.astype(np.float64)
    mean = x.mean(axis=1)
    jerk = np.sqrt((np.diff(x, axis=1) ** 2).mean(axis=1))
    spectrum = np.abs(np.fft.rfft(x - mean[:, None], axis=1))[:, 1 : 1 + 4 * BANDS]
    bands = np.log1p(spectrum.reshape(len(x), BANDS, 4, 6).mean(axis=2))
    statistics = [mean, x.std(axis=1), x.min(axis=1), x.max(axis=1), jerk, bands.reshape(len(x), -1)]
    return np.concatenate(statistics, axis=1)


def _by_time(rows: Dataset) -> Person:
    parts = list(_of_each_activity(rows.y))
    train, test = (np.sort(np.concatenate(side)) for side in zip(*parts, strict=True))
    return take(rows, train), take(rows, test)


def _of_each_activity(y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows overlap by half: the one before the first to test with is left out, lest both sides see it."""
    for activity in np.unique(y):
        windows = np.flatnonzero(y == activity)
        first = len(windows) - len(windows) // 5
        yield windows[: first - 1], windows[first:]
