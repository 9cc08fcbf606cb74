"""A person's own rows, in whatever form the swarm's task takes them."""

from pathlib import Path

from p2pnode.errors import UserError
from p2pnode.learning.data import Dataset, load_npz
from p2pnode.learning.encode import read_rows
from p2pnode.learning.task import Task


def rows_in(path: Path, task: Task, least: int, any_units: bool = False) -> tuple[Dataset, list[str]]:
    """The labelled rows in a file: a table where the task has a schema, else `.npz` with arrays x and y.

    Args:
        path: the file.
        task: what they are for.
        least: rows that must be there.
        any_units: whether a table's numbers may lie anywhere.

    Returns:
        The rows, and a line on each thing in the file that was handled and should be known.

    Raises:
        UserError: it cannot be read, or does not fit the task.
    """
    if task.schema is not None:
        return read_rows(path, task.schema, least, any_units)
    mine, (pool, _) = load_npz(path, least), task.load()
    if mine.x.shape[1:] != pool.x.shape[1:]:
        raise UserError(
            f"rows of x in {path} have shape {mine.x.shape[1:]}, the task wants {pool.x.shape[1:]}"
        )
    if mine.y.max() > pool.y.max():
        raise UserError(f"{path} has label {mine.y.max()}, the task knows 0 to {pool.y.max()}")
    return mine, []
