"""A short stream that tells whether a coder still does what it did when a family was saved.

The symbols follow from the tables by integers alone, so only their payload is kept. Decoding it
again finds a coder that divides, orders channels or writes escapes differently, before any image
is lost to it.
"""

import numpy as np

from jaxsplit.bitstream.range_coder import EntropyCoder
from jaxsplit.bitstream.tables import CodingTables
from jaxsplit.errors import CoderError

_SHAPE = (2, 2)
_ESCAPE_EVERY = 13
_INT32 = np.iinfo(np.int32)


def self_test_symbols(tables: CodingTables) -> np.ndarray:
    """The symbols of a rate's self-test, int32 [2, 2, channels], or of the places' shape.

    Multiples of 40503 modulo 2**16 (the golden ratio's) stand for draws from the tables; every
    13th symbol is moved out of its table by a third of 2**2 to 2**32, above and below in turns.

    >>> tables = CodingTables(
    ...     counts=np.array([[30000, 30000, 5536]] * 4, np.int32),
    ...     sizes=np.full(4, 3, np.int32),
    ...     minima=np.full(4, -1, np.int32),
    ...     offsets=np.zeros(4, np.float32),
    ... )
    >>> self_test_symbols(tables).tolist()
    [[[1, 0, -1, 0], [0, -1, 0, -1]], [[341, 0, -1, 0], [-1, -10923, 0, -1]]]
    """
    rows = tables.rows(*_shape(tables))
    index = np.arange(rows.size)
    row = rows.ravel()
    draws = index * 40503 % 65536
    entries = np.empty(row.size, np.int64)
    for table, (counts, size) in enumerate(zip(tables.counts, tables.sizes, strict=True)):
        # Places of a table are few; channels of a table are one.
        at = slice(table, None, tables.channels) if tables.places is None else row == table
        ends = np.cumsum(counts[:size], dtype=np.int64)
        entries[at] = np.searchsorted(ends, draws[at], side="right")
    steps = (np.int64(4) << index % 31) // 3
    lowest = tables.minima[row].astype(np.int64)
    highest = tables.maxima[row].astype(np.int64)
    outside = np.where(index // _ESCAPE_EVERY % 2, lowest - steps, highest + steps)
    escaped = (index % _ESCAPE_EVERY == 0) | (entries == tables.sizes[row] - 1)
    symbols = np.where(escaped, outside, lowest + entries)
    # A table at the end of int32 gets the last symbol instead, in the table or not.
    bounded = np.clip(symbols, _INT32.min, _INT32.max).astype(np.int32)
    return bounded.reshape(rows.shape)


def _shape(tables: CodingTables) -> tuple[int, int]:
    if tables.places is None:
        return _SHAPE
    height, width, _ = tables.places.shape
    return height, width


def write_self_test(coder: EntropyCoder) -> bytes:
    """The payload that the coder gives for the self-test, to be kept with the rate.

    Args:
      coder: of the rate's tables, as it is when the family is saved.

    Returns:
      The payload, for `run_self_test`.

    >>> from jaxsplit.entropy import tables_from_counts
    >>> tables = tables_from_counts({0: 30, 1: 9, 3: 1}, channels=2)
    >>> payload = write_self_test(EntropyCoder(tables))
    >>> run_self_test(EntropyCoder(tables), payload)  # says nothing: all is as it was
    """
    return coder.encode(self_test_symbols(coder.tables))


def run_self_test(coder: EntropyCoder, payload: bytes) -> None:
    """Has the coder decode a payload of `write_self_test` and encode its symbols again.

    Args:
      coder: of the rate's tables, as it is now.
      payload: as it was saved.

    Raises:
      CoderError: other symbols, or other bytes, came out.

    >>> from jaxsplit.entropy import tables_from_counts
    >>> coder = EntropyCoder(tables_from_counts({0: 30, 1: 9, 3: 1}, channels=2))
    >>> run_self_test(coder, write_self_test(coder))
    >>> try:
    ...     run_self_test(coder, b"of another coder")
    ... except CoderError:
    ...     print("its bytes would mean other symbols")
    its bytes would mean other symbols
    """
    symbols = self_test_symbols(coder.tables)
    try:
        same = np.array_equal(coder.decode(payload, _shape(coder.tables)), symbols)
        same = same and coder.encode(symbols) == payload
    except Exception:  # a coder that changed may fail in any way
        same = False
    if not same:
        raise CoderError(
            "the entropy coder does not reproduce the self-test that was saved with these tables: "
            "its bytes would mean other symbols; install the constriction and jaxsplit that saved "
            "them"
        )
