"""Prepares a TFDS dataset as array_record: `python -m jaxsplit.data.prepare NAME`.

Only this step needs TensorFlow (the extra `[prepare]`) and the network. It runs in a subprocess, so
that no other process imports TensorFlow.
"""

import argparse
import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path

from jaxsplit.errors import DataError, did_you_mean


def prepare(name: str, data_dir: str | Path) -> None:
    """Downloads the dataset `NAME[/CONFIG][:VERSION]` and writes it as array_record.

    Raises a DataError without TensorFlow, or if TFDS fails.
    """
    arguments = ["-m", "jaxsplit.data.prepare", name, "--data-dir", str(data_dir)]
    command = shlex.join(["python", *arguments])
    if not _has_tensorflow():
        raise DataError(
            f"tfds:{name} is not prepared as array_record in {data_dir}, which needs TensorFlow: "
            f"run pip install 'jaxsplit[prepare]' && {command}"
        )
    # Its output goes to stderr: stdout is reserved for the caller's results.
    if subprocess.run([sys.executable, *arguments], check=False, stdout=2).returncode:
        raise DataError(f"TFDS could not prepare {name}; its messages are above ({command})")


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def check_known(name: str, data_dir: str | Path) -> None:
    """Raises a DataError for an unknown name, which TFDS would look up on the network."""
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    base = name.partition(":")[0].partition("/")[0]
    if base not in known:
        raise DataError(
            f"tfds:{name}: not in {data_dir}, and TFDS has no such dataset"
            f"{did_you_mean(base, known)}"
        )


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jaxsplit.data.prepare", description=__doc__)
    parser.add_argument("name", help="NAME[/CONFIG][:VERSION], e.g. cifar10")
    parser.add_argument("--data-dir", help="TFDS data_dir to write into (default: TFDS's own)")
    options = parser.parse_args(arguments)
    if not _has_tensorflow():
        print("TensorFlow is needed: pip install 'jaxsplit[prepare]'", file=sys.stderr)
        return 2
    import tensorflow_datasets as tfds

    try:
        check_known(options.name, options.data_dir or "TFDS's data_dir")
        builder = tfds.builder(options.name, data_dir=options.data_dir, file_format="array_record")
        builder.download_and_prepare(file_format="array_record")
    except KeyboardInterrupt:
        print("interrupted: the same command starts again", file=sys.stderr)
        return 130
    except Exception as error:  # from the network, the disk, TFDS or TensorFlow
        reason = " ".join(str(error).split())[:500]
        print(f"{options.name} was not prepared: {reason}", file=sys.stderr)
        return 2
    print(builder.data_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
