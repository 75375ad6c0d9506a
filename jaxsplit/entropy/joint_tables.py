"""Tables of several latents as those of one, so that one stream codes all that crosses a cut."""

from collections.abc import Sequence

import numpy as np

from jaxsplit.bitstream.tables import CodingTables
from jaxsplit.errors import ConfigError

__all__ = ["join_tables"]

_MOST_TABLES = 1 << 8  # that uint8 positions can name


def join_tables(parts: Sequence[tuple[CodingTables, tuple[int, ...]]]) -> CodingTables:
    """Joins the tables of latents that one frame carries.

    The joint latent is (1, 1, n): the symbols of each latent in C order, one latent after the
    other. Every position names its table and has its offset.

    Args:
      parts: of each latent its tables, one a channel or one a position, and its shape, channels
        last.

    Returns:
      Tables of the joint latent.

    Raises:
      ConfigError: tables are of another number of channels, or there are more than 256 in all.

    >>> one = CodingTables(
    ...     counts=np.array([[30000, 30000, 5536]], np.int32), sizes=np.array([3], np.int32),
    ...     minima=np.array([-1], np.int32), offsets=np.array([0.25], np.float32),
    ... )
    >>> joint = join_tables([(one, (2, 2, 1)), (one, (3, 1))])
    >>> joint.places.tolist(), joint.offsets.size
    ([[[0, 0, 0, 0, 1, 1, 1]]], 7)
    """
    places, offsets, first = [], [], 0
    for tables, shape in parts:
        if tables.channels != shape[-1]:
            raise ConfigError(f"tables of {tables.channels} channels; the latent is {shape}")
        rows = np.arange(tables.channels) if tables.places is None else tables.places
        places.append(first + np.broadcast_to(rows, shape).reshape(-1))
        offsets.append(np.broadcast_to(tables.offsets, shape).reshape(-1))
        first += len(tables.sizes)
    if first > _MOST_TABLES:
        raise ConfigError(
            f"{first} tables for one frame, expected at most {_MOST_TABLES}: take units of fewer "
            "channels, or tables that channels share"
        )
    width = max(tables.counts.shape[1] for tables, _ in parts)
    counts = [
        np.pad(tables.counts, ((0, 0), (0, width - tables.counts.shape[1]))) for tables, _ in parts
    ]
    return CodingTables(
        counts=np.concatenate(counts),
        sizes=np.concatenate([tables.sizes for tables, _ in parts]),
        minima=np.concatenate([tables.minima for tables, _ in parts]),
        offsets=np.concatenate(offsets),
        places=np.concatenate(places).astype(np.uint8).reshape(1, 1, -1),
    )
