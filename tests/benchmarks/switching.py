"""Processor time to change the rate between two images, on device and server.

    python tests/benchmarks/switching.py --json tests/benchmarks/results/switching-cpu.json

Calls are measured in pairs of one image at one rate: one comes after a call at the same rate and
stays, the other after a call at another rate and switches; which of them comes first alternates.
`extra` is the median difference of the two, `choose` the part that looks up the other rate's
program and trees. Processor time leaves out what else the machine runs, but for the caches that it
empties: the worst call that stayed stands beside the worst that switched. Compilations are counted
by jax.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from harness import make_parser, write_json

from jaxsplit import data
from jaxsplit.family.pretrained import load_pretrained

FAMILY = "resnet8_small-fashion_mnist/stage1.block1"


def timed(run: Callable[[], Any], clock: Callable[[], int] = time.process_time_ns) -> float:
    """Microseconds of processor time that it took, of all threads."""
    start = clock()
    run()
    return (clock() - start) / 1000


def spread(times: list[float]) -> dict[str, float]:
    """Median and worst of some microseconds."""
    return {"median_us": statistics.median(times), "worst_us": max(times)}


def paired(call: Callable[[str, int], Any], turns: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Calls that stay at a rate beside calls that switch to it.

    Args:
      call: runs the image of a turn's number at a rate.
      turns: a rate, and another one to come from.
    """
    stays, switches = [], []
    for number, (rate, other) in enumerate(turns):
        pair = [(rate, stays), (other, switches)]
        for before, times in pair if number % 2 else reversed(pair):
            call(before, number)
            times.append(timed(lambda rate=rate, number=number: call(rate, number)))
    extra = [switch - stay for stay, switch in zip(stays, switches, strict=True)]
    return {
        "stays": spread(stays),
        "switches": spread(switches),
        "extra_us": statistics.median(extra),
    }


def chosen(end: Any, rate_ids: Iterable[str]) -> dict[str, float]:
    """Looking up what another rate runs: its program and its trees."""
    # Of this thread alone, which is all that it runs in.
    return spread(
        [timed(lambda name=name: end._rate(name), time.thread_time_ns) for name in rate_ids]
    )


def measure(name: str, images: int, turns: int, seed: int = 0) -> dict[str, Any]:
    """Device and server of one family, warm.

    Args:
      name: see `load_pretrained`.
      images: how many different ones are sent in turn.
      turns: pairs of calls on each end.
      seed: of the rates that are drawn.
    """
    start = time.process_time()
    family = load_pretrained(name)
    loading = time.process_time() - start
    backbone = family.backbone_of()
    source = data.open_source("embedded", max_samples=images)
    pixels = data.load_arrays(source, backbone.preprocessing)[0]
    sender, receiver = family.codec(backbone)
    names = [rate.rate_id for rate in family.rates]
    frames = {
        rate: [sender(pixels[i : i + 1], rate=rate) for i in range(len(pixels))] for rate in names
    }
    for rate in names:
        receiver(frames[rate][0])
    compiled: list[str] = []

    def listen(event: str, duration: float, **kwargs: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    def send(rate: str, number: int) -> None:
        place = number % len(pixels)
        sender(pixels[place : place + 1], rate=rate)

    def receive(rate: str, number: int) -> None:
        receiver(frames[rate][number % len(pixels)])

    jax.monitoring.register_event_duration_secs_listener(listen)
    random = np.random.default_rng(seed)
    drawn = [tuple(random.choice(names, 2, replace=False).tolist()) for _ in range(turns)]
    looked_up = [rate for rate, _ in drawn]
    units = [rate.stored_bytes for rate in family.rates]
    return {
        "family": name,
        "turns": turns,
        "device": {**paired(send, drawn), "choose": chosen(sender, looked_up)},
        "server": {**paired(receive, drawn), "choose": chosen(receiver, looked_up)},
        "compilations": len(compiled),
        "bytes_of_a_rate": {"smallest": min(units), "largest": max(units)},
        "bytes_of_the_backbone": sum(x.nbytes for x in jax.tree.leaves(backbone.variables)),
        "loading_the_family_ms": 1000 * loading,
        "jax": jax.__version__,
        "cpus": os.cpu_count(),
    }


def main() -> None:
    """Prints the figures, and writes JSON where asked."""
    parser = make_parser(__doc__)
    parser.add_argument("--family", default=FAMILY)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--turns", type=int, default=2000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    found = measure(options.family, options.images, options.turns)
    print(f"microseconds of processor time, median (worst) of {options.turns} turns")
    for end in ("device", "server"):
        cost = found[end]
        stays, switches, choose = (
            f"{cost[kind]['median_us']:.1f} ({cost[kind]['worst_us']:.0f})"
            for kind in ("stays", "switches", "choose")
        )
        print(
            f"{end}: a call that stays {stays}, one that switches {switches}: "
            f"{cost['extra_us']:+.1f} in pairs; the choice {choose}"
        )
    print(
        f"{found['compilations']} compilations; a rate has "
        f"{found['bytes_of_a_rate']['largest']} bytes, the backbone "
        f"{found['bytes_of_the_backbone']}; the family is loaded in "
        f"{found['loading_the_family_ms']:.1f} ms"
    )
    write_json(options.json, found)


if __name__ == "__main__":
    main()
