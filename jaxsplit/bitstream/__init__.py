"""Entropy coding of symbols: integer tables, range coder and `.jspl` container. Imports no jax."""

from jaxsplit.bitstream.container import (
    Reader,
    Writer,
    frame_sizes,
    read_container,
    write_container,
)
from jaxsplit.bitstream.frames import Frame, pack_frame, unpack_frame
from jaxsplit.bitstream.header import Header, RateInfo, pack_header
from jaxsplit.bitstream.range_coder import EntropyCoder, run_self_test, write_self_test
from jaxsplit.bitstream.tables import MAX_SYMBOLS, CodingTables, LevelTables

__all__ = [
    "MAX_SYMBOLS",
    "CodingTables",
    "EntropyCoder",
    "Frame",
    "Header",
    "LevelTables",
    "RateInfo",
    "Reader",
    "Writer",
    "frame_sizes",
    "pack_frame",
    "pack_header",
    "read_container",
    "run_self_test",
    "unpack_frame",
    "write_container",
    "write_self_test",
]
