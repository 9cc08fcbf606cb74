"""Every scenario carried out, and docs/RESULTS.md written from what they came to.

Results are kept as `p2pnode simulate --results` keeps them, a file for each scenario: what is there is
not computed again, and what was broken off goes on. The same results files give the same page and
pictures, byte by byte. Nothing on the page is written by hand.

A scenario whose data nobody has fetched is left out, and the page says so; so is one that has not been
carried out, where `--only` names others.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import click
import platformdirs

from p2pnode.cli.simulate import carried_out, use_all_cores
from p2pnode.errors import UserError

use_all_cores(os.environ)  # before JAX is imported

from p2pnode.identity.files import replace_file  # noqa: E402
from p2pnode.learning.data import NotFetched  # noqa: E402
from p2pnode.simulation.checks import examine  # noqa: E402
from p2pnode.simulation.picture import Found, draw  # noqa: E402
from p2pnode.simulation.remarks import against, baseline, remarks  # noqa: E402
from p2pnode.simulation.report import Columns, columns, columns_to_target  # noqa: E402
from p2pnode.simulation.results import Store, carry_out, first, summary  # noqa: E402
from p2pnode.simulation.scenario import Clock, Scenario, load  # noqa: E402

ROOT = Path(__file__).parents[1]
PANELS = ("bytes", "worst", "settled")
PANELS_OF_TIME = ("bytes", "seconds", "settled")
INTRODUCTION = """\
# Results

Written by `scripts/results` from the scenarios in `scripts/scenarios`; every sentence and figure is computed.
What a scenario can say, what the columns mean and how a learning rate is chosen:
[SIMULATION.md](SIMULATION.md).
"""


class Missing(Exception):
    """A trial that has not been carried out."""


def known(scenario: Scenario, store: Store) -> Found:
    """What a scenario came to, of which all is in the store.

    Raises:
        Missing: it is not.
    """

    def absent(_: object) -> dict[str, object]:
        raise Missing

    for _ in carry_out(scenario, store, absent):
        pass
    return [(summary(scenario, store, run), first(scenario, store, run)) for run in scenario.runs]


def section(scenario: Scenario, file: Path, found: Found, picture: str) -> Iterator[str]:
    """The lines of a scenario on the page."""
    summaries = [one for one, _ in found]
    base = baseline(scenario)
    held = [against(one, summaries[base]) for one in summaries]
    held[base] = "(baseline)"
    held = ["-" if run.topology == "nobody" else text for run, text in zip(scenario.runs, held, strict=True)]
    table = columns(scenario, summaries)
    yield from (*opening(scenario), "")
    yield from markdown(
        [one.label for one in summaries], {"settled": table["settled"], "against baseline": held, **table}
    )
    yield ""
    if scenario.target:
        yield from (f"Until the nodes' mean {scenario.metric} was {scenario.target:g}:", "")
        yield from markdown([one.label for one in summaries], columns_to_target(summaries))
        yield ""
    yield from (f"- {remark}" for remark in remarks(scenario, summaries))
    yield from ("", f"![{scenario.name}]({picture})", "", "Again:", "", "```sh")
    yield from (f"scripts/p2pnode simulate {file}", "```", "")


def opening(scenario: Scenario) -> Iterator[str]:
    """What a scenario is."""
    split, rates = scenario.split, ", ".join(f"{rate:g}" for rate in scenario.learning_rates)
    dealt = {
        "even": "at random",
        "dirichlet": f"by label in Dirichlet shares, alpha {split.alpha:g}",
        "labels": f"so that each has rows of {split.labels} labels",
        "clients": "as they came, by client",
    }[split.kind]
    seeds = ", ".join(map(str, scenario.seeds))
    yield from (f"## {scenario.name}", "", *([scenario.about, ""] if scenario.about else []))
    yield (
        f"{scenario.nodes:,} nodes learn `{scenario.task}`{_settings(scenario.task_options)}, "
        f"its rows dealt out {dealt}; {scenario.local_steps:,} local steps each, of {scenario.batch_size} "
        f"rows, with {scenario.optimizer}. Metric: {scenario.metric}. Seeds: {seeds}. "
        f"Learning rates tried: {rates}."
    )
    usual = Clock()
    unusual = {
        field.name: getattr(scenario.clock, field.name)
        for field in fields(Clock)
        if getattr(scenario.clock, field.name) != getattr(usual, field.name)
    }
    if unusual:
        yield from ("", f"The clock{_settings(unusual)}.")


def _shown(path: Path) -> Path:
    """As somebody in the checkout would write it."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def _settings(values: dict[str, object]) -> str:
    named = ", ".join(f"{name} = {value}" for name, value in values.items())
    return f" ({named})" if named else ""


def markdown(labels: Sequence[str], table: Columns) -> Iterator[str]:
    """A table of text as Markdown."""
    heads = [heading.replace("\n", " ") for heading in table]
    yield f"| run | {' | '.join(heads)} |"
    yield f"|---|{'---:|' * len(heads)}"
    for label, *texts in zip(labels, *table.values(), strict=True):
        yield f"| {label} | {' | '.join(texts)} |"


@click.command()
@click.option("--only", metavar="NAME", multiple=True, help="Carry out these. Repeatable.  [default: all]")
@click.option(
    "--results",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Where results files are kept.  [default: in the user's cache]",
)
@click.option(
    "--scenarios",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    default=ROOT / "scripts" / "scenarios",
    help="Where scenarios are.  [default: scripts/scenarios]",
)
@click.option(
    "--page",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=ROOT / "docs" / "RESULTS.md",
    help="What is written, with a folder `results` of pictures beside it.  [default: docs/RESULTS.md]",
)
def main(only: tuple[str, ...], results: Path | None, scenarios: Path, page: Path) -> None:
    """Carry out the scenarios, and write the page of results."""
    try:
        write(only, results or platformdirs.user_cache_path("p2pnode") / "results", scenarios, page)
    except UserError as error:
        click.echo(f"results: {error}", err=True)
        sys.exit(2)


def write(only: Sequence[str], results: Path, scenarios: Path, page: Path) -> None:
    """Carry out the scenarios named in `only`, or all, and write the page.

    Raises:
        UserError: there is no such scenario, something in one is wrong, or a file cannot be written.
    """
    loaded = {path.stem: load(path) for path in sorted(scenarios.glob("*.toml"))}
    for name in [*only, *(() if loaded else ["*"])]:
        if name not in loaded:
            raise UserError(f"no scenario {name} in {scenarios}: there are {', '.join(loaded) or 'none'}")
    for scenario in loaded.values():
        examine(scenario)
    pictures = page.parent / "results"
    for folder in (results, pictures):
        folder.mkdir(parents=True, exist_ok=True)
    text = [INTRODUCTION]
    for name, scenario in loaded.items():
        store = Store(results / f"{name}.jsonl")
        try:
            if not only or name in only:
                click.echo(f"{name}:", err=True)
                carried_out(scenario, store)
            found = known(scenario, store)
        except (NotFetched, Missing) as error:
            why = str(error) or f"it has not been carried out: run `scripts/results --only {name}`"
            click.echo(f"{name}: left out: {why}", err=True)
            text += [f"## {name}", "", f"Left out: {why}.", ""]
            continue
        draw(pictures / f"{name}.svg", name, found, PANELS_OF_TIME if scenario.target else PANELS)
        text += section(scenario, _shown(scenarios / f"{name}.toml"), found, f"results/{name}.svg")
    replace_file(page, "\n".join(text).rstrip().encode() + b"\n")


if __name__ == "__main__":
    main()
