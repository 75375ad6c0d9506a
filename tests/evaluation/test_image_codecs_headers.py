"""Header bytes of real files are those that remain without the coefficients."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxsplit.errors import DataError
from jaxsplit.evaluation.image_codecs import header_bytes

CODECS = ["jpeg", "webp", "avif"]


def _images(channels=1):
    """Seven smooth blobs with some noise, of 28 × 20."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[:28, :20]
    phase = random.uniform(0, 6, (7, 1, 1, channels))
    waves = np.sin(x[None, ..., None] / 3 + phase) * np.cos(y[None, ..., None] / 4 - phase)
    noisy = 128 + 90 * waves + random.normal(0, 8, waves.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _encode(image, codec, **options):
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, codec, **options)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_header_ends_where_the_coefficients_start(channels):
    for image in _images(channels=channels):
        file = _encode(image, "jpeg", quality=60, optimize=True)
        start = header_bytes(file) - 2
        # The scan's header: marker, length, components, two bytes for each, three of spectrum.
        length = 6 + 2 * channels
        assert file[start - length - 2 : start].startswith(bytes([0xFF, 0xDA, 0, length, channels]))
        assert file[-2:] == b"\xff\xd9"
        payload = file[start:-2]
        assert payload.replace(b"\xff\x00", b"").count(b"\xff") == 0  # no marker left in it
        # The end marker and one byte of the scan more or less: not the same pixels any more.
        pixels = np.asarray(Image.open(io.BytesIO(file)))
        blank = Image.open(io.BytesIO(file[:start] + b"\xff\xd9"))
        assert not np.array_equal(np.asarray(blank), pixels)


def test_standard_jpeg_header_is_the_same_for_every_image():
    files = [_encode(image, "jpeg", quality=60) for image in _images()]
    headers = {file[: header_bytes(file) - 2] for file in files}
    assert len(headers) == 1
    assert len({file[header_bytes(file) - 2 :] for file in files}) == len(files)


def test_webp_header_counts_every_chunk_but_the_frame():
    for image in _images():
        file = _encode(image, "webp", quality=60)
        size = int.from_bytes(file[16:20], "little")
        assert header_bytes(file) == 30 + size % 2
        assert len(file) == 20 + size + size % 2
    plain = _encode(image, "webp", quality=60)
    tagged = _encode(image, "webp", quality=60, exif=b"Exif\0\0" + bytes(99))
    assert len(tagged) > len(plain) + 99
    assert len(tagged) - header_bytes(tagged) == len(plain) - header_bytes(plain)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [0, 60])
def test_avif_payload_is_the_av1_stream(channels, quality):
    for image in _images(channels=channels):
        file = _encode(image, "avif", quality=quality, max_threads=1)
        at = file.index(b"mdat")
        start, size = at + 4, int.from_bytes(file[at - 4 : at], "big") - 8
        # An AV1 stream: an empty temporal delimiter, then a sequence header (AV1, 5.3 and 6.2).
        assert file[start : start + 3] == b"\x12\x00\x0a"
        assert start + size == len(file)
        assert header_bytes(file) == start
        # Other pixels in it, and nothing else in the file: the header is no part of the image.
        damaged = file[: start + size // 2] + bytes(size - size // 2)
        assert header_bytes(damaged) == header_bytes(file)


def test_avif_header_counts_metadata_and_every_form_of_a_box():
    image = _images()[0]
    plain = _encode(image, "avif", quality=60)
    tagged = _encode(image, "avif", quality=60, xmp=b"<x/>" * 30)
    assert len(tagged) > len(plain) + 100
    payload = len(plain) - header_bytes(plain)
    # libavif keeps metadata in `mdat` or not, as it likes; the pixels are the same.
    assert len(tagged) - header_bytes(tagged) <= payload + 120
    at = plain.index(b"mdat") - 4
    content = plain[at + 8 :]
    wide = plain[:at] + (1).to_bytes(4, "big") + b"mdat" + (16 + payload).to_bytes(8, "big")
    open_ended = plain[:at] + bytes(4) + b"mdat"
    free = plain + (12).to_bytes(4, "big") + b"free" + bytes(4)
    assert header_bytes(wide + content) == header_bytes(plain) + 8
    assert header_bytes(open_ended + content) == header_bytes(plain)
    assert header_bytes(free) == header_bytes(plain) + 12
    nothing = plain[:at] + (4).to_bytes(4, "big") + plain[at + 4 :]  # a box shorter than its header
    with pytest.raises(DataError, match="AVIF"):
        header_bytes(nothing)


@pytest.mark.parametrize("codec", [*CODECS, "png"])
def test_cut_and_foreign_files_have_no_header_to_count(codec):
    file = _encode(_images()[0], codec)
    for cut in (b"", file[:3], file[:20], file[: len(file) // 2], file[:-3]):
        with pytest.raises(DataError, match="whole JPEG, lossy WebP or AVIF file"):
            header_bytes(cut)
    lossless = _encode(_images()[0], "webp", lossless=True)
    with pytest.raises(DataError, match="lossy WebP"):
        header_bytes(lossless)
