"""Looks for an input that makes a part of p2pnode raise what it does not declare, hang, or take much memory.

atheris (https://github.com/google/atheris) changes inputs at random and keeps those that reach new code. It
starts from tests/fuzz/TARGET and keeps what it finds in .local/fuzz/TARGET. Its last line says how many
inputs were tried, how many edges of the code they reached (cov), how many a second, and the peak memory
(rss). An input that fails is written beside, as .local/fuzz/TARGET-...: once mended, it goes into
tests/fuzz/TARGET, where tests/test_fuzz_corpus.py tries it ever after.
"""

import sys
from pathlib import Path

import click

try:
    import atheris
except ImportError:
    click.echo("there is no atheris for this machine: it needs Linux on x86-64", err=True)
    sys.exit(2)

with atheris.instrument_imports(include=["p2pnode"]):
    from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[1]
MOST_BYTES = 1 << 16
MOST_MEMORY = 1024  # MB
HANGS = 20  # seconds


@click.command(help=__doc__)
@click.argument("target", type=click.Choice(list(TARGETS)))
@click.option("--seconds", default=60, show_default=True, help="How long to look.")
def main(target: str, seconds: int) -> None:  # noqa: D103  # the help is the text above
    found = ROOT / ".local" / "fuzz" / target
    found.mkdir(parents=True, exist_ok=True)
    options = {
        "max_total_time": seconds,
        "max_len": MOST_BYTES,
        "rss_limit_mb": MOST_MEMORY,
        "timeout": HANGS,
        "artifact_prefix": f"{found}-",
    }
    folders = [str(found), str(ROOT / "tests" / "fuzz" / target)]
    atheris.Setup(
        [sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), *folders], TARGETS[target]
    )
    atheris.Fuzz()  # ends the process


if __name__ == "__main__":
    main()
