"""The manifest: one meaning for one id, and one clear line for everything else."""

import hashlib
import json
import math
import os
import tomllib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pnode.errors import Fault, PeerFault, UserError
from p2pnode.gossip.state import MAX_MANIFEST
from p2pnode.identity.admission import LARGEST_CREDENTIAL, POLICIES, admit
from p2pnode.identity.keys import Key
from p2pnode.identity.manifest import (
    LARGEST_MANIFEST,
    Admission,
    Bounds,
    Hints,
    Manifest,
    RuleSpec,
    TaskSpec,
    Training,
    check_signature,
    load_manifest,
    parse_canonical,
    sign_manifest,
    signed,
    write_manifest,
)
from p2pnode.identity.schema import LARGEST_OPTIONS

KEY = Key(bytes(32))
ADDRESS = f"/ip4/127.0.0.1/tcp/4001/p2p/{KEY.peer}"
MANIFEST = Manifest(
    version=1,
    name="digits at home",
    task=TaskSpec("digits", {"hidden": 64}),
    rule=RuleSpec("momentum", "int8", {"beta": 0.9, "view": True}),
    training=Training(
        seed=7, optimizer="sgd", learning_rate=0.1, batch_size=32, steps=10, rounds=200, overlap=2
    ),
    admission=Admission(),
    bounds=Bounds(parameters=2**20, peers=64),
    author=KEY.did,
    hints=Hints((ADDRESS,), 'A "test" of \\ and é'),
)
SIGNED = signed(MANIFEST, KEY)

printable = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]).filter(str.isprintable))
scalars = (
    st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(-(2**53) + 1, 2**53 - 1)
    | printable.map(lambda text: text[:128])
)
values = scalars | st.lists(scalars, max_size=4).map(tuple)
keys = printable.map(lambda text: text[:128]).filter(bool)
tables = st.dictionaries(keys, values | st.dictionaries(keys, values, max_size=3), max_size=4)
options = st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True), values | tables, max_size=8)
names = printable.map(lambda text: text[:64]).filter(bool)


@st.composite
def manifests(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Manifest:
    return Manifest(
        version=1,
        name=draw(names),
        task=TaskSpec(draw(names), draw(options)),
        rule=RuleSpec(draw(names), draw(names), draw(options)),
        training=Training(
            seed=draw(st.integers(0, 2**31 - 1)),
            optimizer=draw(names),
            learning_rate=draw(st.floats(0, 1000)),
            batch_size=draw(st.integers(1, 2**20)),
            steps=draw(st.integers(0, 2**20)),
            rounds=draw(st.integers(1, 2**31 - 1)),
            overlap=draw(st.integers(0, 2**20)),
        ),
        admission=Admission(),
        bounds=Bounds(draw(st.integers(1, 2**30)), draw(st.integers(1, 4096))),
        author=draw(st.sampled_from(["", KEY.did])),
        hints=Hints(tuple(draw(st.lists(st.just(ADDRESS), max_size=2))), draw(printable)[:280]),
    )


def _written(folder: Path, manifest: Manifest) -> Path:
    path = folder / "swarm.toml"
    path.unlink(missing_ok=True)
    write_manifest(path, manifest)
    return path


def _load(folder: Path, content: str | bytes) -> Manifest:
    path = folder / "swarm.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_manifest(path)


def _received(data: bytes) -> Manifest:
    return parse_canonical(data, hashlib.sha256(data).hexdigest())


def _json(manifest: Manifest = MANIFEST) -> Any:
    return json.loads(manifest.canonical())


def _changed(path: str, value: object) -> Any:
    """Return the canonical table of `MANIFEST` with the key at the dotted `path` set, or without it."""
    table = _json()
    *sections, name = path.split(".")
    inner = table
    for section in sections:
        inner = inner[section]
    if value is None:
        del inner[name]
    else:
        inner[name] = value
    return table


# What has an id, and what does not.


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(manifests())
def test_a_file_and_canonical_bytes_give_back_the_same_manifest(tmp_path: Path, manifest: Manifest) -> None:
    loaded = load_manifest(_written(tmp_path, manifest))
    received = parse_canonical(manifest.canonical(), manifest.swarm_id)
    assert loaded == manifest
    assert received == replace(manifest, hints=Hints())
    assert loaded.swarm_id == received.swarm_id == manifest.swarm_id
    assert repr(loaded.rule) == repr(received.rule)  # 1.0 is 1 however the manifest arrived


def test_the_id_is_the_one_that_any_implementation_computes() -> None:
    assert MANIFEST.canonical() == (
        b'{"admission":{"policy":"open"},'
        b'"author":"did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp",'
        b'"bounds":{"parameters":1048576,"peers":64},"name":"digits at home",'
        b'"rule":{"codec":"int8","name":"momentum","options":{"beta":0.9,"view":true}},'
        b'"task":{"name":"digits","options":{"hidden":64}},'
        b'"training":{"batch_size":32,"learning_rate":0.1,"optimizer":"sgd","overlap":2,"rounds":200,'
        b'"seed":7,"steps":10},"version":1}'
    )
    assert MANIFEST.swarm_id == hashlib.sha256(MANIFEST.canonical()).hexdigest()


def test_comments_order_white_space_and_hints_do_not_change_the_id(tmp_path: Path) -> None:
    lines = _written(tmp_path, MANIFEST).read_text().splitlines()
    bare = "\n".join(f"  {line}  # !" for line in lines if line and not line.startswith("#"))
    table = tomllib.loads(bare)
    sections = {name: table.pop(name) for name in [*reversed(table)] if isinstance(table[name], dict)}
    other = "\r\n".join(
        [
            *(f"{name} = {json.dumps(value)}" for name, value in reversed(table.items())),
            *(
                f"{name}.{key} = {_inline(value)}"
                for name, section in sections.items()
                if name != "hints"
                for key, value in reversed(section.items())
            ),
        ]
    )
    assert _load(tmp_path, bare).swarm_id == MANIFEST.swarm_id
    assert _load(tmp_path, other).swarm_id == MANIFEST.swarm_id
    assert _load(tmp_path, other) == replace(MANIFEST, hints=Hints())
    assert SIGNED.swarm_id == MANIFEST.swarm_id


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {json.dumps(inner)}" for name, inner in value.items()) + "}"
    return json.dumps(value)


