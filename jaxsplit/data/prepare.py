"""Prepares a TFDS dataset as array_record: `python -m jaxsplit.data.prepare NAME`.

Preparing is the one thing that needs TensorFlow (the extra `[prepare]`) and the network. It runs
in a process of its own, so that nothing else ever imports TensorFlow.
"""

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

from jaxsplit.errors import DataError


def prepare(name: str, data_dir: str | Path) -> None:
    """Downloads a dataset and writes it as array_record, in a subprocess.

    Args:
      name: `NAME[/CONFIG][:VERSION]` as TFDS knows it.
      data_dir: the TFDS data_dir to write into.

    Raises:
      DataError: TensorFlow isn't installed (known at once, without the network), or TFDS could
        not prepare the dataset.
    """
    command = f"python -m jaxsplit.data.prepare {name} --data-dir {data_dir}"
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(
            f"tfds:{name} is not prepared as array_record in {data_dir}, which needs TensorFlow: "
            f"run pip install 'jaxsplit[prepare]' && {command}"
        )
    arguments = [sys.executable, "-m", "jaxsplit.data.prepare", name, "--data-dir", str(data_dir)]
    if subprocess.run(arguments, check=False).returncode:
        raise DataError(f"TFDS could not prepare {name}; its messages are above ({command})")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jaxsplit.data.prepare", description=__doc__)
    parser.add_argument("name", help="NAME[/CONFIG][:VERSION], e.g. cifar10")
    parser.add_argument("--data-dir", default=None, help="TFDS data_dir to write into")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("tensorflow") is None:
        print("TensorFlow is needed: pip install 'jaxsplit[prepare]'", file=sys.stderr)
        return 2
    import tensorflow_datasets as tfds

    builder = tfds.builder(options.name, data_dir=options.data_dir, file_format="array_record")
    builder.download_and_prepare()
    print(builder.data_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
