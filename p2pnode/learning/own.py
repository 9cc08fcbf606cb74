"""A task in a person's own file, `mymodel.py:task`.

A swarm names such a task by the hash of its file and by the layout of its parameters; the file itself
never travels, so nobody runs code that a peer sent. Whoever joins brings the file and agrees to run it.
What runs is what was hashed: the bytes that were read, not what `import` would find under that name
(another copy, or a stale `.pyc`). The file may import what is installed, and nothing beside it.

What such code raises is its author's to mend, so it ends here as one line that names the place.
"""

import hashlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from p2pnode.errors import UserError
from p2pnode.identity.files import read_file
from p2pnode.identity.sections import TaskSpec
from p2pnode.learning.layout import Layout, layout_of
from p2pnode.learning.task import Task

USUAL = "task"
"""The name that is taken from a file when nobody says another."""

LARGEST = 1 << 20
"""Bytes of a file: a model's code has some thousands."""

_FUNCTIONS = ("init", "loss", "metrics", "load", "shared", "predict")
_OPTIONS = {"file", "sha256", "layout"}
_FILE = re.compile(r"(?P<path>.+\.py)(?::(?P<name>[^:/]*))?")


@dataclass(frozen=True)
class Source:
    """A task's file as it was read; nothing of it has run.

    Attributes:
        path: where it is.
        name: of the task, or of a function returning it, in there.
        content: its bytes.
    """

    path: Path
    name: str
    content: bytes

    def __str__(self) -> str:
        return f"{self.path.name}:{self.name}"

    @cached_property
    def sha256(self) -> str:
        """Of the content, in 64 hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Own:
    """A task, and where it comes from. Its functions raise UserError for whatever their code raises."""

    source: Source
    task: Task

    def layout(self) -> Layout:
        """How its parameters are laid out.

        Raises:
            UserError: in a way that cannot be averaged.
        """
        try:
            return layout_of(self.task)
        except (TypeError, ValueError) as error:
            problem = first_line(error)
            raise UserError(f"{self.source.path}: {problem}; see `p2pnode task check`") from error

    def options(self) -> dict[str, str]:
        """How a manifest names it."""
        layout = self.layout().digest().hex()
        return {"file": str(self.source), "sha256": self.source.sha256, "layout": layout}


def is_file(text: str) -> bool:
    """Whether `text` names a file of one's own, not a task that ships."""
    return _FILE.fullmatch(text) is not None


def is_own(spec: TaskSpec) -> bool:
    """Whether a manifest's task is in a person's own file."""
    return spec.options.keys() == _OPTIONS


def read(text: str) -> Source:
    """Read the file that `file.py` or `file.py:name` names, and run nothing.

    Raises:
        UserError: `text` is nothing of the kind, or the file cannot be read.
    """
    match = _FILE.fullmatch(text)
    if match is None:
        raise UserError(f"--task {text}: expected a Python file and a name in it, e.g. mymodel.py:task")
    path = Path(match["path"])
    return Source(path, match["name"] or USUAL, read_file(path, LARGEST))


def check_source(spec: TaskSpec, source: Source) -> None:
    """Look whether `source` is the file that a manifest names, before anything in it runs.

    Raises:
        UserError: it is not; the message says what differs.
    """
    if not is_own(spec):
        raise UserError(f"this swarm's task is {spec.name}, which p2pnode brings: leave --task away")
    wanted, name = spec.options["sha256"], str(spec.options["file"]).rpartition(":")[2]
    if source.sha256 != wanted:
        raise UserError(
            f"{source.path} has sha256 {source.sha256}, the file of this swarm's task {wanted}: "
            "get the very same file"
        )
    if source.name != name:
        raise UserError(f"this swarm's task has another name in that file: say --task {source.path}:{name}")


def task_of(spec: TaskSpec, own: Own | None) -> Task:
    """The task that a manifest names by its file.

    Raises:
        UserError: the file is missing, is another one, or makes other parameters here.
    """
    if own is None:
        raise UserError(
            f"this swarm's task is in a file {str(spec.options['file']).rpartition(':')[0]} (sha256 "
            f"{spec.options['sha256']}): get it from whom you trust and add --task {spec.options['file']}"
        )
    check_source(spec, own.source)
    if own.options()["layout"] != spec.options["layout"]:
        raise UserError(
            f"{own.source.path} makes other parameters here than the manifest says: install the versions "
            "of JAX and of the model's library that the swarm's author has"
        )
    return own.task


def run(source: Source) -> Own:
    """Run the file and take the task from it.

    Raises:
        UserError: it does not run, or the name is missing in it or no task.
    """
    found = vars(_module(source))
    if source.name not in found:
        tasks = [name for name, value in found.items() if isinstance(value, Task)]
        hint = f"did you mean {' or '.join(tasks)}?" if tasks else "let it end with task = Task(...)"
        raise UserError(f"{source.path} has no {source.name!r} in it: {hint}")
    task = found[source.name]
    if callable(task) and not isinstance(task, Task):
        with _blaming(source.path):
            task = task()
    if not isinstance(task, Task):
        raise UserError(
            f"{source.name} in {source.path} is {type(task).__name__}, expected a p2pnode.learning.task.Task "
            "or a function that returns one"
        )
    functions: dict[str, Any] = {name: getattr(task, name) for name in _FUNCTIONS}
    if task.predict is None:
        del functions["predict"]
    for name, function in functions.items():
        if not callable(function):
            raise UserError(f"{name} of {source.name} in {source.path} is no function: see docs/TASKS.md")
    guarded: dict[str, Any] = {name: _guarded(function, source.path) for name, function in functions.items()}
    return Own(source, replace(task, **guarded))


def _module(source: Source) -> ModuleType:
    """The file's names, as a module of its own: dataclasses look themselves up in `sys.modules`."""
    module = ModuleType(f"p2pnode_task_{source.sha256[:16]}")
    module.__file__ = str(source.path)
    sys.modules[module.__name__] = module
    with _blaming(source.path):
        code = compile(source.content, source.path, "exec", dont_inherit=True)
        exec(code, vars(module))  # noqa: S102 - what is asked for, and agreed to, see above
    return module


def _guarded(function: Callable[..., Any], path: Path) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        with _blaming(path):
            return function(*args)

    return call


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Whatever is raised in the block is a mistake in the file at `path`."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a person's code may raise anything
        hint = ": a task is one file, and what it imports must be installed"
        raise UserError(
            f"{_place(error, path)}: {type(error).__name__}: {first_line(error)}"
            f"{hint if isinstance(error, ModuleNotFoundError) else ''}"
        ) from error


def _place(error: BaseException, path: Path) -> str:
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines.append(error.lineno)
    return f"{path}, line {lines[-1]}" if lines else str(path)


def first_line(error: BaseException) -> str:
    """What an error says, without the explanations that follow."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return text.strip().partition("\n")[0]
