"""A table with a model's word on each of its rows, as a CSV file, piece by piece."""

import csv
import io
from collections.abc import Callable, Iterator

from p2pnode.errors import UserError
from p2pnode.learning.encode import Encoder, clipped
from p2pnode.learning.model import Model
from p2pnode.learning.table import Piece, Table


def predicted(
    model: Model, table: Table, any_units: bool, tell: Callable[[Piece], None], note: Callable[[str], None]
) -> Iterator[bytes]:
    """The table's columns as they are, then the class the model finds likeliest and how likely.

    Args:
        model: of a task that learns from tables.
        table: its target may be missing.
        any_units: whether numbers may lie anywhere.
        tell: called after each piece.
        note: called with a line on each thing that was handled and should be known.

    Raises:
        UserError: the table does not fit, or the model is for no tables.
    """
    schema = model.task.schema
    if schema is None:
        raise UserError(
            f"a model of task {model.task.name} predicts no tables, only one of task tabular does"
        )
    added = (f"predicted_{schema.target}", "probability")
    if clash := [name for name in added if name in table.names]:
        raise UserError(f"{table.path} has a column {clash[0]!r} already: rename or remove it")
    encoder = Encoder(table, schema, labelled=False, any_units=any_units)
    text = io.StringIO()
    writer = csv.writer(text, delimiter=table.delimiter, lineterminator="\n")
    writer.writerow([*table.names, *added])
    units: list[str] = []
    for piece in table.pieces():
        x = encoder.encode(piece).x
        if piece.first == 1:  # the others are hardly in other units, and may be sorted
            units = encoder.check(x)
        chances = model.probabilities(clipped(x))
        likeliest = chances.argmax(axis=1)
        classes = [schema.classes[label] for label in likeliest]
        shares = [f"{share:.6g}" for share in chances.max(axis=1).tolist()]
        writer.writerows(zip(*piece.columns, classes, shares, strict=True))
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()
        tell(piece)
    yield text.getvalue().encode()  # the names, where there are no rows
    for line in [*units, *encoder.notes()]:
        note(line)
