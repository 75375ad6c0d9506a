"""Image files of all kinds: exact pixels or one line, in bounded memory."""

import ast
import json
import math
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import odd_images
import pytest
from PIL import Image

import jaxsplit
from jaxsplit.data import Preprocessing, batches, decode_image, images, open_source, preprocessing
from jaxsplit.errors import DataError, JaxsplitWarning

PACKAGE = Path(jaxsplit.__file__).parent


@pytest.fixture
def unwarned(monkeypatch):
    monkeypatch.setattr("jaxsplit.errors._WARNED", set())


def in_a_process(folder, odd):
    """Decodes files in a fresh process: {name: (error, peak so far in bytes)}."""
    for one in odd:
        (folder / f"{one.name}.odd").write_bytes(one.content)
    done = subprocess.run(
        [sys.executable, odd_images.__file__, folder], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def test_odd_images_give_exact_pixels_or_one_line_in_a_gibibyte(tmp_path):
    odd = odd_images.all_odd()
    assert len({one.name for one in odd}) == len(odd) >= 300
    report = in_a_process(tmp_path, odd)
    wrong = []
    for one in odd:
        error, _ = report[one.name]
        if error:
            if isinstance(one.expected, np.ndarray) or "\n" in error or one.name not in error:
                wrong.append((one.name, error))
        elif isinstance(one.expected, np.ndarray):
            got = np.load(tmp_path / f"{one.name}.npy")
            far = got.shape != one.expected.shape or (
                np.abs(got.astype(int) - one.expected).max() > one.tolerance
            )
            wrong += [(one.name, got.shape, got.ravel()[:8], one.expected.ravel()[:8])] * bool(far)
        elif one.expected == odd_images.REFUSED:
            wrong.append((one.name, "not refused"))
    assert not wrong, "\n".join(map(str, wrong))
    peaks = {name: peak for name, (_, peak) in report.items()}
    assert max(peaks.values()) <= 2**30, max(peaks.items(), key=lambda item: item[1])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Peak bytes of a process that decodes a small image, with a band's conversion."""
    small = odd_images.encode(Image.new("RGBA", (1024, 1024)), "PNG", compress_level=1)
    report = in_a_process(tmp_path_factory.mktemp("base"), [odd_images.Odd("one", small, None)])
    return report["one"][1]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF", "JPEG2000"])
def test_no_decoder_takes_more_for_a_pixel_than_the_limit_assumes(tmp_path, base, form):
    """Transparent or progressive, and turned: what takes most. An eighth of the largest images."""
    pixels = images._MEMORY // images._BYTES_PER_PIXEL.get(form, images._OTHER_BYTES_PER_PIXEL)
    side = math.isqrt(pixels // 8)
    picture = Image.linear_gradient("L").resize((side, side), Image.Resampling.NEAREST)
    picture = Image.merge("CMYK" if form == "JPEG" else "RGBA", [picture] * 4)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {
        "PNG": {"compress_level": 1, "exif": exif},
        "TIFF": {"compression": "tiff_lzw", "strip_size": 2**31 - 1, "tiffinfo": {274: 6}},
        "WEBP": {"lossless": True, "quality": 0, "method": 0, "exif": exif},
        "JPEG": {"progressive": True, "exif": exif},
        "AVIF": {"speed": 10, "subsampling": "4:4:4", "exif": exif},
        "JPEG2000": {"tile_size": (256, 256)},
    }
    content = odd_images.encode(picture, form, **options[form])
    [(error, peak)] = in_a_process(tmp_path, [odd_images.Odd(form, content, None)]).values()
    assert not error
    assert peak - base <= images._MEMORY / 8


def test_every_image_is_opened_with_the_fixed_list_of_formats():
    """Otherwise a file named x.png could choose any decoder of Pillow's, such as Ghostscript."""
    opened = 0
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open"):
                opened += 1
                assert "formats" in {keyword.arg for keyword in node.keywords}, file
    assert opened >= 2
    assert not {"EPS", "PS", "WMF", "GRIB", "HDF5", "BUFR", "PDF"} & {*images.FORMATS}


def test_an_eps_named_png_calls_no_program(tmp_path, monkeypatch):
    def no_program(*_, **__):
        raise AssertionError("a program was called")

    monkeypatch.setattr(subprocess, "Popen", no_program)
    file = tmp_path / "x.png"
    file.write_bytes(next(one.content for one in odd_images.foreign() if one.name == "eps"))
    with pytest.raises(DataError, match="supported format") as error:
        decode_image(file)
    assert "Ghostscript" not in str(error.value)


def test_an_opened_eps_calls_no_program(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("called"))
    with (
        Image.open(tmp_path / "a.eps") as image,
        pytest.raises(DataError, match=r"EPS is not a supported format .* load\(\) before"),
    ):
        decode_image(image)


def test_an_opened_image_of_another_format_is_taken_once_loaded(tmp_path):
    Image.new("RGB", (5, 4), (1, 2, 3)).save(tmp_path / "a.tga")
    with Image.open(tmp_path / "a.tga") as image:
        with pytest.raises(DataError, match="TGA is not a supported format"):
            decode_image(image)
        image.load()
        assert decode_image(image)[3, 4].tolist() == [1, 2, 3]


@pytest.mark.filterwarnings("ignore:.*partly transparent")
@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16"])
def test_an_opened_tiff_is_turned_as_its_file_is(tmp_path, mode, orientation):
    shape = (6, 4, 4) if mode == "RGBA" else (6, 4)
    dtype = np.uint16 if mode == "I;16" else np.uint8
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    path = tmp_path / "a.tiff"
    Image.fromarray(pixels).save(path, tiffinfo={0x0112: orientation})
    expected = decode_image(path)
    assert expected.shape[:2] == ((4, 6) if orientation > 4 else (6, 4))
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("TIFF", mode)
        name = image.filename
        np.testing.assert_array_equal(decode_image(image), expected)
        np.testing.assert_array_equal(decode_image(image), expected)
        assert image.filename == name


def test_heic_names_a_converter():
    content = next(one.content for one in odd_images.foreign() if one.name == "heic")
    with pytest.raises(DataError, match=r"convert HEIC to JPEG.*heif-convert"):
        decode_image(content, "photo.heic")


@pytest.mark.parametrize("depth", [10, 12, 14])
def test_a_depth_below_the_files_is_said_once(depth, unwarned):
    """12 bits in 16: the file doesn't tell them from a dark 16-bit image."""
    wide = Image.fromarray(np.full((2, 3), 2**depth - 1, np.uint16))
    for form in ("PNG", "TIFF"):
        jaxsplit.errors._WARNED.clear()
        file = odd_images.encode(wide, form)
        with pytest.warns(JaxsplitWarning, match=f"depth is {depth} bits, scale it to 16"):
            assert np.all(decode_image(file) == (2**depth - 1) >> 8)
        decode_image(file)  # a second warning would be an error here


def test_a_black_16_bit_image_is_not_called_dark():
    black = Image.fromarray(np.zeros((2, 3), np.uint16))
    assert np.all(decode_image(odd_images.encode(black, "PNG")) == 0)


def test_a_file_of_many_bytes_is_not_read(tmp_path):
    """A sparse file; WebP's decoder reads all of it at first."""
    file = tmp_path / "huge.webp"
    with file.open("wb") as sparse:
        sparse.write(b"RIFF\xff\xff\xff\x7fWEBPVP8L")
        sparse.truncate(2**31)
    with pytest.raises(DataError, match="MiB"):
        decode_image(file)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(
    ("shape", "size", "resize"),
    [
        ((1, 300), (24, 20), 32),
        ((300, 2), (24, 20), None),
        ((41, 67), (8, 8), 64),
        ((9, 9), (5, 9), 9),
    ],
)
def test_the_crop_of_a_large_resize_equals_the_resize(
    monkeypatch, interpolation, shape, size, resize
):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    geometry = Preprocessing(size, 3, resize, interpolation)
    whole = geometry.apply(pixels)
    monkeypatch.setattr(preprocessing, "_MOST_SCALED", 0)
    cropped = geometry.apply(pixels)
    far = np.abs(whole.astype(int) - cropped)
    assert far.max() <= (0 if interpolation == "nearest" else 1)
    assert (far > 0).mean() < 0.05


def test_of_a_resize_without_end_only_the_crop_is_computed():
    """A 1 × 60,000 image took 16.5 GB."""
    column = np.zeros((60_000, 1, 1), np.uint8)
    column[30_000:] = 255
    for resize in (None, 256):
        result = Preprocessing((224, 224), 3, resize, "nearest").apply(column)
        assert np.all(result[:112] == 0)
        assert np.all(result[112:] == 255)


def test_a_batch_does_not_hold_all_decoded_images(tmp_path, monkeypatch):
    """A chunk of 128 photos of 12 megapixels would take 4.6 GB in each thread."""
    (tmp_path / "a").mkdir()
    for k in range(20):
        Image.new("L", (8, 8), k).save(tmp_path / "a" / f"{k:02}.png")
    decoded, most = [], 0

    def counted(file):
        nonlocal most
        decoded.append(weakref.ref(image := decode_image(file)))
        most = max(most, sum(one() is not None for one in decoded))
        return image

    monkeypatch.setattr("jaxsplit.data.folder.decode_image", counted)
    source = open_source(f"folder:{tmp_path}")
    [batch] = batches(source, Preprocessing((4, 4), 1), 20, memory_limit=0)
    assert batch["image"][:, 0, 0, 0].tolist() == list(range(20))
    assert most <= 2  # the next one, while the last is used
