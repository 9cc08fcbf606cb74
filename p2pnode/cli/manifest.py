"""The manifest of a new swarm: what was found good for its task, but for what somebody chose."""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from p2pnode.identity.keys import Key
from p2pnode.identity.link import check_address
from p2pnode.identity.manifest import (
    VERSION,
    Admission,
    Bounds,
    Hints,
    Manifest,
    RuleSpec,
    TaskSpec,
    Training,
    signed,
)

if TYPE_CHECKING:
    from p2pnode.learning.own import Own

_BOUNDS = Bounds(parameters=2**24, peers=64)  # 64 MiB a vector: ten times the largest built-in model


def make_manifest(
    name: str,
    task: "str | Own",
    chosen: Mapping[str, Any],
    described: Mapping[str, Any] | None = None,
    key: Key | None = None,
) -> Manifest:
    """Fill the task's defaults around what was `chosen`.

    Args:
        name: what people call the swarm.
        task: one that ships, or one of a person's own.
        chosen: settings by their names in the manifest; None stands for the default.
        described: the options of a task that learns from a table, see `registry.defaults`.
        key: its author's, who signs it.

    Raises:
        UserError: no such task or rule, or something in it that is malformed.
    """
    from p2pnode.learning import registry
    from p2pnode.learning.own import Own

    own = task if isinstance(task, Own) else None
    given = {name: value for name, value in chosen.items() if value is not None}
    rule = {"rule": given["rule"]} if "rule" in given else {}
    settings = registry.defaults(task, **rule, described=described) | given
    manifest = Manifest(
        version=VERSION,
        name=settings.get("name", name),
        task=TaskSpec(own.task.name if own else str(task), settings["task_options"]),
        rule=RuleSpec(settings["rule"], settings["codec"], settings["rule_options"]),
        training=Training(
            # At random, because two swarms that are set up alike are still two swarms.
            seed=settings.get("seed", secrets.randbits(31)),
            optimizer=settings["optimizer"],
            learning_rate=settings["learning_rate"],
            batch_size=settings["batch_size"],
            steps=settings["steps"],
            rounds=settings["rounds"],
            overlap=settings["overlap"],
        ),
        admission=Admission(),
        bounds=replace(_BOUNDS, parameters=max(_BOUNDS.parameters, own.layout().size)) if own else _BOUNDS,
        author=key.did if key else "",
        hints=Hints(tuple(map(check_address, settings.get("hints", ()))), settings.get("description", "")),
    )
    return signed(manifest, key) if key else manifest
