"""What docs/SIMULATION.md says holds: every key, name, option and column, as the code has them."""

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from p2pnode.cli.main import p2pnode
from p2pnode.identity.schema import toml
from p2pnode.learning.compress import CODECS
from p2pnode.learning.registry import RULES, TASKS, Entry
from p2pnode.learning.topology.table import TOPOLOGIES
from p2pnode.simulation.results import Summary
from p2pnode.simulation.scenario import Run, Scenario, load

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "SIMULATION.md").read_text()
NAMED = Scenario(
    name="small", task="digits", nodes=8, local_steps=200, about="Do pairs do as well as a server?"
)


def keys() -> str:
    """A scenario with every key, explained."""
    return f"```toml\n{toml(NAMED).rstrip()}\n\n[[runs]]\n\n{toml(Run(), 'runs.').rstrip()}\n```\n"


def rules() -> str:
    def about(name: str, entry: Entry) -> str:
        made = entry.build(**{option: one.default for option, one in entry.options.items()})
        where = "" if made.on_nodes else " Simulations only."
        [build] = getattr(entry.build, "args", [entry.build])  # the rule behind its running average
        return f"{first_line(sys.modules[build.__module__])}{where}"

    return table("rule", RULES, about)


def topologies() -> str:
    return table("topology", TOPOLOGIES, lambda _, entry: first_line(entry.build))


def tasks() -> str:
    own = {name: entry for name, entry in TASKS.items() if not entry.described}
    return table("task", own, lambda _, entry: first_line(sys.modules[function(entry.build).__module__]))


def codecs() -> str:
    lines = [f"| `{name}` | {first_line(function(build))} |\n" for name, build in CODECS.items()]
    return "".join(["| codec | |\n|---|---|\n", *lines])


def outputs() -> str:
    """What a run is in the object that --json prints."""
    attributes = textwrap.dedent(inspect.cleandoc(Summary.__doc__ or "").split("Attributes:\n")[1])
    told = re.sub(r"\n +", " ", attributes).splitlines()
    told += ["mean: of `settled`.", "deviation: the standard deviation of `settled`."]
    pairs = [line.split(": ", 1) for line in told]
    return "".join(["| key | |\n|---|---|\n", *(f"| `{name}` | {about} |\n" for name, about in pairs)])


def table(kind: str, entries: Mapping[str, Entry], about: Callable[[str, Entry], str]) -> str:
    def lines() -> Iterator[str]:
        yield f"| {kind} | | options: default (range) |\n|---|---|---|\n"
        for name, entry in entries.items():
            options = [
                f"`{o}`: {it.default:g} ({it.low:g} to {it.high:g})" for o, it in entry.options.items()
            ]
            yield f"| `{name}` | {about(name, entry)} | {', '.join(options)} |\n"

    return "".join(lines())


def function(build: Any) -> Any:
    return inspect.unwrap(getattr(build, "func", build))


def first_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").splitlines()[0]


@pytest.mark.parametrize("part", [keys, rules, codecs, topologies, tasks, outputs])
def test_the_page_has_what_the_code_has(part: Callable[[], str]) -> None:
    assert part() in PAGE, f"docs/SIMULATION.md should have:\n{part()}"


def test_the_scenario_with_every_key_is_one(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(keys().removeprefix("```toml\n").removesuffix("```\n"))
    scenario = load(file)
    assert (scenario.name, scenario.runs) == ("small", (Run(),))


def test_the_commands_on_the_page_have_these_options() -> None:
    command = p2pnode.get_command(None, "simulate")  # type: ignore[arg-type]
    assert command is not None
    known = {name for option in command.params for name in option.opts}
    used = [line for line in PAGE.splitlines() if "p2pnode simulate" in line]
    assert used
    for line in used:
        assert set(re.findall(r"--[a-z-]+", line.partition("p2pnode simulate")[2])) <= known, line


def test_every_scenario_that_ships_can_be_read() -> None:
    for path in (ROOT / "scripts" / "scenarios").glob("*.toml"):
        assert load(path).name == path.stem
