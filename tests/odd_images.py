"""Odd image files, made in memory, with the pixels that they must decode to.

Run as a program it decodes a folder of files and prints, as JSON, each error and the peak memory.
"""

import io
import itertools
import json
import struct
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

ORIENTATIONS = {  # of EXIF: what makes the stored array upright
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}
REFUSED = "refused"


class Odd(NamedTuple):
    """A file; uint8 [H, W, C] to be decoded, up to a tolerance, REFUSED or None (either)."""

    name: str
    content: bytes
    expected: np.ndarray | str | None
    tolerance: int = 0


def encode(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png(width, height, bits, colour, rows, *chunks):
    """A PNG whose scan lines are `rows`, with further chunks (name, content)."""

    def chunk(name, content):
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 1)
    parts = (b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(itertools.starmap(chunk, parts))


def tiff(width, height, data, **tags):
    """A TIFF of one strip or tile; tags are numbers by name, lists for several samples."""
    numbers = {
        "bits": 258, "compression": 259, "photometric": 262, "orientation": 274, "samples": 277,
        "tile_width": 322, "tile_length": 323, "format": 339,
    }  # fmt: skip
    tiled = "tile_width" in tags
    values = {256: width, 257: height, 324 if tiled else 273: 0, 325 if tiled else 279: len(data)}
    if not tiled:
        values[278] = height
    defaults = {"bits": 8, "compression": 1, "photometric": 1, "samples": 1}
    values |= {numbers[name]: value for name, value in (defaults | tags).items()}
    values[324 if tiled else 273] = 10 + 12 * len(values) + 64
    extra, entries = b"", b""
    for tag, value in sorted(values.items()):
        if isinstance(value, list):  # SHORTs behind the directory
            at = 10 + 12 * len(values) + 4 + len(extra)
            entries += struct.pack("<HHII", tag, 3, len(value), at)
            extra += struct.pack(f"<{len(value)}H", *value)
        else:
            entries += struct.pack("<HHII", tag, 4, 1, value)
    directory = struct.pack("<H", len(values)) + entries + bytes(4) + extra.ljust(60, b"\0")
    return b"II*\0" + struct.pack("<I", 8) + directory + data


def zeros(count):
    """Deflates `count` zeros without holding them."""
    packer, block = zlib.compressobj(1), bytes(2**20)
    whole, rest = divmod(count, len(block))
    parts = [packer.compress(block) for _ in range(whole)]
    return b"".join(parts) + packer.compress(block[:rest]) + packer.flush()


def _xmp(orientation):
    text = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="{orientation}"/></x:xmpmeta>'
    return text.encode()


def _stored(mode, size, seed=0):
    """An image of a mode and the uint8 array that it shows."""
    width, height = size
    rng = np.random.default_rng(seed)
    grey = rng.integers(0, 256, (height, width, 1), np.uint8)
    colour = rng.integers(0, 256, (height, width, 3), np.uint8)
    alpha = rng.choice(np.array([0, 255], np.uint8), (height, width, 1))
    white = np.uint8(255)
    if mode == "1":
        shown = np.where(grey > 127, white, np.uint8(0))
        return Image.fromarray(shown[..., 0] > 0), shown
    if mode == "I;16":
        wide = grey[..., 0].astype(np.uint16) << 8 | 0xA5
        wide[0, 0] |= 0x8000  # bright enough not to be warned about
        return Image.fromarray(wide), (wide >> 8).astype(np.uint8)[..., None]
    if mode == "L":
        return Image.fromarray(grey[..., 0]), grey
    if mode == "LA":
        return Image.fromarray(np.dstack([grey, alpha]), "LA"), np.where(alpha > 0, grey, white)
    if mode == "P":
        image = Image.fromarray(grey[..., 0], "P")
        palette = rng.integers(0, 256, (256, 3), np.uint8)
        image.putpalette(palette.tobytes())
        return image, palette[grey[..., 0]]
    if mode == "RGBA":
        return Image.fromarray(np.dstack([colour, alpha])), np.where(alpha > 0, colour, white)
    if mode == "CMYK":
        inks = Image.fromarray(np.dstack([255 - colour, np.zeros_like(alpha)]), "CMYK")
        return inks, colour
    return Image.fromarray(colour), colour


def oriented():
    """Modes × containers × orientations, in EXIF, XMP and TIFF's own tag."""
    modes = {
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"),
        "WEBP": ("RGB", "RGBA"),
        "JPEG": ("L", "RGB", "CMYK"),
        "AVIF": ("RGB",),
    }
    packings = None, "tiff_lzw", "packbits", "tiff_adobe_deflate"
    exact = {
        "WEBP": {"lossless": True, "exact": True},
        "JPEG": {"quality": 100, "subsampling": 0},
        "AVIF": {"quality": 100, "subsampling": "4:4:4", "speed": 10},
    }
    for form, (turn, upright) in itertools.product(modes, ORIENTATIONS.items()):
        for seed, mode in enumerate(modes[form]):
            image, shown = _stored(mode, (7, 5), seed)
            if lossy := form in ("JPEG", "AVIF"):  # one colour a quarter is enough
                shown = np.kron(shown[:2, :2], np.ones((16, 24, 1), np.uint8))
                pixels = 255 - np.pad(shown, ((0, 0),) * 2 + ((0, 1),), constant_values=255)
                grey = shown.shape[2] == 1
                image = Image.fromarray(shown[..., 0] if grey else shown)
                image = Image.fromarray(pixels, "CMYK") if mode == "CMYK" else image
            exif = Image.Exif()
            exif[0x0112] = turn
            options = dict(exact.get(form, {}))
            if form == "TIFF":
                for packing in packings:  # Pillow reads some without any by another way
                    options = {"tiffinfo": {274: turn}, "compression": packing}
                    name = f"{form}-{mode}-{packing}{turn}".replace(";", "")
                    yield Odd(name, encode(image, form, **options), upright(shown))
                continue
            options["exif"] = exif
            name = f"{form}-{mode}-exif{turn}".replace(";", "")
            yield Odd(name, encode(image, form, **options), upright(shown), 3 if lossy else 0)
            if mode != "RGB" or form == "AVIF":
                continue
            del options["exif"]
            options["xmp"] = _xmp(turn)
            if form == "PNG":
                text = PngImagePlugin.PngInfo()
                text.add_itxt("XML:com.adobe.xmp", _xmp(turn).decode())
                options = {"pnginfo": text}
            name = f"{form}-{mode}-xmp{turn}"
            yield Odd(name, encode(image, form, **options), upright(shown), 3 if lossy else 0)


def depths():
    """Bits, ranges, signs and transparent colours."""
    for bits, colour in itertools.product((1, 2, 4, 8, 16), (0, 3)):
        top = 2**bits - 1
        values = [0, top, top // 2, 1, top, 0, 1, top]
        packed = b"".join(struct.pack(">H", v) for v in values)
        if bits < 16:
            text = "".join(f"{v:0{bits}b}" for v in values)
            packed = int(text, 2).to_bytes(bits, "big")
        scaled = [v >> 8 if bits == 16 else v * 255 // top for v in values]
        grey = np.array(scaled, np.uint8).reshape(1, 8, 1)
        if colour == 0:
            yield Odd(f"png-grey{bits}", png(8, 1, bits, 0, [packed]), grey)
            key = (b"tRNS", struct.pack(">H", top))
            shown = grey if bits in (1, 8) else REFUSED  # the key is white
            yield Odd(f"png-grey{bits}-key", png(8, 1, bits, 0, [packed], key), shown)
        elif bits < 16:
            entries = np.arange(3 * (top + 1), dtype=np.uint8).reshape(-1, 3)
            chunk = (b"PLTE", entries.tobytes())
            shown = entries[np.array(values)][None]
            yield Odd(f"png-palette{bits}", png(8, 1, bits, 3, [packed], chunk), shown)
            chunks = chunk, (b"tRNS", b"\0")
            clear = np.where(np.array(values)[None, :, None] == 0, np.uint8(255), shown)
            yield Odd(f"png-palette{bits}-key", png(8, 1, bits, 3, [packed], *chunks), clear)
    pixels = struct.pack(">6H", 0x1234, 0, 0xFFFF, 0x12FF, 0, 0)
    rgb = np.array([[[0x12, 0, 0xFF], [0x12, 0, 0]]], np.uint8)
    yield Odd("png-rgb16", png(2, 1, 16, 2, [pixels]), rgb)
    yield Odd("png-rgb16-key", png(2, 1, 16, 2, [pixels], (b"tRNS", pixels[:6])), REFUSED)
    for most in (1, 3, 15, 100, 255, 256, 1000, 4095, 65535):
        form = ">4H" if most > 255 else "4B"
        values = [0, most, most // 2, most // 3]
        file = b"P5 4 1 %d\n" % most + struct.pack(form, *values)
        full = 65535 if most > 255 else 255
        scaled = [int(v / most * full + 0.5) >> (8 if most > 255 else 0) for v in values]
        yield Odd(f"pgm{most}", file, np.array(scaled, np.uint8).reshape(1, 4, 1), 1)
        file = b"P6 1 1 %d\n" % most + struct.pack(form, *values)[: 6 if most > 255 else 3]
        scaled = [int(v / most * 255 + 0.5) for v in values[:3]]
        yield Odd(f"ppm{most}", file, np.array(scaled, np.uint8).reshape(1, 1, 3), 1)
    yield Odd("p1", b"P1 4 1\n1 0 1 0", np.array([0, 255, 0, 255], np.uint8).reshape(1, 4, 1))
    yield Odd("p2", b"P2 2 1 255\n7 200", np.array([7, 200], np.uint8).reshape(1, 2, 1))
    yield Odd("p3", b"P3 1 1 255\n7 200 9", np.array([7, 200, 9], np.uint8).reshape(1, 1, 3))
    yield Odd("pfm", b"Pf 1 1\n-1.0\n" + struct.pack("<f", 0.5), REFUSED)
    for bits, photometric in itertools.product((1, 2, 4, 8, 12, 16), (0, 1)):
        top = 2**bits - 1
        values = [0, top, top // 2, 1, top, 0, 1, top]
        packed = struct.pack("<8H", *values)
        if bits < 16:
            packed = int("".join(f"{v:0{bits}b}" for v in values), 2).to_bytes(bits, "big")
        scaled = [v >> (bits - 8) if bits > 8 else v * 255 // top for v in values]
        grey = np.array(scaled, np.uint8).reshape(1, 8, 1)
        expected = 255 - grey if photometric == 0 else grey
        if bits > 8 and photometric == 0:
            expected = REFUSED
        name, tags = f"tiff{bits}-{photometric}", {"bits": bits, "photometric": photometric}
        yield Odd(name, tiff(8, 1, packed, **tags), expected)
        if bits in (8, 16):
            yield Odd(f"{name}-signed", tiff(8, 1, packed, **tags, format=2), REFUSED)
            yield Odd(f"{name}-half", tiff(8, 1, packed, **tags, format=3), REFUSED)
            yield Odd(f"{name}-void", tiff(8, 1, packed, **tags, format=4), None)
    for bits, sample in itertools.product((8, 16, 32), (1, 2, 3)):
        tags = {"bits": [bits] * 3, "photometric": 2, "samples": 3, "format": [sample] * 3}
        file = tiff(2, 1, struct.pack("<6H", *range(0, 60000, 10000)).ljust(bits, b"\0"), **tags)
        yield Odd(f"tiff-rgb{bits}-{sample}", file, None if sample == 1 else REFUSED)
    for dtype in (np.int32, np.float32):
        image = Image.fromarray(np.linspace(0, 1, 12).reshape(3, 4).astype(dtype))
        for packing in (None, "tiff_lzw"):
            file = encode(image, "TIFF", compression=packing)
            yield Odd(f"tiff-{np.dtype(dtype)}-{packing}", file, REFUSED)
    yield Odd("tiff-uint32", tiff(2, 1, struct.pack("<2I", 1, 2**32 - 1), bits=32), REFUSED)
    yield Odd("tiff-lab", encode(Image.new("LAB", (3, 2)), "TIFF"), None)


def sizes():
    """Real images, from one pixel to 100,000 a side."""
    longest = {"WEBP": 16383, "JPEG": 65500, "GIF": 65535, "AVIF": 32768, "JPEG2000": 20000}
    for form in ("PNG", "TIFF", "BMP", "PPM", "GIF", "WEBP", "JPEG", "JPEG2000", "AVIF"):
        limit = longest.get(form, 100_000)
        sides = {1, 2, 255, min(limit, 20_000), limit}
        for size in sorted({*itertools.product(sides, (1, 3)), *itertools.product((1, 3), sides)}):
            shown = np.full((size[1], size[0], 3), (200, 100, 50), np.uint8)
            options = {"lossless": True} if form == "WEBP" else {}
            file = encode(Image.fromarray(shown), form, **options)
            lossy = 12 if form in ("JPEG", "AVIF", "GIF") else 0
            yield Odd(f"{form}-{size[0]}x{size[1]}", file, shown, lossy)


def bombs():
    """Small files that claim or unpack to much."""
    for width, height in ((100_000, 100_000), (60_000, 3000), (2**31 - 1, 1), (1, 2**31 - 1)):
        name = f"{width}x{height}"
        yield Odd(f"png-claims-{name}", png(width, height, 8, 6, []), REFUSED)
        yield Odd(f"tiff-claims-{name}", tiff(width, height, b"\0"), REFUSED)
        yield Odd(f"ppm-claims-{name}", b"P6 %d %d 255\n" % (width, height), REFUSED)
        header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        yield Odd(
            f"bmp-claims-{name}", b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header, REFUSED
        )
    yield Odd("gif-claims", b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0), REFUSED)
    small = encode(Image.new("RGB", (8, 8)), "JPEG")
    at = small.index(b"\xff\xc0") + 5
    yield Odd("jpeg-claims", small[:at] + b"\xff\xff\xff\xff" + small[at + 4 :], REFUSED)
    webp = encode(Image.new("RGBA", (8, 8), (0, 0, 0, 9)), "WEBP")
    yield Odd("webp-claims", webp[:24] + b"\xfe\x3f\0\xfe\x3f\0" + webp[30:], REFUSED)
    jp2 = encode(Image.new("RGB", (8, 8)), "JPEG2000")
    yield Odd("jp2-claims", jp2.replace(b"\0\0\0\x08" * 2, b"\0\1\x86\xa0" * 2), REFUSED)
    for side in (16384, 24000):
        tags = {"compression": 8, "tile_width": side, "tile_length": side}
        yield Odd(f"tiff-tile-{side}", tiff(1, 1, zeros(side * side), **tags), REFUSED)
    for length in (60_000, 1_000_000, 10_000_000):
        row = zeros(length + 1)
        ends = png(length, 1, 8, 0, [])
        start = ends.index(b"IDAT") - 4
        check = struct.pack(">I", zlib.crc32(b"IDAT" + row))
        file = ends[:start] + struct.pack(">I", len(row)) + b"IDAT" + row + check + ends[-12:]
        yield Odd(f"png-{length}x1", file, np.zeros((1, length, 1), np.uint8))


def foreign():
    """Contents that are no raster image, or that other programs would have to decode."""
    photo = encode(Image.new("RGB", (16, 16), (9, 99, 200)), "JPEG")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    heads = {
        "eps": eps, "pdf": b"%PDF-1.4\n", "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "wmf": b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<4hH", 0, 0, 9, 9, 96) + bytes(60),
        "heic": struct.pack(">I", 24) + b"ftypheic" + bytes(12), "empty": b"", "text": b"hello",
        "grib": b"GRIB\0\0\0\1", "hdf5": b"\x89HDF\r\n\x1a\n", "bufr": b"BUFR" + bytes(8),
        "tga": encode(Image.new("RGB", (4, 4)), "TGA"), "ico": bytes((0, 0, 1, 0, 1, 0)),
        "psd": b"8BPS\0\1" + bytes(30), "xpm": b"/* XPM */", "zip": b"PK\3\4",
    }  # fmt: skip
    for name, content in heads.items():
        yield Odd(name, content, REFUSED)
    for length in range(0, len(photo), 40):
        yield Odd(f"jpeg-cut-{length}", photo[:length], None)


def all_odd():
    return [*oriented(), *depths(), *sizes(), *bombs(), *foreign()]


def peak():
    """Peak memory of this process so far, in bytes; ru_maxrss would start at the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def main(folder):
    """Decodes and preprocesses `*.odd`; writes what was decoded beside them."""
    import warnings

    from jaxsplit.data import Preprocessing, decode_image
    from jaxsplit.errors import DataError

    warnings.simplefilter("ignore")
    preprocessing = Preprocessing((224, 224), 3, 256, "bicubic")
    report = {}
    for file in sorted(Path(folder).glob("*.odd")):
        error = ""
        try:
            array = decode_image(file)
            np.save(file.with_suffix(".npy"), array)
            preprocessing.apply(array)
        except DataError as refusal:
            error = str(refusal)
        report[file.stem] = error, peak()
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
