"""Golden streams of every format version decode.

`golden_streams.json` is never written again. A new version adds its stream; a stream that no
longer decodes means that stored files are lost.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from jaxsplit.bitstream import (
    CodingTables,
    EntropyCoder,
    Frame,
    Header,
    LevelTables,
    read_container,
    write_container,
)
from jaxsplit.bitstream.header import VERSION

pytestmark = pytest.mark.optimized

GOLDEN = json.loads(Path(__file__).with_name("golden_streams.json").read_text())
NAMES = tuple(GOLDEN["streams"])
PLACED = Path(__file__).with_name("golden_places.json")
LEVELS = Path(__file__).with_name("golden_levels.json")
SIZES = Path(__file__).with_name("golden_sizes.json")


def _tables(arrays):
    kinds = {"offsets": np.float32, "places": np.uint8}
    return CodingTables.from_arrays(
        {name: np.array(array, kinds.get(name, np.int32)) for name, array in arrays.items()}
    )


def test_the_streams_are_those_that_were_frozen():
    """Only adding a format version may change this digest."""
    content = Path(__file__).with_name("golden_streams.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == (
        "9469386b83f7f6ca0db18ce209a6d727017b1dc5400d69ea72634d52b3fd8005"
    )


def test_there_is_a_stream_of_every_version():
    streams = [*GOLDEN["streams"].values(), json.loads(LEVELS.read_text())["stream"]]
    versions = {bytes.fromhex(stream)[4] for stream in streams}
    assert versions == set(range(1, VERSION + 1))


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_stream_decodes_to_the_symbols_beside_it(name):
    header, frames = read_container(bytes.fromhex(GOLDEN["streams"][name]))
    assert header.family == "00112233445566778899aabbccddeeff"
    assert header.image == (None if name == "version 1" else (28, 300, 3))
    assert [rate.rate_id for rate in header.rates] == ["low", "größer"]
    # The longest latent was added with version 3, whose labels differ.
    latents = [one for one in GOLDEN["latents"] if one.get("since", 1) <= int(name[8])]
    for frame, latent in zip(frames, latents, strict=True):
        tables = _tables(GOLDEN["tables"][frame.rate_index])
        info = header.rates[frame.rate_index]
        assert frame.rate_index == latent["rate"]
        assert info.tables == tables.fingerprint[:32]
        symbols = EntropyCoder(tables).decode(frame.payload, info.shape[:2])
        assert symbols.shape == info.shape
        assert symbols.tolist() == latent["symbols"]


def test_the_present_version_writes_the_same_bytes():
    tables = [_tables(arrays) for arrays in GOLDEN["tables"]]
    frames = [
        Frame(
            latent["rate"],
            EntropyCoder(tables[latent["rate"]]).encode(np.array(latent["symbols"], np.int32)),
        )
        for latent in GOLDEN["latents"]
    ]
    for name in NAMES[-2:]:
        stream = bytes.fromhex(GOLDEN["streams"][name])
        header = read_container(stream)[0]
        assert isinstance(header, Header)
        assert write_container(header, frames, frame_checks="checks" in name) == stream


def test_a_stored_stream_of_tables_by_place_is_read_and_written_as_it_was():
    content = PLACED.read_bytes()
    assert hashlib.sha256(content).hexdigest() == (
        "5f3ba08c4328b9fd6cef7f324006c917a6459006b1ccfadd98a1fb3445248d35"
    )
    golden = json.loads(content)
    stream, tables = bytes.fromhex(golden["stream"]), _tables(golden["tables"])
    header, frames = read_container(stream)
    (info,) = header.rates
    assert info.tables == tables.fingerprint[:32]
    coder = EntropyCoder(tables)
    latents = [coder.decode(frame.payload, info.shape[:2]) for frame in frames]
    assert [latent.tolist() for latent in latents] == golden["latents"]
    again = [Frame(0, coder.encode(latent)) for latent in latents]
    assert write_container(header, again, frame_checks=True) == stream


def test_a_stored_stream_of_levels_is_read_and_written_as_it_was():
    content = LEVELS.read_bytes()
    assert hashlib.sha256(content).hexdigest() == (
        "5407d4327285f9a708db2d3e4898de8b5e3b303484ca66e1825bd8f8d1b09cac"
    )
    golden = json.loads(content)
    stream, levels = bytes.fromhex(golden["stream"]), LevelTables(_tables(golden["tables"]))
    header, frames = read_container(stream)
    (info,) = header.rates
    assert (info.tables, info.levels) == (levels.fingerprint[:32], len(levels))
    again = []
    for frame, latent in zip(frames, golden["latents"], strict=True):
        coder = EntropyCoder(levels.level(frame.rate_index))
        symbols = coder.decode(frame.payload, info.shape[:2])
        assert symbols.tolist() == latent["symbols"]
        assert frame.rate_index == latent["level"]
        again.append(Frame(frame.rate_index, coder.encode(symbols)))
    assert write_container(header, again, frame_checks=True) == stream


def test_a_stored_stream_of_images_with_sizes_is_read_and_written_as_it_was():
    content = SIZES.read_bytes()
    assert hashlib.sha256(content).hexdigest() == (
        "a7f9758222e861ac40f619a1fa2c3156f4b8a98127941482e77f56367fcf77f9"
    )
    golden = json.loads(content)
    stream, coder = bytes.fromhex(golden["stream"]), EntropyCoder(_tables(golden["tables"]))
    header, frames = read_container(stream)
    assert header.original == (360, 480)
    assert [list(frame.size) for frame in frames] == golden["sizes"]
    latents = [coder.decode(frame.payload, (2, 3)) for frame in frames]
    assert [latent.tolist() for latent in latents] == golden["latents"]
    again = [Frame(0, coder.encode(x), f.size) for x, f in zip(latents, frames, strict=True)]
    assert write_container(header, again, frame_checks=True) == stream
