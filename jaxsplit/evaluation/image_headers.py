"""Bytes of JPEG, WebP and AVIF files that are not coefficients."""

from jaxsplit.errors import DataError

# JPEG markers (ITU-T T.81, table B.1) and the sizes of WebP's headers (RFC 9649 and RFC 6386).
_SCAN, _END = 0xDA, 0xD9
_RIFF_HEADER, _CHUNK_HEADER, _FRAME_HEADER = 12, 8, 10


def header_bytes(encoded: bytes) -> int:
    """Counts the bytes of a JPEG, lossy WebP or AVIF file that are not coefficients.

    JPEG: all markers and tables, also the image's own Huffman tables, so that the payload is a
    lower bound. WebP: all chunks but the frame, and the frame's own header. AVIF (ISO/IEC
    14496-12): every box but the content of `mdat`; AV1's headers in there count as payload.

    Args:
      encoded: a whole file of one image.

    Returns:
      The bytes of the header.

    Raises:
      DataError: another format, or a truncated file.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("L", (28, 28)).save(file, "WEBP")
    >>> header_bytes(file.getvalue())
    30
    """
    if encoded[:2] == b"\xff\xd8":
        payload = _jpeg_payload(encoded)
    elif encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        payload = _webp_payload(encoded)
    elif encoded[4:12] == b"ftypavif":
        payload = _avif_payload(encoded)
    else:
        payload = 0
    if payload < 1:
        raise DataError(
            "cannot tell header from payload: expected a whole JPEG, lossy WebP or AVIF file, got "
            f"{len(encoded)} bytes that start with {encoded[:4]!r}"
        )
    return len(encoded) - payload


def _jpeg_payload(encoded: bytes) -> int:
    position = 2
    while position + 4 <= len(encoded):
        marker = encoded[position + 1]
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
        if marker == _SCAN:
            whole = encoded[-2:] == bytes([0xFF, _END])
            return len(encoded) - position - 2 if whole else 0
    return 0


def _webp_payload(encoded: bytes) -> int:
    position = _RIFF_HEADER
    while position + _CHUNK_HEADER <= len(encoded):
        name = encoded[position : position + 4]
        size = int.from_bytes(encoded[position + 4 : position + 8], "little")
        position += _CHUNK_HEADER + size + size % 2
        if name == b"VP8 ":
            return size - _FRAME_HEADER if position <= len(encoded) else 0
    return 0


def _avif_payload(encoded: bytes) -> int:
    """Counts the bytes inside `mdat` boxes; 0 unless boxes fill the file to its last byte."""
    position, payload = 0, 0
    while position + 8 <= len(encoded):
        size, header = int.from_bytes(encoded[position : position + 4], "big"), 8
        name = encoded[position + 4 : position + 8]
        if size == 0:  # up to the end of the file
            size = len(encoded) - position
        elif size == 1:  # a 64-bit size follows
            size, header = int.from_bytes(encoded[position + 8 : position + 16], "big"), 16
        if size < header:
            return 0
        if name == b"mdat":
            payload += size - header
        position += size
    return payload if position == len(encoded) else 0
