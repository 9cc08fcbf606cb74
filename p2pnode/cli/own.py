"""Agreeing to run a task that is in a file.

Whoever runs such a file runs whatever is in it, with all that this person may do on this machine.
So a swarm's task file is run only after a person said yes to it, once for each content: a file
remembers the hashes, in the node's data directory or, for commands that have none, beside them all.
"""

import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2pnode.cli.unwind import handled
from p2pnode.errors import UserError, leaves

if TYPE_CHECKING:
    from p2pnode.identity.manifest import Manifest
    from p2pnode.learning.own import Own, Source

MOST_REMEMBERED = 1 << 20  # bytes: some 16,000 files, 65 bytes each


def agreed(text: str, manifest: "Manifest | None", accepted: Path | None, yes: bool) -> "Own":
    """The task in a file, which runs if it is the manifest's and this person agrees, or did so before.

    Args:
        text: `file.py` or `file.py:name`.
        manifest: of the swarm, where it is known already.
        accepted: the file that remembers what was agreed to; None for the one of all commands that have
            no data directory.
        yes: a person said so in advance.

    Raises:
        UserError: it is another file, nobody agreed, or it does not run.
    """
    from p2pnode.learning import own
    from p2pnode.storage.directory import default_data_dir

    accepted = accepted or default_data_dir("accepted")
    source = own.read(text)
    if manifest is not None:
        own.check_source(manifest.task, source)
    if source.sha256 not in _remembered(accepted):
        if not yes:
            _ask(source)
        _remember(accepted, source.sha256)
    return own.run(source)


def tried(text: str, own: "Own") -> "Own":
    """The task that a person named by `text`, after a look whether a swarm can train it.

    Raises:
        UserError: none can. What may be wrong besides is said on stderr.
    """
    from p2pnode.learning.check import check

    for finding in check(own.task).findings:
        if finding.error:
            raise UserError(f"{text}: {finding.what}: {finding.do}")
        click.echo(f"p2pnode: {text}: {finding.what}: {finding.do}", err=True)
    return own


def _ask(source: "Source") -> None:
    if not sys.stdin.isatty():
        raise UserError(
            f"this runs the code in {source.path} (sha256 {source.sha256}): look into it, then add --yes"
        )
    about = f"this runs the code in {source.path} (sha256 {source.sha256}); continue?"
    with handled(signal.SIG_DFL):  # nothing has begun: no handler of ours could do better than the kernel
        click.confirm(about, default=False, abort=True, err=True)


def _remembered(file: Path) -> set[str]:
    from p2pnode.identity.files import read_file

    return set(read_file(file, MOST_REMEMBERED).decode(errors="replace").split()) if file.exists() else set()


def _remember(file: Path, sha256: str) -> None:
    from p2pnode.identity.files import replace_file

    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = sorted({*_remembered(file), sha256})
    replace_file(file, "".join(f"{line}\n" for line in lines).encode(), 0o600)


@contextmanager
def showing_causes(wanted: bool) -> Iterator[None]:
    """Print the traceback behind a person's mistake, where it is `wanted` and there is one."""
    try:
        yield
    except (UserError, BaseExceptionGroup) as error:
        for mistake in leaves(error) if isinstance(error, BaseExceptionGroup) else [error]:
            if wanted and isinstance(mistake, UserError):
                show_cause(mistake.__cause__)
        raise


def show_cause(cause: BaseException | None) -> None:
    """Print the traceback of what a person's code raised, if it did."""
    if cause is not None:
        click.echo("".join(traceback.format_exception(cause)), err=True, nl=False)
