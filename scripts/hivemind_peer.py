"""One peer of hivemind that averages when told to; run by a Python that has it, see hivemind_swarm.py.

It is told by lines of standard input, and answers each with a line of JSON: addresses of a peer to join (as
JSON), then `match` and `average` for each round. It leaves at the end of input. Moments are seconds of the
monotonic clock, which all processes of a machine share.
"""

import json
import sys
import time
from importlib import import_module
from typing import Any

MANY = {"min_matchmaking_time": 1.0, "request_timeout": 0.5}
"""Seconds. With its own, which are longer, eight peers may never find together."""


def main() -> None:
    """Join, and take part in as many rounds as there are."""
    wanted = json.loads(sys.argv[1])
    torch, hivemind = import_module("torch"), import_module("hivemind")
    codecs, averaging = import_module("hivemind.compression"), import_module("hivemind.averaging")
    matched = import_module("hivemind.averaging.control").AveragingStage.AWAITING_TRIGGER
    say(imported=time.monotonic(), imports_cpu=time.process_time(), torch=torch.__version__)
    # On loopback there is nothing to be found out about routers and relays.
    alone = {"nat_port_map": False, "auto_nat": False, "use_relay": False}
    dht = hivemind.DHT(initial_peers=json.loads(sys.stdin.readline()), start=True, **alone)
    tensor = torch.full((wanted["parameters"],), float(wanted["index"]))
    averager = averaging.DecentralizedAverager(
        [tensor],
        dht,
        start=True,
        prefix="bench",
        target_group_size=wanted["peers"],  # a group this large starts at once
        min_group_size=wanted["peers"],  # and a smaller one would be other work
        **({} if wanted["peers"] == 2 else MANY),
        part_size_bytes=wanted["part"],
        compression=getattr(codecs, wanted["compression"])(),
        client_mode=False,
    )
    say(address=[str(address) for address in dht.get_visible_maddrs()])
    while sys.stdin.readline():
        take_part(averager, tensor, matched)
    averager.shutdown()
    dht.shutdown()


def take_part(averager: Any, tensor: Any, matched: Any) -> None:
    """A round: find the group, wait for the word, average with it."""
    began = time.monotonic()
    step = averager.step(wait=False, require_trigger=True, allow_retries=True, timeout=60)
    while step.stage is not matched and not step.done():
        time.sleep(0.001)
    say(began=began, ended=time.monotonic())
    sys.stdin.readline()
    began = time.monotonic()
    step.allow_allreduce()
    group = step.result()
    say(began=began, ended=time.monotonic(), group=len(group), value=float(tensor[-1]))


def say(**what: Any) -> None:
    """To the process that started this one."""
    print(json.dumps(what), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
