"""Draws the record of the benchmark `service.py` over a link that changes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt

matplotlib.use("Agg")


def draw(found: dict[str, Any], names: list[str], path: Path) -> None:
    """Draws the link, the rates that were chosen, and the share that is correct, over time."""
    frames = found["by link"]["frames"]
    times = np.array([frame["t"] for frame in frames])
    figure, axes = plt.subplots(3, sharex=True, figsize=(8, 6), layout="constrained")
    edges, rates = [0.0], []
    for part in found["trace"].split(","):
        seconds, rate = map(float, part.split(":"))
        edges.append(edges[-1] + seconds)
        rates.append(rate)
    axes[0].stairs(rates, edges, label="the link")
    estimate = np.minimum([frame["kbit_s"] for frame in frames], 5000)
    axes[0].plot(times, estimate, ".", ms=2, label="the client's estimate")
    axes[0].set(yscale="log", ylabel="kbit/s")
    axes[0].legend()
    chosen = [-1 if frame["rate_index"] is None else frame["rate_index"] for frame in frames]
    late = np.array([frame["status"] != "answered" for frame in frames])
    axes[1].plot(times[~late], np.array(chosen)[~late], ".", ms=3, label="in time")
    axes[1].plot(times[late], np.array(chosen)[late], "x", ms=5, label="late or dropped")
    axes[1].set(yticks=range(len(names)), yticklabels=names, ylabel="rate")
    axes[1].legend()
    correct = np.array([frame["correct"] for frame in frames])
    parts = itertools.pairwise(edges)
    shares = [100 * correct[(times >= start) & (times < end)].mean() for start, end in parts]
    total = 100 * found["by link"]["accuracy"]
    axes[2].stairs(shares, edges, label=f"by link: {total:.1f} % of all")
    best = max(names, key=lambda name: found[name]["accuracy"])
    total = 100 * found[best]["accuracy"]
    label = f"always {best}, the best of the fixed rates: {total:.1f} % of all"
    axes[2].axhline(total, color="C1", ls="--", label=label)
    axes[2].set(ylabel="correct in time, %", xlabel="s", ylim=(50, 90))
    axes[2].legend()
    figure.savefig(path, dpi=120)