@given(manifests(), manifests())
def test_any_other_value_is_another_swarm(one: Manifest, other: Manifest) -> None:
    tables = [{**asdict(manifest), "hints": None} for manifest in (one, other)]
    for section in ("task", "rule", "training", "bounds", "name", "author"):
        changed = replace(one, **{section: getattr(other, section)})
        same = rfc8785.dumps(tables[0][section]) == rfc8785.dumps(tables[1][section])
        assert (changed.swarm_id == one.swarm_id) == same


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", "digits at Home"),
        ("author", ""),
        ("author", Key(b"1" * 32).did),
        ("task.name", "breast-cancer"),
        ("task.options.hidden", 65),
        ("task.options.hidden", "64"),
        ("task.options.hidden", None),
        ("task.options.more", False),
        ("rule.name", "average"),
        ("rule.codec", "int4"),
        ("rule.options.beta", 0.9000000000000001),
        ("rule.options.view", 1),
        ("training.seed", 8),
        ("training.optimizer", "adam"),
        ("training.learning_rate", 0.2),
        ("training.batch_size", 33),
        ("training.steps", 0),
        ("training.rounds", 201),
        ("training.overlap", 0),
        ("bounds.parameters", 2**20 + 1),
        ("bounds.peers", 63),
    ],
)
def test_each_single_value_counts(path: str, value: object) -> None:
    assert _received(rfc8785.dumps(_changed(path, value))).swarm_id != MANIFEST.swarm_id


def test_the_largest_manifest_fits_its_own_bounds(tmp_path: Path) -> None:
    wide = "\U0001d49c"  # four bytes in UTF-8
    everything = {f"{'o' * 30}{number:02}": wide * 128 for number in range(32)}
    manifest = replace(
        SIGNED,
        name=wide * 64,
        task=TaskSpec(wide * 64, everything),
        rule=RuleSpec(wide * 64, wide * 64, everything),
        hints=Hints((f"/dns4/{'.'.join(['a' * 60] * 4)}/tcp/4001/p2p/{KEY.peer}",) * 16, wide * 280),
        signature=None,
    )
    assert load_manifest(_written(tmp_path, signed(manifest, KEY))) == signed(manifest, KEY)
    assert _received(manifest.canonical()).swarm_id == manifest.swarm_id


