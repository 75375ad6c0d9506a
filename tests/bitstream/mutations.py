"""Thousands of damaged containers and frames, and the failures that a reader must not have.

    python tests/bitstream/mutations.py 200000 [SEED]

Each input is made by a few seeded changes of a valid container or frame: flipped, replaced,
inserted, removed, repeated and exchanged bytes, truncation, appended bytes, varints up to 2**64,
lying shapes and lengths; containers may begin with their frames in another order, some of them
twice. Half of the containers get a right checksum again, so that what lies behind it is reached.
Reading one may end in a `BitstreamError` or in symbols of the right shape and type; it may not
take a second of the processor, nor 64 MiB.
"""

import contextlib
import dataclasses
import io
import itertools
import sys
import time
import tracemalloc
import zlib

import numpy as np

from jaxsplit.bitstream import (
    CodingTables,
    EntropyCoder,
    Frame,
    Header,
    RateInfo,
    Reader,
    pack_frame,
    read_container,
    unpack_frame,
    write_container,
)
from jaxsplit.bitstream.frames import pack_varint
from jaxsplit.bitstream.header import VERSION
from jaxsplit.errors import BitstreamError

MOST_SECONDS = 1.0
MOST_BYTES = 64 << 20
FAMILY = "00112233445566778899aabbccddeeff" * 2
SHAPES = ((4, 4, 12), (7, 5, 4), (1, 1, 1))
# Forged varints around the limits of the format, of 32 and of 64 bits.
VARINTS = [0, 1, 127, 128, 2**14, 2**22 + 1, 2**28 + 2, 2**32, 2**35 + 5, 2**63, 2**64 - 1]


# Inputs that once revealed a bug; the tests read each of them again.
FAULTS = [
    # A rate id with a line break put that into the error's message.
    bytes.fromhex(
        "4a53504c020000118071f39eb722b724aabbccddeeff1c1c010306726174650a1c1e20308701bf2233445566"
        "778899ee96fa4cf704040c067261746560315d3be6f4ce11c901a81b4835553a79f10705040672617465203289"
        "cb6bc656affdba088b54bca2171a7901010100b97e2619"
    ),
]


@dataclasses.dataclass
class Outcome:
    """Counts of outcomes, and the worst cases."""

    refused: int = 0
    decoded: int = 0
    seconds: float = 0.0
    bytes: int = 0


