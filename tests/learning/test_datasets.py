"""The tasks' data: the same everywhere, dealt out by where they come from, and kept apart for testing."""

import hashlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2pnode.errors import UserError
from p2pnode.learning import registry
from p2pnode.learning.data import Dataset, bundled_arrays, fetched_path, pooled
from p2pnode.learning.layout import layout_of
from p2pnode.learning.task import Task
from p2pnode.learning.tasks import loans, shakespeare, transformer, wearables

SHIPPED = ("digits", "breast-cancer", "fashion", "loans", "shakespeare")
FETCHED = ("wearables", "fashion-full", "mnist", "cifar10")


def made(name: str, **options: int) -> Task:
    entry = registry.TASKS[name]
    task: Task = entry.build(**{key: option.default for key, option in entry.options.items()} | options)
    return task


def rows_of(data: Dataset) -> set[bytes]:
    return {row.tobytes() for row in data.x}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fetched_path("any").parent.mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("task", "size"),
    [
        ("fashion", 196 * 64 + 64 + 64 * 10 + 10),
        ("shakespeare", 409_728),
        ("loans", 2_242),
        ("wearables", 2_726),
    ],
)
def test_the_models_have_as_many_parameters_as_are_written_about_them(task: str, size: int) -> None:
    assert layout_of(made(task)).size == size


def test_the_shipped_rows_are_the_same_on_every_machine() -> None:
    digests = {}
    for name in ("fashion", "shakespeare"):
        digest = hashlib.sha256()
        for data in made(name).load():
            digest.update(data.x.tobytes() + data.y.tobytes())
        digests[name] = digest.hexdigest()[:16]
    assert digests == {"fashion": "dfb85a482536134f", "shakespeare": "6a928e149e089ecc"}


@pytest.mark.parametrize("name", SHIPPED)
def test_rows_are_finite_and_of_the_usual_types(name: str) -> None:
    for data in made(name).load():
        assert (data.x.dtype, data.y.dtype) == (np.float32, np.int32)
        assert np.isfinite(data.x).all()
        assert np.abs(data.x).max() < 70
        assert len(data.x) == len(data.y)


@pytest.mark.parametrize("name", ["loans", "shakespeare"])
def test_the_pool_is_what_all_clients_have(name: str) -> None:
    task = made(name)
    assert task.clients is not None
    for pool, together in zip(task.load(), pooled(task.clients()), strict=True):
        assert sorted(row.tobytes() for row in pool.x) == sorted(row.tobytes() for row in together.x)


# --- loans ---


def test_each_bank_is_a_client_and_a_fifth_of_its_loans_is_for_testing() -> None:
    clients = made("loans").clients
    assert clients is not None
    sizes = [(len(train.y), len(test.y)) for train, test in clients()]
    assert len(sizes) == 20
    assert {sum(size) for size in sizes} == {2000}
    assert {size[1] for size in sizes} == {399, 400}
    failed = [float(train.y.mean()) for train, _ in clients()]
    assert min(failed) < 0.1
    assert max(failed) > 0.5


def test_without_the_term_no_feature_tells_it() -> None:
    arrays = bundled_arrays("loans")
    other = arrays | {"term": arrays["term"][::-1]}
    np.testing.assert_array_equal(loans.features(arrays, False), loans.features(other, False))
    without, with_it = loans.features(arrays, False), loans.features(arrays, True)
    assert (without.shape[1], with_it.shape[1]) == (loans.FEATURES, loans.FEATURES + loans.TERM)
    assert made("loans", term=0).load()[0].x.shape[1] == loans.FEATURES


def test_every_bank_with_enough_loans_is_a_client_of_the_whole_data_set(cache: Path) -> None:
    arrays = {name: array[:4100] for name, array in bundled_arrays("loans").items()}
    np.savez(fetched_path("sba"), allow_pickle=False, **arrays)  # two banks, and a hundred loans of a third
    clients = made("loans", every=1).clients
    assert clients is not None
    assert len(clients()) == 2