LARGEST_TABLES = {
    "lists": {f"o{number}": (1,) * 4000 for number in range(10)},
    "tables": {f"{'o' * 30}{number:02}": {str(i): {} for i in range(300)} for number in range(30)},
    "columns": {
        "columns": {f"column {n}": {"type": "number", "mean": 14.1273, "scale": 3.52405} for n in range(1300)}
    },
}


@pytest.mark.parametrize("largest", LARGEST_TABLES.values(), ids=LARGEST_TABLES)
def test_the_largest_tables_of_options_fit_too(tmp_path: Path, largest: dict[str, Any]) -> None:
    assert 75_000 < len(json.dumps(largest, separators=(",", ":"))) <= LARGEST_OPTIONS
    manifest = replace(MANIFEST, task=TaskSpec("x", largest), rule=RuleSpec("x", "x", largest))
    assert load_manifest(_written(tmp_path, manifest)).swarm_id == manifest.swarm_id
    assert _received(manifest.canonical()).swarm_id == manifest.swarm_id


def test_a_table_of_options_is_written_for_a_person(tmp_path: Path) -> None:
    columns = {"mean radius": {"mean": 14.1, "type": "number"}, "sex": {"categories": ("f", "m")}}
    manifest = replace(MANIFEST, task=TaskSpec("tabular", {"columns": columns, "hidden": 16}))
    path = _written(tmp_path, manifest)
    assert """
[task.options]
hidden = 16

[task.options.columns]
"mean radius" = {mean = 14.1, type = "number"}
sex = {categories = ["f", "m"]}
""" in path.read_text()
    assert load_manifest(path) == manifest


# What arrives from a peer.


def test_bytes_that_the_id_does_not_stand_for_are_the_peers_fault() -> None:
    with pytest.raises(PeerFault) as caught:
        parse_canonical(MANIFEST.canonical() + b" ", MANIFEST.swarm_id)
    assert caught.value.fault is Fault.FALSE_CLAIM


def test_too_many_bytes_are_the_peers_fault_before_they_are_hashed() -> None:
    data = b" " * (LARGEST_MANIFEST + 1)
    with pytest.raises(PeerFault) as caught:
        _received(data)
    assert caught.value.fault is Fault.OVERSIZED