def make_coders(seed=0):
    """Coders of each shape; the second has tables per position, the last a probable escape."""
    rng = np.random.default_rng(seed)
    coders = []
    for index, (height, width, channels) in enumerate(SHAPES[:-1]):
        counts = np.ones((channels, 9), np.int32)
        for row in counts:
            row[:8] += rng.multinomial(65536 - 9, rng.dirichlet(np.full(8, 0.7)))
        counts[channels // 2 :] = counts[0]  # shared
        minima = rng.integers(-5, 1, channels).astype(np.int32)
        sizes = np.full(channels, 9, np.int32)
        places = None
        if index == 1:
            turns = rng.permutation(height * width * channels) % channels
            places = turns.astype(np.uint8).reshape(height, width, channels)
        coders.append(CodingTables(counts, sizes, minima, np.zeros(channels, np.float32), places))
    counts, sizes = np.array([[1, 65535]], np.int32), np.array([2], np.int32)
    coders.append(CodingTables(counts, sizes, np.array([7], np.int32), np.zeros(1, np.float32)))
    return [EntropyCoder(tables) for tables in coders]


def make_seeds(coders):
    """Returns valid containers, and valid single frames."""
    rng = np.random.default_rng(1)
    frames = []
    for index, (coder, shape) in enumerate(zip(coders, SHAPES, strict=True)):
        for scale in (0, 2, 1e3, 2e9):
            symbols = (rng.uniform(-1, 1, shape) * scale).astype(np.int32)
            frames.append(Frame(index, coder.encode(symbols)))
    rates = [
        RateInfo(f"rate {index}", coder.tables.fingerprint, shape)
        for index, (coder, shape) in enumerate(zip(coders, SHAPES, strict=True))
    ]
    header = Header(FAMILY, tuple(rates), (28, 28, 1))
    containers = [
        write_container(header, some, frame_checks=checks)
        for some in ([], frames[:3], frames)
        for checks in (False, True)
    ]
    levels = dataclasses.replace(rates[0], levels=9)
    of_levels = [dataclasses.replace(one, rate_index=6) for one in frames[:4]]
    containers.append(write_container(Header(FAMILY, (levels,)), of_levels, frame_checks=True))
    sized = [dataclasses.replace(one, size=(30 + i, 2**i)) for i, one in enumerate(frames)]
    original = dataclasses.replace(header, original=(30, 1))
    containers += [write_container(original, sized, frame_checks=checks) for checks in (0, 1)]
    # Versions 1, without flags and image, and 2; both write a frame's number as a varint.
    head = containers[0][: containers[0].index(b"rate 0") - 2]
    rest = containers[0][len(head) : -5]
    body = b"".join(
        pack_varint(1 + len(f.payload) * len(SHAPES) + f.rate_index) + f.payload for f in frames
    )
    containers.append(_sealed(b"JSPL\1" + head[6:22] + rest + body + b"\0"))
    containers.append(_sealed(b"JSPL\2\0" + head[6:] + rest + body + b"\0"))
    return containers, [pack_frame(f.payload, f.rate_index, len(SHAPES)) for f in frames]


def mutate(data, rng):
    """Applies one to four changes."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(len(data) + 1))
        size = int(rng.integers(1, 9))
        other = int(rng.integers(len(data) + 1))
        kind = rng.integers(9)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.integers(8)
        elif kind == 1 and data:
            data[at % len(data)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + size]
        elif kind == 4:
            data[at:at] = rng.bytes(size)
        elif kind == 5:
            data[at:at] = data[other : other + 4 * size]
        elif kind == 6:
            data[at : at + size], data[other : other + size] = (
                data[other : other + size],
                data[at : at + size],
            )
        elif kind == 7:
            data[at : at + int(rng.integers(3))] = _varint(int(rng.choice(len(VARINTS))))
        else:
            data += rng.bytes(int(rng.integers(1, 300)))
    return bytes(data)


def read(data, coders, whole):
    """Reads a container or one frame; returns True if all symbols decode to the right shape."""
    try:
        if whole:
            # Also as a stream, which may end after any frame.
            with contextlib.suppress(BitstreamError):
                list(Reader(io.BytesIO(data), stream=True))
            header, frames = read_container(data)
            rates = [info.shape for info in header.rates for _ in range(info.levels)]
        else:
            frames, rates = [unpack_frame(data, len(SHAPES))[0]], SHAPES
        for frame in frames:
            coder, shape = coders[frame.rate_index % len(coders)], rates[frame.rate_index]
            if shape[2] != coder.tables.channels:
                continue  # a receiver has refused this header
            # A receiver decodes to its own family's shape, not to the header's.
            own = SHAPES[frame.rate_index % len(coders)]
            symbols = coder.decode(frame.payload, own[:2])
            assert symbols.shape == own
            assert symbols.dtype == np.int32
    except BitstreamError as error:
        _check_message(str(error))
        return False
    return True


def _check_message(message):
    assert message.isprintable(), message
    assert len(message) < 500


def run(count, seed, measure_every=20):
    """Reads `count` damaged inputs and measures the memory of every `measure_every`-th."""
    rng = np.random.default_rng(seed)
    coders = make_coders()
    containers, frames = make_seeds(coders)
    for data in containers:
        assert read(data, coders, True)
    outcome = Outcome()
    for number in range(count):
        whole = bool(number % 3)
        seeds = containers if whole else frames
        data = seeds[rng.integers(len(seeds))]
        if whole and rng.integers(4) == 0:
            data = _shuffled(data, rng)
        data = mutate(data, rng)
        if whole and rng.integers(2):
            data = _sealed(data[:-4])
        measured = number % measure_every == 0
        if measured:
            tracemalloc.start()
        started = time.thread_time()
        try:
            decoded = read(data, coders, whole)
        except Exception:
            print(f"input {number} of seed {seed}, whole={whole}: {data.hex()}")
            raise
        seconds = time.thread_time() - started
        if measured:
            outcome.bytes = max(outcome.bytes, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        outcome.seconds = max(outcome.seconds, seconds)
        outcome.decoded += decoded
        outcome.refused += not decoded
        assert seconds < MOST_SECONDS, (number, seconds, data.hex())
        assert outcome.bytes < MOST_BYTES, (number, outcome.bytes, data.hex())
    return outcome


def _shuffled(data, rng):
    """Reorders the frames of a container; each keeps its check."""
    header, frames = read_container(data)
    checks = bool(data[4] > 1 and data[5] & 1)
    start = len(write_container(header, [])) - 5
    packed = [data[:start]]
    ends = [start]
    for count in range(1, len(frames) + 1):
        ends.append(len(write_container(header, frames[:count], frame_checks=checks)) - 5)
    if data[4] == VERSION and frames:
        pieces = [data[one:end] for one, end in itertools.pairwise(ends)]
        packed += [pieces[i] for i in rng.integers(len(pieces), size=len(pieces))]
        return _sealed(b"".join([*packed, b"\0"]))
    return data


def _sealed(body):
    return body + zlib.crc32(body).to_bytes(4, "little")


def _varint(index):
    value, data = VARINTS[index], bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(data) + bytes([value])


if __name__ == "__main__":
    print(run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
