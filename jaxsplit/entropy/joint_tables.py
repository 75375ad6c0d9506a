"""Combines tables: channels of one latent, or all latents that one frame carries."""

from collections.abc import Sequence

import numpy as np

from jaxsplit.bitstream.tables import CodingTables
from jaxsplit.errors import ConfigError

__all__ = ["join_tables", "stack_tables"]

#: Table indices are uint8.
MOST_TABLES = 256


def stack_tables(parts: Sequence[CodingTables]) -> CodingTables:
    """Concatenates the channels of several tables.

    Args:
      parts: per-channel tables; at least one.

    Returns:
      Tables of all channels, as wide as the widest part.

    >>> from jaxsplit.entropy import tables_from_counts
    >>> both = stack_tables([tables_from_counts({0: 1}, 1), tables_from_counts({3: 1, 5: 1}, 2)])
    >>> both.channels, both.minima.tolist(), both.sizes.tolist()
    (3, [0, 3, 3], [2, 4, 4])
    """
    return CodingTables(
        *_concatenated(parts), offsets=np.concatenate([part.offsets for part in parts])
    )


def join_tables(parts: Sequence[tuple[CodingTables, tuple[int, ...]]]) -> CodingTables:
    """Joins the tables of the latents that one frame carries.

    The joint latent is (1, 1, n): the symbols of each latent in C order, one latent after the
    other. Every position selects its table and has its own offset.

    Args:
      parts: tables of each latent, per channel or per position, and its shape, channels last.

    Returns:
      Tables of the joint latent.

    Raises:
      ConfigError: tables have another number of channels than their latent, or there are more than
        256 in total.

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
            raise ConfigError(
                f"tables of {tables.channels} channels, expected {shape[-1]}: a latent is {shape}"
            )
        rows = np.arange(tables.channels)
        if tables.places is not None:
            rows = tables.places.reshape(shape)
        places.append(first + np.broadcast_to(rows, shape).reshape(-1))
        offsets.append(np.broadcast_to(tables.offsets, shape).reshape(-1))
        first += len(tables.sizes)
    if first > MOST_TABLES:
        raise ConfigError(
            f"{first} tables for one frame, expected at most {MOST_TABLES}; use units with fewer "
            "channels, or tables that channels share"
        )
    return CodingTables(
        *_concatenated([tables for tables, _ in parts]),
        offsets=np.concatenate(offsets),
        places=np.concatenate(places).astype(np.uint8).reshape(1, 1, -1),
    )


def _concatenated(parts: Sequence[CodingTables]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Concatenates counts, padded to one width, sizes and minima."""
    width = max(part.counts.shape[1] for part in parts)
    counts = [np.pad(part.counts, ((0, 0), (0, width - part.counts.shape[1]))) for part in parts]
    return (
        np.concatenate(counts),
        np.concatenate([part.sizes for part in parts]),
        np.concatenate([part.minima for part in parts]),
    )
