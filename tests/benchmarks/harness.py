"""Options, times and records that the benchmarks share."""

import argparse
import datetime
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Makes the parser of a script's options; the description is printed as it is."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )


def write_json(path: Path | None, report: object) -> None:
    """Writes the figures where a file is named; a stopped run leaves the file before it."""
    from jaxsplit.io.files import write_whole

    if path is not None:
        write_whole(path, f"{json.dumps(report, indent=1)}\n".encode())


def say_missed(failed: list[str]) -> int:
    """Prints which bars were missed; the exit status."""
    print("\n" + "\n".join(["missed:", *failed] if failed else ["all bars met"]))
    return 1 if failed else 0


def in_turns(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each call; one of each in every round, after one that is not timed."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def run_jaxsplit(command: str, config: str | Path, workdir: Path, overrides: Iterable[str]) -> None:
    """Runs a command of jaxsplit in a folder; its output is appended to the folder's log."""
    workdir.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "jaxsplit", command, "--config", str(config)]
    words += ["--workdir", str(workdir), *(f"--config.{text}" for text in overrides)]
    with (workdir / "log").open("a") as log:
        subprocess.run(words, check=True, stdout=log, stderr=subprocess.STDOUT)


def provenance(packages: Iterable[str]) -> dict[str, object]:
    """When, on what and with which versions."""
    import jax

    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "cpu": models[0] if models else platform.processor() or platform.machine(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
    }