CANONICAL = MANIFEST.canonical()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"1",
        b'"manifest"',
        b"{}",
        b"[]",
        b"{" * 60_000,
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'"' * 60_000,
        b"\\" * 60_000,
        b'"' + b"\\" * 60_000,
        b"9" * 60_000,
        b"\xff\xfe",
        CANONICAL[:-1],
        CANONICAL + b"\n",
        b" " + CANONICAL,
        b"\xef\xbb\xbf" + CANONICAL,
        CANONICAL.decode().encode("utf-16"),
        CANONICAL.replace(b":", b": ", 1),
        CANONICAL.replace(b'"seed":7', b'"seed":7.0'),
        CANONICAL.replace(b'"seed":7', b'"seed":07'),
        CANONICAL.replace(b'"seed":7', b'"seed":7e0'),
        CANONICAL.replace(b'"seed":7', b'"seed":6,"seed":7'),
        CANONICAL.replace(b'"seed":7', b'"seed":-0'),
        CANONICAL.replace(b'"hidden":64', b'"hidden":NaN'),
        CANONICAL.replace(b'"hidden":64', b'"hidden":Infinity'),
        CANONICAL.replace(b'"hidden":64', b'"hidden":1e999'),
        CANONICAL.replace(b'"hidden":64', b'"hidden":9007199254740992'),
        CANONICAL.replace(b'"hidden":64', b'"hidden":' + b"9" * 5000),
        CANONICAL.replace(b'"hidden":64', b'"hidden":null'),
        CANONICAL.replace(b'"hidden":64', b'"hidden":[[]]'),
        CANONICAL.replace(b'"hidden":64', b'"hidden":{"a":{"b":{}}}'),
        CANONICAL.replace(b'"hidden":64', rb'"hidden":"\ud800"'),
        CANONICAL.replace(b'"hidden":64', rb'"hidden":"\u001b"'),
        CANONICAL.replace(b'"hidden":64', rb'"\ud800":64'),
        CANONICAL.replace(b'"hidden":64', b'"":64'),
        CANONICAL.replace(b"digits at", rb"\u0064igits at"),
        CANONICAL.replace(b"digits at", b"digits\tat"),
        rfc8785.dumps({**_json(), "hints": {"addresses": [], "description": ""}}),
        rfc8785.dumps({**_json(), "signature": {"ed25519": "00" * 64}}),
        rfc8785.dumps(list(_json().items())),
    ],
    ids=range(42),
)
def test_bytes_that_are_no_canonical_manifest_are_one_clear_line(data: bytes) -> None:
    with pytest.raises(UserError, match="has no valid manifest") as caught:
        _received(data)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@given(st.binary(max_size=200) | st.recursive(scalars, st.lists).map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_a_manifest_or_a_clear_line(data: bytes) -> None:
    with pytest.raises(UserError):
        _received(data)


@given(st.integers(0, len(CANONICAL) - 1), st.integers(0, 255))
def test_a_changed_byte_is_another_manifest_or_a_clear_line(position: int, byte: int) -> None:
    data = CANONICAL[:position] + bytes([byte]) + CANONICAL[position + 1 :]
    try:
        manifest = _received(data)
    except UserError:
        return
    assert manifest.canonical() == data


# Wrong values, wherever they come from.


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("version", 2, "version: .*newer"),
        ("version", "1", "version: expected an integer"),
        ("version", True, "version: expected an integer"),
        ("version", None, "version: missing key"),
        ("colour", "red", "'colour': unknown key; .*newer p2pnode"),
        ("training.colour", "red", "training.'colour': unknown key; .*newer p2pnode"),
        ("training.seed", None, "training.seed: missing key; expected an integer"),
        ("training", None, "training: missing key; expected a table"),
        ("training", 1, "training: expected a table, found 1"),
        ("training.seed", -1, "training.seed: expected an integer from 0"),
        ("training.seed", 2**31, "training.seed: expected"),
        ("training.seed", True, "training.seed: expected"),
        ("training.seed", "7", "training.seed: expected an integer .*, found '7'"),
        ("training.seed", 7.5, "training.seed: expected"),
        ("training.learning_rate", -0.1, "training.learning_rate: expected a number"),
        ("training.learning_rate", True, "training.learning_rate: expected"),
        ("training.learning_rate", "fast", "training.learning_rate: expected"),
        ("training.batch_size", 0, "training.batch_size: expected"),
        ("training.steps", -1, "training.steps: expected"),
        ("training.rounds", 0, "training.rounds: expected"),
        ("training.overlap", -1, "training.overlap: expected"),
        ("training.optimizer", "", "training.optimizer: expected"),
        ("name", "", "name: expected one line"),
        ("name", "x" * 65, "name: expected one line of 1 to 64"),
        ("name", "two\nlines", "name: expected one line"),
        ("name", "\u202etfel ot thgir", "name: expected one line"),
        ("author", "me", "author: expected a did:key"),
        ("author", 1, "author: expected a did:key"),
        ("admission.policy", "friends", 'admission.policy: expected "open" .*newer'),
        ("admission.policy", ["open"], "admission.policy: expected"),
        ("bounds.parameters", 0, "bounds.parameters: expected"),
        ("bounds.peers", 0, "bounds.peers: expected"),
        ("task.options", 1, "task.options: expected a table"),
        ("task.options", {f"o{n}": n for n in range(33)}, "task.options: expected a table of at most 32"),
        ("task.options.hidden", [[1]], "task.options.hidden: expected true, false, a number"),
        ("task.options.hidden", [1, "x" * 129], "task.options.hidden: expected .*, or a list of such"),
        ("task.options.hidden", {"mean radius": {"of": {}}}, r'options.hidden."mean radius".of: expected'),
        ("task.options.hidden", {"": 1}, "task.options.hidden: '' is no name: expected one line of 1 to 128"),
        ("task.options.hidden", {"a\nb": 1}, "task.options.hidden: .* is no name"),
        ("task.options.hidden", ["x" * 100] * 900, "task.options: takes .* bytes, at most 81920"),
        ("task.options.hidden", "x" * 129, "task.options.hidden: expected"),
        ("task.options.Hidden units", 1, "task.options: 'Hidden units' is no name"),
    ],
)
def test_a_wrong_value_names_the_file_the_key_and_what_is_expected(
    tmp_path: Path, path: str, value: object, complaint: str
) -> None:
    table = _changed(path, value)
    text = "\n".join(
        f"{json.dumps(name)} = {_nested(inner)}" for name, inner in table.items() if inner is not None
    )
    with pytest.raises(UserError, match=complaint) as caught:
        _load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'swarm.toml'}: ")
    assert str(caught.value).isprintable()


