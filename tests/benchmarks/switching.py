"""What it costs to change the rate between two images, on either end.

    python tests/benchmarks/switching.py --json switching.json

One image after the other goes at a rate drawn at random, so that about one call in R stays at its
rate. The extra of a switch is what a call at another rate than the last one takes beyond the median
of calls that stay at that rate; `choose` is the part of it that looks up the other rate's program
and trees. Times are of one process on whatever else the machine does: the worst call that stayed
stands beside the worst that switched. Compilations are counted by jax.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsplit import data
from jaxsplit.pretrained import load_pretrained, pretrained_names


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Microseconds that it took, and what it gave."""
    start = time.perf_counter_ns()
    result = run()
    return (time.perf_counter_ns() - start) / 1000, result


def extra(times: list[tuple[str, bool, float]]) -> dict[str, float]:
    """Of (rate, whether it is another than the last, µs): medians and worst calls, in µs."""
    stays = {
        name: [t for rate, other, t in times if rate == name and not other] for name, _, _ in times
    }
    medians = {name: statistics.median(found) for name, found in stays.items() if found}
    over = [t - medians[rate] for rate, other, t in times if other and rate in medians]
    still = [t - medians[rate] for rate, other, t in times if not other]
    return {
        "median_us": statistics.median(over),
        "p99_us": float(np.percentile(over, 99)),
        "worst_us": max(over),
        "worst_staying_us": max(still),
    }


def chosen(end: Any, rate_ids: list[str]) -> dict[str, float]:
    """CPU time in µs to look up what another rate runs: its program and its trees."""
    lookup = getattr(end, "_quantiser", end._rate)
    times = []
    for name in rate_ids:
        start = time.thread_time_ns()  # what others do on the machine doesn't count
        lookup(name)
        times.append((time.thread_time_ns() - start) / 1000)
    return {"median_us": statistics.median(times), "worst_us": max(times)}


def measure(name: str, images: int, repeats: int, seed: int = 0) -> dict[str, Any]:
    """Both ends of one family, warm.

    Args:
      name: as of `load_pretrained`.
      images: how many different ones are sent in turn.
      repeats: calls.
      seed: of the order of the rates.
    """
    loading, family = timed(lambda: load_pretrained(name))
    backbone = family.backbone_of()
    source = data.open_source("embedded", limit=images)
    pixels = data.load_arrays(source, backbone.preprocessing)[0]
    sender, receiver = family.codec(backbone)
    names = [rate.rate_id for rate in family.rates]
    for rate in names * 3:
        receiver(sender(pixels[:1], rate=rate))
    compiled: list[str] = []

    def listen(event: str, duration: float, **kwargs: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    drawn = np.random.default_rng(seed).choice(names, repeats).tolist()
    device, server, last = [], [], ""
    for number, rate in enumerate(drawn):
        image = pixels[number % len(pixels)][None]
        spent, frames = timed(lambda image=image, rate=rate: sender(image, rate=rate))
        device.append((rate, rate != last, spent))
        server.append((rate, rate != last, timed(lambda frames=frames: receiver(frames))[0]))
        last = rate
    units = [rate.stored_bytes for rate in family.rates]
    return {
        "family": name,
        "calls": repeats,
        "switches": sum(other for _, other, _ in device),
        "device": {"extra": extra(device), "choose": chosen(sender, drawn)},
        "server": {"extra": extra(server), "choose": chosen(receiver, drawn)},
        "compilations": len(compiled),
        "bytes_of_a_rate": {"smallest": min(units), "largest": max(units)},
        "bytes_of_the_backbone": sum(x.nbytes for x in jax.tree.leaves(backbone.variables)),
        "loading_the_family_us": loading,
    }


def main() -> None:
    """Prints a table, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--family", default=pretrained_names()[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    found = measure(options.family, options.images, options.repeats)
    for end in ("device", "server"):
        cost, choose = found[end]["extra"], found[end]["choose"]
        print(
            f"{end}: a switch adds {cost['median_us']:.1f} µs (median), {cost['p99_us']:.0f} "
            f"(99th percentile), {cost['worst_us']:.0f} (worst; staying: "
            f"{cost['worst_staying_us']:.0f}); of it the choice takes {choose['median_us']:.1f} "
            f"(worst {choose['worst_us']:.0f})"
        )
    print(
        f"{found['switches']} switches in {found['calls']} images, {found['compilations']} "
        "compilations; a rate has "
        f"{found['bytes_of_a_rate']['largest']} bytes, the backbone "
        f"{found['bytes_of_the_backbone']}"
    )
    print(f"the family is loaded in {found['loading_the_family_us'] / 1000:.1f} ms")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
