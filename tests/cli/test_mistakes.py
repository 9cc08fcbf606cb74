"""What a person gets wrong is answered with one line that says so, exit code 2, and no traceback."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from p2pnode.cli.main import main
from p2pnode.identity.keys import Key, create_key
from p2pnode.learning import memory
from p2pnode.storage.directory import DataDirectory
from tests.cli.run import LOOPBACK, ROOT, Program

Command = Callable[..., str]

ROWS = 40
SHARD = ("--shard", "1/3")


@pytest.fixture
def complaint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Runs the command in a folder of its own, and returns the one line it complains with."""
    monkeypatch.chdir(tmp_path)
    interrupt = signal.getsignal(signal.SIGINT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    cache = {name: value for name, value in jax.config.values.items() if "compilation_cache" in name}

    def run(*words: object) -> str:
        monkeypatch.setattr("sys.argv", ["p2pnode", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exited:
            main()
        output, errors = capfd.readouterr()
        assert exited.value.code == 2, errors
        assert not output
        lines = errors.splitlines()
        assert len(lines) == 1, errors
        assert lines[0].startswith("p2pnode: ")
        return lines[0].removeprefix("p2pnode: ")

    yield run
    for name, value in cache.items():
        jax.config.update(name, value)
    signal.signal(signal.SIGINT, interrupt)


@pytest.fixture
def swarm(complaint: Command, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The manifest of a swarm, as `swarm create` writes it."""
    create("s.toml", monkeypatch)
    return Path("s.toml")


def create(file: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["p2pnode", "swarm", "create", file, *words])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 0


def joining(swarm: object, *words: object) -> tuple[object, ...]:
    """The arguments of a `join` that reaches nobody."""
    return ("join", swarm, "--listen", LOOPBACK, "--no-mdns", "--data-dir", "data", "--wait", 0, *words)


def edit(path: Path, old: str, new: str) -> None:
    """Replace what the pattern `old` fits in a file."""
    text, count = re.subn(old, new, path.read_text())
    assert count
    path.write_text(text)


# --- the manifest ---


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read s.toml: No such file"),
        (b"\xff\xfe", "s.toml: not text in UTF-8"),
        (b"name = ", "s.toml: not TOML"),
        (b"", "s.toml: version: missing"),
        (b"version = 2\n", "this p2pnode reads version 1 only"),
        (b"#" * 270_000, "longer than 262144 bytes"),
    ],
)
def test_what_is_no_manifest_is_named(complaint: Command, content: bytes | None, words: str) -> None:
    if content is not None:
        Path("s.toml").write_bytes(content)
    assert words in complaint(*joining("s.toml", *SHARD))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version = 1", "version = 2", "this p2pnode reads version 1 only; perhaps a newer one is needed"),
        ("version = 1", "version = 1\ncolour = 1", "colour"),
        ("seed = ", "sed = ", "sed"),
        (r"rounds = \d+", 'rounds = "many"', "training.rounds: expected"),
        ('name = "digits"', 'name = "digit"', "unknown task 'digit': did you mean 'digits'?"),
        ('name = "momentum"', 'name = "momentun"', "unknown rule 'momentun': did you mean 'momentum'?"),
        ('codec = "int4"', 'codec = "int9"', "unknown codec 'int9': did you mean 'int8'?"),
        ('optimizer = "sgd"', 'optimizer = "sdg"', "unknown optimizer 'sdg': did you mean 'sgd'?"),
        (r"hidden = \d+", "hiden = 64", "'hiden': did you mean 'hidden'?"),
        (r"hidden = \d+", "hidden = 0", "must be an integer from 1 to"),
    ],
)
def test_a_wrong_line_in_a_manifest_is_named(
    complaint: Command, swarm: Path, old: str, new: str, words: str
) -> None:
    edit(swarm, old, new)
    assert words in complaint(*joining(swarm, *SHARD))


def test_a_manifest_that_was_changed_after_signing_is_refused(
    complaint: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_key(Path("author.key"))
    create("s.toml", monkeypatch, "--author-key", "author.key")
    edit(Path("s.toml"), "peers = 64", "peers = 63")
    assert "changed after its author signed it; sign it again" in complaint(*joining("s.toml", *SHARD))


def test_anothers_signature_is_refused(complaint: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    create_key(Path("author.key"))
    create("s.toml", monkeypatch, "--author-key", "author.key")
    signature = Path("s.toml").read_text().rpartition('ed25519 = "')[2][:128]
    edit(Path("s.toml"), signature, Key(bytes(32)).sign(b"something else").hex())
    assert "s.toml: signature: it does not fit" in complaint(*joining("s.toml", *SHARD))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--task", "dogits"), "unknown task 'dogits': did you mean 'digits'?"),
        (("--rule", "averag"), "unknown rule 'averag': did you mean 'average'?"),
        (("--codec", "floot32"), "unknown codec 'floot32': did you mean 'float32'?"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(
    complaint: Command, words: tuple[str, ...], says: str
) -> None:
    assert says in complaint("swarm", "create", "s.toml", *words)


def test_the_demo_knows_its_tasks_and_how_many_they_feed(complaint: Command) -> None:
    assert "cannot give 32 nodes 20 each: ask for fewer nodes" in complaint(
        "demo", "--nodes", 32, "--task", "breast-cancer"
    )
    assert "unknown task 'cats'" in complaint("demo", "--task", "cats")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("swrm", "create"), "no such command 'swrm'. Did you mean 'swarm'? (see p2pnode --help)"),
        (("swarm", "crate"), "no such command 'crate'. Did you mean 'create'? (see p2pnode swarm --help)"),
        (("join", "s.toml", "--shar", "1/3"), "no such option '--shar'. Did you mean '--shard'?"),
        (("join",), "missing argument 'SWARM' (see p2pnode join --help)"),
        (("join", "s.toml", "--wait", "long"), "'long' is not a valid float (see p2pnode join --help)"),
        (("bootstrap", "now"), "got unexpected extra argument (now) (see p2pnode bootstrap --help)"),
    ],
)
def test_a_wrong_command_or_option_is_answered_in_one_line(
    complaint: Command, words: tuple[str, ...], says: str
) -> None:
    assert says in complaint(*words)


# --- the machine ---


def test_too_few_open_files_are_named_before_anything_starts() -> None:
    command = f'ulimit -n 20; exec "{sys.executable}" -m p2pnode join s.toml --shard 1/3'
    said = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert said.stderr == (
        "p2pnode: this process may open only 20 files at once, a node needs 64, and 1024 for many peers: "
        "raise the limit, e.g. with `ulimit -n 1024`\n"
    )


@pytest.mark.slow
def test_a_device_that_is_not_there_is_named(start: Callable[..., Program], monkeypatch: Any) -> None:
    assert start("swarm", "create", "s.toml", name="here").code() == 0
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    node = start(*joining("s.toml", *SHARD), name="here")
    assert node.code() == 2
    assert node.errors == (
        "p2pnode: JAX finds no device for JAX_PLATFORMS=cuda: install what it needs (for NVIDIA GPUs "
        "`pip install 'p2pnode[cuda]'`), or compute with JAX_PLATFORMS=cpu\n"
    )


def test_a_model_beyond_this_machines_memory_is_named(
    complaint: Command, swarm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(swarm, r"hidden = \d+", "hidden = 200000")
    edit(swarm, r"parameters = \d+", "parameters = 100000000")
    monkeypatch.setattr(memory, "available", lambda: 0.5e9)
    assert complaint(*joining(swarm, *SHARD)) == (
        "task digits has 15000010 shared parameters, for which a node needs about 1.1 GB, and 0.5 GB are "
        "free: make the model smaller, or use a machine with more memory"
    )


# --- addresses and links ---


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:0", "cannot listen on 127.0.0.1:0: expected something like /ip4/192.0.2.7/tcp/4001"),
        ("/ip4/localhost/tcp/0", "cannot listen on /ip4/localhost/tcp/0"),
        ("/ip4/127.0.0.1/tcp/70000", "70000 is not a TCP port"),
        ("/ip4/127.0.0.1/udp/0/quic-v1", "expected something like"),
        ("/ip4/192.0.2.7/tcp/0", "cannot listen on /ip4/192.0.2.7/tcp/0"),  # nobody's, RFC 5737
    ],
)
@pytest.mark.parametrize("command", ["join", "bootstrap"])
def test_a_bad_address_to_listen_on_is_named(
    complaint: Command, swarm: Path, command: str, address: str, words: str
) -> None:
    arguments = joining(swarm, *SHARD) if command == "join" else ("bootstrap", "--data-dir", "data")
    listening = [word for word in arguments if word not in ("--listen", LOOPBACK)]
    assert words in complaint(*listening, "--listen", address)


def test_a_taken_port_is_named(complaint: Command, swarm: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
        assert f"cannot listen on {address}: the port is taken" in complaint(
            "bootstrap", "--data-dir", "b", "--listen", address
        )
        assert "the port is taken" in complaint(*joining(swarm, *SHARD), "--listen", address)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("somewhere", "'somewhere' is not an address: expected e.g. /ip4/"),
        ("/ip4/127.0.0.1/tcp/4001", "names no peer: expected /p2p/ and its peer id"),
        ("/ip4/127.0.0.1/tcp/4001/p2p/12D3KooW", "expected"),
        ("/ip4/127.0.0.1/udp/4001/quic-v1/p2p/{peer}", "expected something like /ip4/"),
    ],
)
def test_a_bad_peer_is_named(complaint: Command, swarm: Path, address: str, words: str) -> None:
    address = address.format(peer=Key(bytes(32)).peer)
    assert words in complaint(*joining(swarm, *SHARD, "--peer", address))
    assert words in complaint("bootstrap", "--data-dir", "b", "--listen", LOOPBACK, "--peer", address)


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("p2pnode:", "no swarm id in the link: expected p2pnode:<swarm id>?peer=<address>"),
        ("p2pnode:1234", "no swarm id in the link"),
        (f"p2pnode:{'0' * 64}?per=x", "the link holds 'per'"),
        (f"p2pnode:{'0' * 64}?peer=x", "'x' is not an address"),
        ("https://example.org/s.toml", "not a link to a swarm"),
        ("magnet:?xt=urn:btih:1234", "not a link to a swarm"),
    ],
)
def test_a_bad_link_is_named(complaint: Command, link: str, words: str) -> None:
    assert words in complaint(*joining(link, *SHARD))


# --- the data directory and the key ---


def test_a_bad_key_file_is_named(complaint: Command, swarm: Path) -> None:
    key = Path("data/identity.key")
    key.parent.mkdir(mode=0o700)
    key.write_text("secret")
    key.chmod(0o600)
    assert "data/identity.key holds no private key" in complaint(*joining(swarm, *SHARD))
    assert "data/identity.key holds no private key" in complaint("bootstrap", "--data-dir", "data")


def test_a_key_that_others_may_read_is_refused(complaint: Command, swarm: Path) -> None:
    Path("data").mkdir(mode=0o700)
    create_key(Path("data/identity.key"))
    Path("data/identity.key").chmod(0o644)
    assert "run `chmod 600 data/identity.key`" in complaint(*joining(swarm, *SHARD))


def test_a_data_directory_has_one_owner(complaint: Command, swarm: Path) -> None:
    with DataDirectory.open(Path("data")):
        assert "another process uses data" in complaint(*joining(swarm, *SHARD))
        assert "another process uses data" in complaint("bootstrap", "--data-dir", "data")


def test_a_data_directory_that_is_a_file_is_named(complaint: Command, swarm: Path) -> None:
    Path("data").touch()
    assert "data is not a directory" in complaint(*joining(swarm, *SHARD))


def test_a_data_directory_of_another_swarm_is_refused(
    complaint: Command, swarm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("data").mkdir(mode=0o700)
    create("data/manifest.toml", monkeypatch)
    assert "data holds a model of another swarm: choose another --data-dir" in complaint(
        *joining(swarm, *SHARD)
    )


# --- the data ---


def test_there_is_one_source_of_data(complaint: Command, swarm: Path) -> None:
    assert "say what to learn from" in complaint(*joining(swarm))
    assert "say what to learn from" in complaint(*joining(swarm, *SHARD, "--data", "x.npz"))


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "1/", "/3", "a/b", "-1/3", "1/0", "1/3/5", "²/3"])
def test_a_bad_shard_is_named(complaint: Command, swarm: Path, shard: str) -> None:
    assert f"--shard {shard}: expected e.g. 2/5" in complaint(*joining(swarm, f"--shard={shard}"))


def test_a_data_set_that_is_shared_by_too_many_is_named(complaint: Command, swarm: Path) -> None:
    assert "ask for fewer nodes" in complaint(*joining(swarm, "--shard", "1/1000"))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--uneven", "0", "--uneven 0.0: expected a number from 0.01 up"),
        ("--uneven", "nan", "--uneven nan: expected a number from 0.01 up"),
        ("--wait", "-1", "--wait -1.0: expected a number from 0.0 up"),
        ("--wait", "nan", "--wait nan: expected a number from 0.0 up"),
        ("--wait-peers", "-1", "--wait-peers -1: expected a number from 0 up"),
        ("--save-every", "-1", "--save-every -1.0: expected a number from 0.0 up"),
    ],
)
def test_a_number_out_of_range_is_named(
    complaint: Command, swarm: Path, option: str, value: str, words: str
) -> None:
    assert words in complaint(*joining(swarm, *SHARD, option, value))


def test_own_data_is_not_dealt_out(complaint: Command, swarm: Path) -> None:
    assert "it goes with --shard" in complaint(*joining(swarm, "--data", "mine.npz", "--uneven", 1))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (None, "cannot read mine.npz: No such file"),
        ({}, "mine.npz holds no array x"),
        ({"x": np.zeros((ROWS, 64))}, "mine.npz holds no array y"),
        ({"x": np.full((ROWS, 64), np.nan), "y": np.zeros(ROWS, int)}, "NaN"),
        ({"x": np.zeros((ROWS, 64)), "y": np.full(ROWS, 10)}, "label 10, the task knows 0 to 9"),
        ({"x": np.zeros((ROWS, 64)), "y": np.full(ROWS, -1)}, "must hold labels from 0 up"),
        ({"x": np.zeros((ROWS, 63)), "y": np.zeros(ROWS, int)}, "(63,), the task wants (64,)"),
        ({"x": np.zeros((ROWS, 64)), "y": np.zeros(3, int)}, "40 rows in x but 3 in y"),
        ({"x": np.zeros((3, 64)), "y": np.zeros(3, int)}, "3 rows, at least 20 are needed"),
        ({"x": np.zeros((ROWS, 64)), "y": np.zeros(ROWS)}, "must be integer labels"),
        ({"x": np.array([{}] * ROWS), "y": np.zeros(ROWS, int)}, "no .npz file of plain arrays"),
    ],
)
def test_bad_data_is_named(
    complaint: Command, swarm: Path, arrays: dict[str, Any] | None, words: str
) -> None:
    if arrays is not None:
        np.savez("mine.npz", **arrays)
    assert words in complaint(*joining(swarm, "--data", "mine.npz"))


def test_data_that_is_no_npz_is_named(complaint: Command, swarm: Path) -> None:
    Path("mine.npz").write_text("1,2,3")
    assert "mine.npz is no .npz file" in complaint(*joining(swarm, "--data", "mine.npz"))
    assert "cannot read" in complaint(*joining(swarm, "--data", "."))