def _nested(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {_nested(v)}" for name, v in value.items()) + "}"
    return json.dumps(value)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("learning_rate", "nan", "expected a number"),
        ("learning_rate", "inf", "expected a number"),
        ("learning_rate", "1979-05-27", "expected a number"),
        ("seed", "0x" + "f" * 10_000, "found a very large integer"),
        ("seed", "[0x" + "f" * 10_000 + "]", "found a very large integer"),
        ("seed", "9" * 10_000, "not TOML"),
        ("seed", "1\nseed = 2", "not TOML"),
        ("seed", "1\n[training]", "not TOML"),
        ("seed", "[" * 20_000, "not TOML: nested too deeply"),
        ("seed", "", "not TOML"),
    ],
)
def test_what_only_toml_can_say_is_refused_too(tmp_path: Path, key: str, value: str, complaint: str) -> None:
    text = _written(tmp_path, MANIFEST).read_text()
    old = next(line for line in text.splitlines() if line.startswith(f"{key} = "))
    with pytest.raises(UserError, match=complaint):
        _load(tmp_path, text.replace(old, f"{key} = {value}"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "version: missing key"),
        (b"\xff\xfe", "not text in UTF-8"),
        (b"#" * (LARGEST_MANIFEST + 1), "longer than"),
        (b"version = 1\nversion = 1", "not TOML"),
        (b'{"version": 1}', "not TOML"),
        (b"[task" + b".a" * 20_000 + b"]", "version: missing key|unknown key"),
    ],
)
def test_a_file_that_is_no_manifest_is_one_clear_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        _load(tmp_path, content)
    assert str(tmp_path / "swarm.toml") in str(caught.value)


def test_tables_in_tables_without_end_are_refused(tmp_path: Path) -> None:
    text = _written(tmp_path, MANIFEST).read_text()
    with pytest.raises(UserError, match=r"task\.options\.a\.a\.a: expected"):
        _load(tmp_path, f"{text}\n[task.options{'.a' * 20_000}]")


def test_a_member_fetches_as_large_a_manifest_as_there_can_be() -> None:
    assert MAX_MANIFEST == LARGEST_MANIFEST


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*swarm\.toml"):
        load_manifest(tmp_path / "swarm.toml")


def test_a_manifest_with_a_wrong_value_cannot_be_made_in_a_program_either() -> None:
    with pytest.raises(UserError, match=r"training\.learning_rate"):
        replace(MANIFEST, training=replace(MANIFEST.training, learning_rate=math.nan))
    with pytest.raises(UserError, match=r"hints\.addresses"):
        replace(MANIFEST, hints=Hints(("/ip4/127.0.0.1/tcp/4001",)))


@pytest.mark.parametrize("addresses", [[1], ["/ip4/127.0.0.1/tcp/1"], [ADDRESS] * 17, "text", [[]]])
def test_wrong_hints_are_refused(tmp_path: Path, addresses: object) -> None:
    text = _written(tmp_path, replace(MANIFEST, hints=Hints())).read_text()
    with pytest.raises(UserError, match=r"hints\.addresses: expected a list of at most 16 addresses"):
        _load(tmp_path, text.replace("addresses = []", f"addresses = {json.dumps(addresses)}"))


# Signatures.


def test_the_author_signs_and_the_signature_travels_in_the_file(tmp_path: Path) -> None:
    assert load_manifest(_written(tmp_path, SIGNED)) == SIGNED
    assert load_manifest(_written(tmp_path, MANIFEST)).signature is None
    check_signature(SIGNED)


