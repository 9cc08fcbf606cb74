"""The project around the package: docstrings, scripts, pins, and what no file may hold."""

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
]
MODULES = sorted((ROOT / "p2pnode").rglob("*.py"))
SCRIPTS = [*sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file()), ROOT / ".ci" / "run"]

# Joined here so that this file does not hold what it looks for.
FORBIDDEN = {
    **{".".join(host): "a package registry" for host in [("pypi", "org"), ("python" + "hosted", "org")]},
    **{f"/{top}/": "a path of one machine" for top in ["root", "home", "Users", "work"]},
}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def project_files() -> list[Path]:
    """What a commit of this tree could hold: neither ignored nor deleted."""
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [ROOT / name for name in listing.split("\0") if (ROOT / name).is_file()]


def brought(requirement: Requirement) -> Iterator[Requirement]:
    """What installing `requirement` here brings besides itself."""
    for line in requires(requirement.name) or ():
        dependency = Requirement(line)
        extras = requirement.extras or {""}
        if dependency.marker is None or any(dependency.marker.evaluate({"extra": extra}) for extra in extras):
            yield dependency


def imported(module: Path) -> Iterator[str]:
    """The top-level names that `module` imports, anywhere in it."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_every_module_opens_with_a_docstring(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text()))


@pytest.mark.parametrize("script", SCRIPTS, ids=relative)
def test_every_script_can_be_run(script: Path) -> None:
    runs = script.with_suffix("") if script.suffix == ".py" else script  # x is the way to start x.py
    if any(script.stem in imported(other) for other in SCRIPTS if other.suffix == ".py"):
        return  # a part of another one
    assert os.access(runs, os.X_OK)
    assert runs.read_text().startswith("#!/")


def test_the_dependencies_are_what_the_package_imports() -> None:
    names = {name for module in MODULES for name in imported(module)}
    foreign = names - sys.stdlib_module_names - {"p2pnode"}
    distributions = packages_distributions()
    used = {canonicalize_name(distributions[name][0]) for name in foreign}
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    optional = PROJECT["optional-dependencies"]  # imported only where somebody has installed them
    extras = {canonicalize_name(Requirement(line).name) for line in optional["parquet"] + optional["plots"]}
    assert used - extras == declared


def test_every_constraint_is_one_exact_version() -> None:
    for pin in CONSTRAINTS:
        assert [clause.operator for clause in pin.specifier] == ["=="], pin
        assert not (pin.url or pin.extras or pin.marker), pin
    names = [canonicalize_name(pin.name) for pin in CONSTRAINTS]
    assert names == sorted(set(names))


def test_everything_that_the_package_and_its_tests_need_is_pinned_within_its_bounds() -> None:
    pinned = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in CONSTRAINTS}
    optional = PROJECT["optional-dependencies"].values()
    for requirement in map(Requirement, sum(optional, PROJECT["dependencies"])):
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement

    queue = [Requirement(line) for line in PROJECT["dependencies"]]
    seen: set[str] = set()
    while queue:
        requirement = queue.pop()
        if str(requirement) not in seen:
            seen.add(str(requirement))
            assert canonicalize_name(requirement.name) in pinned, requirement
            queue.extend(brought(requirement))


def test_no_file_names_a_package_registry_or_a_path_of_one_machine() -> None:
    found = [
        f"{relative(path)}: {text} is {what}"
        for path in project_files()
        for text, what in FORBIDDEN.items()
        if text.encode() in path.read_bytes()
    ]
    assert not found
