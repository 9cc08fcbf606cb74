"""What `swarm create --from-data` makes of a table, and how a person sees it before anybody joins."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from p2pnode.errors import UserError

if TYPE_CHECKING:
    from p2pnode.learning.infer import Proposal
    from p2pnode.learning.schema import Column


def propose(from_data: Path | None, target: str | None, ignore: tuple[str, ...]) -> "Proposal | None":
    """The schema of the table in a file; None when nobody named one.

    Raises:
        UserError: options that do not go together, or a table that nothing can be learned from.
    """
    if from_data is None:
        if target is not None or ignore:
            raise UserError("--target and --ignore are columns of a table: they go with --from-data FILE")
        return None
    from p2pnode.learning.infer import infer
    from p2pnode.learning.table import open_table

    table = open_table(from_data)
    if target is None:
        columns = ", ".join(filter(None, table.names))
        raise UserError(f"say which column of {from_data} is to be predicted: --target, one of {columns}")
    return infer(table, target, ignore)


def lines(path: Path, proposal: "Proposal") -> Iterator[str]:
    """The proposal as text."""
    schema = proposal.schema
    yield f"{path}: {proposal.rows} rows; {schema.target} is to be predicted: {', '.join(schema.classes)}"
    width = max(len(column.name) for column in schema.columns)
    for column in schema.columns:
        yield f"  {column.name:{width}}  {_described(column)}"
    for name, reason in proposal.ignored.items():
        yield f"  {name:{width}}  left out: {reason}"
    yield from (f"Look at this: {note}" for note in proposal.notes)
    yield "The manifest says so too, in [task.options.columns]; no row is in it."


def _described(column: "Column") -> str:
    from p2pnode.learning.schema import Number

    if isinstance(column, Number):
        return f"number    mean {column.mean:g}, scale {column.scale:g}, missing taken as {column.missing:g}"
    return f"category  {', '.join(column.categories)}"
