"""Rows of a person's own table: which class is each of?

The swarm's manifest says what the table looks like (`learning/schema.py`); every node brings a file that
fits. The model sees encoded numbers only, so it is the same small classifier as for the data that ships.
"""

from dataclasses import replace
from typing import Any

from p2pnode.errors import UserError
from p2pnode.learning.data import Dataset
from p2pnode.learning.schema import schema_of
from p2pnode.learning.task import Task
from p2pnode.learning.tasks.mlp import auc, classifier


def tabular(hidden: int, target: Any, classes: Any, columns: Any) -> Task:
    """One hidden layer of `hidden` units; with 0 the model is linear (logistic regression).

    Raises:
        UserError: `target`, `classes` and `columns` describe no table.
    """
    schema = schema_of(target, classes, columns)
    layers = (
        [schema.features, hidden, len(schema.classes)] if hidden else [schema.features, len(schema.classes)]
    )
    if len(schema.classes) == 2:
        task = classifier("tabular", layers, load, lambda logits, y: {"auc": auc(logits, y)})
    else:
        task = classifier("tabular", layers, load)
    return replace(task, schema=schema)


def load() -> tuple[Dataset, Dataset]:
    """There are no rows but a node's own.

    Raises:
        UserError: always.
    """
    raise UserError("this swarm learns from tables that its members bring: join it with --data FILE")
