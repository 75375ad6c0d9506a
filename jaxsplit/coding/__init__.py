"""Symbols to bytes and back: integer tables, a range coder and the `.jspl` container. No jax."""

from jaxsplit.coding.bitstream import (
    Header,
    RateInfo,
    Writer,
    read_container,
    write_container,
)
from jaxsplit.coding.entropy_coder import MAX_SYMBOLS, EntropyCoder
from jaxsplit.coding.frames import Frame, pack_frame, unpack_frame
from jaxsplit.coding.tables import CodingTables

__all__ = [
    "MAX_SYMBOLS",
    "CodingTables",
    "EntropyCoder",
    "Frame",
    "Header",
    "RateInfo",
    "Writer",
    "pack_frame",
    "read_container",
    "unpack_frame",
    "write_container",
]
