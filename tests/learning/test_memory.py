"""A model's need of memory is known before any is taken."""

import resource
from dataclasses import replace

import pytest

from p2pnode.errors import UserError
from p2pnode.identity.manifest import TaskSpec
from p2pnode.learning import registry
from p2pnode.learning.learner import Learner
from p2pnode.learning.memory import available, check, needed
from tests.gossip.ends import manifest


def learner(hidden: int) -> Learner:
    small = manifest()
    bounds = replace(small.bounds, parameters=2**30)
    return registry.build(replace(small, task=TaskSpec("digits", {"hidden": hidden}), bounds=bounds))


def test_the_need_grows_with_the_model_and_takes_nothing() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    small, large = learner(1), learner(2**18)
    assert needed(large) > 10 * 4 * large.size > needed(small)
    taken = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert taken < 4 * large.size  # not even one vector


def test_a_model_that_does_not_fit_is_refused_in_one_line() -> None:
    model = learner(2**18)
    check(model, needed(model))
    with pytest.raises(UserError, match=r"19660810 shared parameters.* about .* GB, and 0\.1 GB are free"):
        check(model, 0.1e9)


def test_this_machine_has_memory() -> None:
    assert available() > 1e6
