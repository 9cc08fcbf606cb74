"""docs/LIMITS.md, made of the constants and what is said beside each: `python -m tests.net.limits_page`."""

import ast
import importlib
import io
import sys
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

from p2pnode.bucket import Rate

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "LIMITS.md"

HEAD = """# Limits

What others may ask of a node, and what they may make it keep. Nothing here is for a person to choose: each
number is far above what honest nodes do, and the reason stands beside it. Whatever is over a limit is refused
at once: a stream is reset, a connection closed, a message is a fault of the peer's. What a person may choose
is in `p2pnode/config.py`, and what a swarm agrees on (`bounds`) in its manifest.

This page is made from the code, and a test compares them: `python -m tests.net.limits_page` writes it anew.
"""

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Connections, streams, dials and questions": ("net.limits", "bucket", "net.host"),
    "Bytes and streams of one connection": ("net.yamux", "net.multistream"),
    "Direct connections": ("net.meeting", "net.bulk"),
    "The DHT": ("net.kademlia", "net.dht_host", "net.dht"),
    "Addresses": ("net.addresses", "net.mdns"),
    "Messages": ("wire.messages",),
    "What a node remembers of others": (
        "gossip.membership",
        "gossip.view",
        "gossip.deadlines",
        "gossip.exchange",
    ),
}

ALSO = frozenset(
    {"WINDOW", "STREAM_BYTES", "ADDRESSES_PER_PEER", "LONGEST_ADDRESS", "OPEN_SECONDS", "VISIT_SECONDS"}
    | {"LINGER_SECONDS", "KEEP_ALIVE_SECONDS", "TURN", "CLOSEST", "AT_ONCE", "RESERVES", "REMEMBERED"}
)
"""Limits that the form of their names does not tell."""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(map(section, SECTIONS))


def section(title: str) -> str:
    rows = [row for module in SECTIONS[title] for row in rows_of(module)]
    table = "\n".join(["| limit | at most | what and why |", "|---|---|---|", *rows])
    return f"\n## {title}\n\n{table}\n"


def rows_of(name: str) -> Iterator[str]:
    """One for each limit that a module has, in its order."""
    module = importlib.import_module(f"p2pnode.{name}")
    for constant, reason in constants(
        ROOT.joinpath("p2pnode", *name.split(".")).with_suffix(".py").read_text()
    ):
        value = getattr(module, constant)
        if isinstance(value, Rate) or constant.startswith(("MOST_", "MAX_")) or constant in ALSO:
            yield f"| `{name}.{constant}` | {shown(constant, value)} | {reason} |"


def constants(source: str) -> Iterator[tuple[str, str]]:
    """Each constant of a module, and the text under it, or else the comment beside it."""
    comments = {
        token.start[0]: token.string.strip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    statements = ast.parse(source).body
    for statement, following in zip(statements, [*statements[1:], None], strict=True):
        match statement, following:
            case ast.Assign(targets=[ast.Name(name)]), ast.Expr(ast.Constant(str(text))):
                yield name, " ".join(text.split())
            case ast.Assign(targets=[ast.Name(name)]), _:
                yield name, comments.get(statement.lineno, "")


def shown(name: str, value: object) -> str:
    """As people write it."""
    if isinstance(value, Rate):
        return f"{value.burst:,} at once, then {value.second:,.0f} a second"
    assert isinstance(value, int | float)
    if name.endswith("_SECONDS"):
        return f"{value:g} s"
    for unit, factor in (("Mi", 2**20), ("Ki", 2**10)):
        if value >= 16 * factor:
            return f"{value / factor:g} {unit}"
    return f"{value:,.0f}"


if __name__ == "__main__":
    sys.stdout.write(f"{PAGE.write_text(page())} characters\n")
