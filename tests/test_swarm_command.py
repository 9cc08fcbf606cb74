"""`p2pnode swarm`, as a person and as a script use it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from p2pnode.cli.swarm import swarm
from p2pnode.errors import UserError
from p2pnode.identity.keys import Key, create_key
from p2pnode.identity.link import MOST_PEERS, parse_link
from p2pnode.identity.manifest import load_manifest
from p2pnode.learning import registry

SIMULATED = ("choco", "epidemic", "push-sum")


def _run(*words: object) -> Result:
    """Run the command; a person's mistake comes out as the `UserError` that `cli.main` prints."""
    result = CliRunner().invoke(swarm, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def _json(*words: object) -> Any:
    return json.loads(_run(*words, "--json").stdout.splitlines()[-1])


def _address(number: int = 0) -> str:
    return f"/ip4/127.0.0.1/tcp/{4001 + number}/p2p/{Key(bytes([number]) * 32).peer}"


@pytest.mark.parametrize("task", [name for name, entry in registry.TASKS.items() if not entry.described])
def test_a_created_manifest_holds_the_tasks_defaults_and_builds(tmp_path: Path, task: str) -> None:
    file = tmp_path / "home.toml"
    _run("create", file, "--task", task)
    manifest = load_manifest(file)
    defaults = registry.defaults(task)
    assert manifest.name == "home"
    assert manifest.task.options == defaults["task_options"]
    assert manifest.rule.options == defaults["rule_options"]
    assert manifest.training.learning_rate == defaults["learning_rate"]
    assert registry.build(manifest).size


@pytest.mark.parametrize("rule", sorted(registry.RULES.keys() - SIMULATED))
def test_every_rule_comes_with_its_own_options(tmp_path: Path, rule: str) -> None:
    _run("create", tmp_path / "s.toml", "--rule", rule)
    manifest = load_manifest(tmp_path / "s.toml")
    assert manifest.rule.options.keys() == registry.RULES[rule].options.keys()


@pytest.mark.parametrize("rule", SIMULATED)
def test_a_rule_for_simulations_makes_no_swarm(tmp_path: Path, rule: str) -> None:
    with pytest.raises(UserError, match="for simulations only"):
        _run("create", tmp_path / "s.toml", "--rule", rule)
    assert not list(tmp_path.iterdir())


def test_what_is_chosen_is_in_the_manifest(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    numbers = {"rounds": 3, "steps": 0, "batch-size": 4, "seed": 5, "learning-rate": 0.25}
    words = [word for name, value in numbers.items() for word in (f"--{name}", value)]
    texts = ("--name", "Ours", "--codec", "float32", "--description", "Hello", "--hint", _address())
    created = _json("create", file, *words, *texts)
    assert created["training"].items() >= {name.replace("-", "_"): n for name, n in numbers.items()}.items()
    assert created["name"] == "Ours"
    assert created["rule"]["codec"] == "float32"
    assert created["hints"] == {"addresses": [_address()], "description": "Hello"}
    assert created["file"] == str(file)
    assert created["swarm"] == load_manifest(file).swarm_id


def test_the_same_seed_makes_the_same_swarm_and_no_seed_makes_another(tmp_path: Path) -> None:
    ids = [
        _json("create", tmp_path / f"{number}.toml", "--name", "x", *seed)["swarm"]
        for number, seed in enumerate([("--seed", 1), ("--seed", 1), (), ()])
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_create_says_the_id_and_what_to_type_next(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    output = _run("create", file).output
    assert f"swarm {load_manifest(file).swarm_id}\n" in output
    assert output.endswith(f"Next: p2pnode join {file}\n")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--task", "digit"), "unknown task 'digit': did you mean 'digits'"),
        (("--rule", "momentun"), "unknown rule 'momentun': did you mean 'momentum'"),
        (("--codec", "int7"), "unknown codec 'int7'"),
        (("--rounds", 0), "training.rounds: expected"),
        (("--learning-rate", "nan"), "training.learning_rate: expected"),
        (("--hint", "/ip4/127.0.0.1/tcp/4001"), "names no peer"),
        (("--author-key", "absent.key"), "cannot read absent.key"),
    ],
)
def test_a_wrong_choice_writes_nothing(tmp_path: Path, words: tuple[object, ...], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        _run("create", tmp_path / "s.toml", *words)
    assert not list(tmp_path.iterdir())


def test_create_never_overwrites(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        _run("create", file)
    assert file.read_text() == "mine"


def test_show_says_who_answers_for_the_manifest(tmp_path: Path) -> None:
    key = create_key(tmp_path / "author.key")
    file = tmp_path / "s.toml"
    _run("create", file)
    assert "author     nobody\n" in _run("show", file).output

    file.write_text(file.read_text().replace('author = ""', f'author = "{key.did}"'))
    assert f"{key.did} (NOT signed" in _run("show", file).output
    assert _json("show", file)["signed"] is False

    _run("sign", file, "--key", tmp_path / "author.key")
    assert f"{key.did} (signed)" in _run("show", file).output
    assert _json("show", file)["signed"] is True


def test_a_manifest_created_with_a_key_is_signed(tmp_path: Path) -> None:
    key = create_key(tmp_path / "author.key")
    file = tmp_path / "s.toml"
    created = _json("create", file, "--author-key", tmp_path / "author.key")
    assert created["signed"] is True
    assert created["author"] == key.did
    assert _json("show", file).items() <= created.items()


def test_an_edited_manifest_is_refused_until_it_is_signed_again(tmp_path: Path) -> None:
    create_key(tmp_path / "author.key")
    file = tmp_path / "s.toml"
    before = _json("create", file, "--author-key", tmp_path / "author.key")["swarm"]
    file.write_text(file.read_text().replace("peers = 64", "peers = 32"))
    with pytest.raises(UserError, match=r"s\.toml: signature: it does not fit"):
        _run("show", file)
    _run("sign", file, "--key", tmp_path / "author.key")
    assert _json("show", file)["swarm"] != before


def test_only_the_named_author_can_sign(tmp_path: Path) -> None:
    key = create_key(tmp_path / "author.key")
    file = tmp_path / "s.toml"
    _run("create", file)
    with pytest.raises(UserError, match=f'to make it so, write author = "{key.did}"'):
        _run("sign", file, "--key", tmp_path / "author.key")


def test_the_link_names_the_given_peers_and_then_the_hints(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    created = _json("create", file, "--hint", _address(1), "--hint", _address(2))
    link = parse_link(_run("link", file, "--peer", _address(3), "--peer", _address(1)).output.strip())
    assert link.swarm_id == created["swarm"]
    assert link.peers == (_address(3), _address(1), _address(2))


def test_a_link_never_names_more_peers_than_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    _run("create", file)
    peers = [word for number in range(MOST_PEERS + 3) for word in ("--peer", _address(number))]
    assert len(parse_link(_run("link", file, *peers).output.strip()).peers) == MOST_PEERS
