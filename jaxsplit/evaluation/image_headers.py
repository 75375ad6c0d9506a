"""What of an image file is header: the part beside the coefficients of the image themselves."""

from jaxsplit.errors import DataError

# JPEG markers (ITU-T T.81, table B.1) and the sizes of WebP's headers (RFC 9649 and RFC 6386).
_SCAN, _END = 0xDA, 0xD9
_RIFF_HEADER, _CHUNK_HEADER, _FRAME_HEADER = 12, 8, 10


def header_bytes(encoded: bytes) -> int:
    """The bytes of a JPEG, lossy WebP or AVIF file beside the coefficients themselves.

    JPEG: all markers and tables up to the end of the scan's header, and the end marker. The
    Huffman tables count as header even where they were made for the image, so what is left is
    less than any JPEG could send. WebP: the RIFF and chunk headers, the frame's uncompressed
    header, the padding and every chunk but the frame. AVIF (ISO/IEC 14496-12): every box but the
    content of `mdat`; AV1's own headers in there count as payload.

    Args:
      encoded: a whole file of one image.

    Raises:
      DataError: none of the three, or cut short.

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
    """Bytes inside the `mdat` boxes; 0 unless boxes fill the file to its last byte."""
    position, payload = 0, 0
    while position + 8 <= len(encoded):
        size, header = int.from_bytes(encoded[position : position + 4], "big"), 8
        name = encoded[position + 4 : position + 8]
        if size == 0:  # to the end of the file
            size = len(encoded) - position
        elif size == 1:  # too long for 32 bits
            size, header = int.from_bytes(encoded[position + 8 : position + 16], "big"), 16
        if size < header:
            return 0
        if name == b"mdat":
            payload += size - header
        position += size
    return payload if position == len(encoded) else 0