def test_only_the_author_can_sign() -> None:
    with pytest.raises(UserError, match="author: this key is not the author's"):
        signed(MANIFEST, Key(b"1" * 32))
    with pytest.raises(UserError, match=f'author = "{KEY.did}"'):
        signed(replace(MANIFEST, author=""), KEY)


def test_the_signature_is_for_a_manifest_and_nothing_else() -> None:
    assert SIGNED.signature != KEY.sign(MANIFEST.canonical())
    with pytest.raises(UserError, match="does not fit"):
        check_signature(replace(MANIFEST, signature=KEY.sign(MANIFEST.canonical())))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("seed = 7", "seed = 8", "changed after its author signed"),
        (KEY.did, Key(b"1" * 32).did, "changed after its author signed"),
        (KEY.did, "", "no author"),
        ('ed25519 = "', 'ed25519 = "00', "expected ed25519"),
        ('ed25519 = "', 'ed25519 = 1 # "', "expected ed25519"),
        ('ed25519 = "', 'more = 1\ned25519 = "', "expected ed25519"),
        ("[signature]", "[[signature]]", "expected ed25519"),
        ("ed25519", "ed448", "expected ed25519"),
    ],
)
def test_a_signature_that_does_not_fit_is_refused(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    text = _written(tmp_path, SIGNED).read_text()
    assert old in text
    with pytest.raises(UserError, match=f"signature: .*{complaint}"):
        _load(tmp_path, text.replace(old, new))


@given(st.integers(0, 511))
def test_every_bit_of_the_signature_counts(bit: int) -> None:
    signature = bytearray(SIGNED.signature or b"")
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(UserError, match="does not fit"):
        check_signature(replace(SIGNED, signature=bytes(signature)))


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "\n[signature]\ned25519 = 'old'\n",
        f"\n[signature]\ned25519 = '{'00' * 64}'  # mine\n",
        f"\nsignature = {{ed25519 = '{'00' * 64}'}}\n",
    ],
)
def test_signing_a_file_again_keeps_what_a_person_wrote_in_it(tmp_path: Path, ending: str) -> None:
    path = _written(tmp_path, MANIFEST)
    text = path.read_text().replace("seed = 7\n", "seed = 8  # our lucky number\n")
    text = f"{text}{ending}" if "[" in ending else f"{ending}{text}"
    path.write_text(text)
    if "old" in ending:
        with pytest.raises(UserError, match="signature"):
            sign_manifest(path, KEY)
        return
    manifest = sign_manifest(path, KEY)
    assert load_manifest(path) == manifest
    assert sign_manifest(path, KEY) == manifest
    assert "seed = 8  # our lucky number\n" in path.read_text()
    assert manifest.swarm_id != MANIFEST.swarm_id


# Files on disk.


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "swarm.toml"
    path.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        write_manifest(path, MANIFEST)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_write_leaves_the_old_file_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException | type[BaseException]
) -> None:
    def interrupt(descriptor: int) -> None:
        raise interruption

    path = _written(tmp_path, MANIFEST)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises((KeyboardInterrupt, UserError)):
        write_manifest(tmp_path / "other.toml", MANIFEST)
    with pytest.raises((KeyboardInterrupt, UserError)):
        sign_manifest(path, KEY)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_the_file_explains_every_key(tmp_path: Path) -> None:
    lines = _written(tmp_path, MANIFEST).read_text().splitlines()
    unexplained = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if line and not line.startswith("#") and not before.startswith("#")
    ]
    assert unexplained == ["hidden = 64", "beta = 0.9", "view = true"]  # explained by the task or rule
    assert max(map(len, lines)) <= 100


# Admission.


def test_an_open_swarm_admits_everybody_who_shows_nothing() -> None:
    assert admit(MANIFEST, KEY.peer, b"")
    assert not admit(MANIFEST, KEY.peer, b"ticket")
    assert not admit(MANIFEST, KEY.peer, bytes(LARGEST_CREDENTIAL + 1))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_can_be_named_in_a_manifest(policy: str) -> None:
    assert replace(MANIFEST, admission=Admission(policy)).admission.policy == policy
