"""A model card: what whoever is handed a model should know of it (Mitchell et al. 2019, arXiv:1810.03993)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pnode.model import Trained


def card(trained: "Trained", name: str, sha256: str) -> str:
    """The card in Markdown.

    Args:
        trained: the model.
        name: of its file.
        sha256: of its file.
    """
    manifest, training = trained.manifest, trained.manifest.training
    facts = {
        "file": f"`{name}`, sha256 `{sha256}`",
        "swarm": f"`{manifest.swarm_id}`",
        "author": manifest.author or "nobody",
        "task": _task(trained),
        "parameters": f"{trained.model.layout.size:,} shared",
        "state": _state(trained),
        "training": f"{training.steps} steps a round of {training.optimizer} at {training.learning_rate:g}, "
        f"batches of {training.batch_size}; rule {manifest.rule.name}, codec {manifest.rule.codec}",
    }
    return f"""# {manifest.name}

A model that nodes of a p2pnode swarm trained together, each on rows that never left it.

| | |
|---|---|
{_rows(facts)}

## How good it is

What the node that exported it measured last: on the rows that it held back from training (`holdout`), and on
a common test set (`test`) where there is one.

| metric | |
|---|---|
{_rows({metric: f"{value:.4g}" for metric, value in trained.metrics.items()} or {"none": "not measured"})}

`p2pnode evaluate {name} --data FILE` measures it on rows of yours.

## What it expects

{_columns(trained)}

## What to keep in mind

- It knows the kind of data that its swarm had. Measure it on yours before you rely on it.
- Nobody has looked for bias in it between groups of people; that is up to whoever uses it.
- Parameters say something about the rows they were trained on: give it only to whom you would tell that.
- The manifest with every setting is in the file's metadata, under `manifest`.
"""


def _rows(facts: dict[str, str]) -> str:
    return "\n".join(f"| {name} | {text} |" for name, text in facts.items())


def _task(trained: "Trained") -> str:
    schema = trained.model.task.schema
    if schema is None:
        return trained.manifest.task.name
    return f"`{schema.target}` ({', '.join(schema.classes)}) from {len(schema.columns)} columns of a table"


def _state(trained: "Trained") -> str:
    rounds = f"{trained.round} of {trained.manifest.training.rounds} rounds"
    if not trained.settled:
        return f"one node's own after {rounds}; the swarm had not settled"
    return f"settled after {rounds}, the mean of {trained.members or 'an unknown number of'} members' models"


def _columns(trained: "Trained") -> str:
    from p2pnode.learning.schema import Number

    schema = trained.model.task.schema
    if schema is None:
        return f"Rows as task {trained.manifest.task.name} takes them."
    lines = ["| column | |", "|---|---|"]
    for column in schema.columns:
        what = (
            f"number, about {column.mean:g} ± {column.scale:g}"
            if isinstance(column, Number)
            else ", ".join(column.categories)
        )
        lines.append(f"| {column.name} | {what} |")
    return "\n".join(lines)
