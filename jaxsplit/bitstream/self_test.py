"""A short stored payload that verifies that a coder behaves as when the family was saved.

Its symbols are derived from the tables by integer arithmetic. A coder that divides, orders channels
or writes escapes differently is detected before it decodes any image.
"""

import numpy as np

from jaxsplit.bitstream.range_coder import EntropyCoder
from jaxsplit.bitstream.tables import CodingTables
from jaxsplit.errors import CoderError

_ESCAPE_EVERY = 13
_INT32 = np.iinfo(np.int32)


def self_test_symbols(tables: CodingTables) -> np.ndarray:
    """Returns the symbols of a self-test, int32: [2, 2, channels], or the shape of `places`.

    Multiples of 40503 modulo 2**16 (the golden ratio's) replace draws from the tables. Every 13th
    symbol is moved out of its table by a third of 2**2 to 2**32, alternately above and below.
    """
    rows = tables.rows(2, 2) if tables.places is None else tables.places
    index = np.arange(rows.size)
    row = rows.ravel()
    draws = index * 40503 % 65536
    entries = np.empty(row.size, np.int64)
    for table, (counts, size) in enumerate(zip(tables.counts, tables.sizes, strict=True)):
        # A channel's table has a strided slice; a position's table needs a mask.
        at = slice(table, None, tables.channels) if tables.places is None else row == table
        ends = np.cumsum(counts[:size], dtype=np.int64)
        entries[at] = np.searchsorted(ends, draws[at], side="right")
    steps = (np.int64(4) << index % 31) // 3
    lowest = tables.minima[row].astype(np.int64)
    highest = tables.maxima[row].astype(np.int64)
    outside = np.where(index // _ESCAPE_EVERY % 2, lowest - steps, highest + steps)
    escaped = (index % _ESCAPE_EVERY == 0) | (entries == tables.sizes[row] - 1)
    symbols = np.where(escaped, outside, lowest + entries)
    # Clipped to the end of int32, whether or not that symbol is in the table.
    bounded = np.clip(symbols, _INT32.min, _INT32.max).astype(np.int32)
    return bounded.reshape(rows.shape)


def write_self_test(coder: EntropyCoder) -> bytes:
    """Encodes the self-test of a rate when it is saved.

    Args:
      coder: of the rate's tables.

    Returns:
      The payload for `run_self_test`.

    >>> from jaxsplit.entropy import tables_from_counts
    >>> write_self_test(EntropyCoder(tables_from_counts({0: 30, 1: 9, 3: 1}, channels=2))).hex()
    'fb1e'
    """
    return coder.encode(self_test_symbols(coder.tables))


def run_self_test(coder: EntropyCoder, payload: bytes) -> None:
    """Decodes a stored payload, encodes its symbols again and compares both.

    Args:
      coder: of the rate's tables.
      payload: of `write_self_test`.

    Raises:
      CoderError: the symbols or the bytes differ.

    >>> from jaxsplit.entropy import tables_from_counts
    >>> coder = EntropyCoder(tables_from_counts({0: 30, 1: 9, 3: 1}, channels=2))
    >>> run_self_test(coder, write_self_test(coder))
    """
    symbols = self_test_symbols(coder.tables)
    try:
        same = np.array_equal(coder.decode(payload, symbols.shape[:2]), symbols)
        same = same and coder.encode(symbols) == payload
    except Exception:  # a coder that changed may fail in any way
        same = False
    if not same:
        raise CoderError(
            "the installed entropy coder does not reproduce the self-test stored with these "
            "tables, so it would decode other symbols; install the versions of constriction and "
            "jaxsplit that saved them"
        )
