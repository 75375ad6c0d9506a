"""Samples of a bundle: an image, and vectors that check decoders in other languages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxsplit.bitstream import CodingTables, EntropyCoder, write_self_test
from jaxsplit.bitstream.range_coder import self_test_symbols
from jaxsplit.data import Preprocessing


def sample_image(preprocessing: Preprocessing) -> np.ndarray:
    """Draws a picture of gradients, discs and texture, of a size that the preprocessing changes.

    Args:
      preprocessing: of the network.

    Returns:
      uint8 [H, W, 1 or 3], the same on every machine.
    """
    height, width = (round(1.3 * side) for side in preprocessing.size)
    rows, columns = np.mgrid[:height, :width]
    channels = []
    for channel in range(preprocessing.channels):
        shade = rows * (2 + channel) + columns * (3 - channel)
        picture = shade * 255 // max(1, int(shade.max()))
        for number in range(1, 6):
            y, x = height * (7 * number % 11) // 11, width * (5 * number % 9) // 9
            disc = (rows - y) ** 2 + (columns - x) ** 2 < (min(height, width) // (3 + number)) ** 2
            picture = np.where(disc, (47 * number + 60 * channel) % 256, picture)
        texture = (rows * 31 + columns * 17 + rows * columns) % 23
        channels.append(np.clip(picture + texture - 11, 0, 255))
    return np.stack(channels, axis=-1).astype(np.uint8)


def sample_vectors(
    names: Mapping[int, str],
    coders: Mapping[int, EntropyCoder],
    symbols: Mapping[int, np.ndarray],
) -> dict[str, Any]:
    """Returns tables, payloads and symbols of some rates, for JSON.

    Args:
      names: index of a rate → its name.
      coders: of these rates.
      symbols: of one image, int32 [h, w, C] each.

    Returns:
      {"vectors": …}, an entry for each rate, see the bundle's README.
    """
    vectors = []
    for index, name in names.items():
        coder = coders[index]
        extremes = self_test_symbols(coder.tables)
        vectors.append(
            {
                "rate": name,
                "index": index,
                "tables": _listed(coder.tables),
                **_pair(coder.encode(symbols[index]), symbols[index]),
                "self_test": _pair(write_self_test(coder), extremes),
            }
        )
    return {"vectors": vectors}


def _pair(payload: bytes, symbols: np.ndarray) -> dict[str, Any]:
    return {
        "shape": list(symbols.shape),
        "payload": payload.hex(),
        "symbols": symbols.ravel().tolist(),
    }


def _listed(tables: CodingTables) -> dict[str, Any]:
    indices = tables.table_indices
    return {
        "fingerprint": tables.fingerprint,
        "minima": tables.minima.tolist(),
        "counts": [
            row[:size].tolist() for row, size in zip(tables.counts, tables.sizes, strict=True)
        ],
        "offsets": tables.offsets.tolist(),
        "table_indices": None if indices is None else indices.tolist(),
    }