# --- Shakespeare ---


def test_a_row_is_a_window_of_one_speakers_text_that_goes_on_in_the_next() -> None:
    for train, test in shakespeare.by_speaker():
        text = np.concatenate([train.x, test.x])
        np.testing.assert_array_equal(text[1:, 0], text[:-1, -1])
        assert len(set(train.y.tolist()) | set(test.y.tolist())) == 1
        assert len(test.y) == len(text) // shakespeare.TESTED


@pytest.mark.parametrize("groups", [1, 8, 20])
def test_speakers_are_dealt_out_whole_into_groups_of_one_size(groups: int) -> None:
    clients = made("shakespeare", groups=groups).clients
    assert clients is not None
    speakers = [set(train.y.tolist()) for train, _ in clients()]
    assert sum(map(len, speakers)) == len(set().union(*speakers)) == len(shakespeare.by_speaker())
    sizes = [len(train.y) for train, _ in clients()]
    assert max(sizes) - min(sizes) <= 2


def test_the_transformer_foretells_from_what_came_before_alone() -> None:
    params = jax.jit(partial(transformer.init, 65, 8, 1, 2))(jax.random.key(0))
    text = jnp.arange(8)[None]
    logits, other = map(jax.jit(partial(transformer.logits_of, params)), (text, text.at[0, 5].set(60)))
    np.testing.assert_array_equal(logits[0, :5], other[0, :5])
    assert (np.abs(np.asarray(logits - other))[0, 5:].max(axis=1) > 1e-3).all()


def test_an_untrained_transformer_guesses() -> None:
    task = made("shakespeare", heads=1, layers=1)
    _, test = task.load()
    found = jax.jit(task.metrics)(jax.jit(task.init)(jax.random.key(0)), Dataset(test.x[:50], test.y[:50]))
    assert float(found["loss"]) == pytest.approx(np.log(65), abs=0.1)


# --- what is fetched ---


@pytest.mark.parametrize("name", FETCHED)
def test_data_that_nobody_fetched_are_told_with_the_command(cache: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"run `scripts/fetch_data {name}`$"):
        made(name).load()


def test_all_tasks_ship_their_data_or_say_how_to_fetch_them() -> None:
    assert {name for name, entry in registry.TASKS.items() if not entry.described} == {*SHIPPED, *FETCHED}


def test_fetched_images_are_flat_and_from_0_to_1(cache: Path) -> None:
    x = np.arange(5 * 28 * 28, dtype=np.uint8).reshape(5, 28, 28)
    np.savez(fetched_path("mnist"), x=x, y=np.arange(5), xt=x[:1], yt=np.array([9]))
    train, test = made("mnist").load()
    assert train.x.shape == (5, 784)
    assert (float(train.x.min()), float(train.x.max())) == (0.0, 1.0)
    assert test.y.tolist() == [9]


def test_people_to_test_with_are_unseen_and_a_clients_test_comes_after_its_training(cache: Path) -> None:
    random, person = np.random.default_rng(0), np.repeat(np.arange(1, 31), 60)
    x, y = random.normal(size=(1800, 128, 6)), np.tile(np.repeat(np.arange(6), 10), 30)
    np.savez(fetched_path("wearables"), x=x.astype(np.float32), y=y.astype(np.uint8), person=person)
    task = made("wearables")
    assert task.clients is not None
    clients, (train, test) = task.clients(), task.load()
    assert (len(clients), len(test.y)) == (21, 9 * 60)
    assert [len(side.y) for side in clients[0]] == [6 * 7, 6 * 2]  # one window of ten overlaps both sides
    assert rows_of(train) == set().union(*(rows_of(own) for own, _ in clients))
    assert not rows_of(train) & (rows_of(test) | set().union(*(rows_of(own) for _, own in clients)))
    np.testing.assert_allclose(train.x.mean(), 0, atol=0.05)
    assert train.x.shape[1] == wearables.FEATURES
