"""A decoder of `.jspl` written from jaxsplit/bitstream/FORMAT.md alone.

Plain Python integers; no numpy, no library, nothing of jaxsplit. Slow, and no model for error
messages: a container that breaks the format ends in an `assert`.
"""


def read_container(data):
    """bytes → (family, image, rates, frames).

    Rates are (id, table fingerprint, (h, w, C)), one for each level; frames are (rate index,
    payload), and with flag 2 the image's (H, W).
    """
    assert data[:4] == b"JSPL"
    version, at = data[4], 5
    assert version in (1, 2, 3, 4)
    flags = 0
    if version > 1:
        flags, at = data[5], 6
        assert flags in (0, 1, 2, 3)
    family, at = data[at : at + 16].hex(), at + 16
    image = None
    if version > 1:
        image, at = _varints(data, at, 3)
    if flags & 2:
        original, at = _varints(data, at, 2)
    entries, at = data[at], at + 1
    rates = []
    for _ in range(entries):
        size, at = data[at], at + 1
        name, at = data[at : at + size].decode(), at + size
        tables, at = data[at : at + 16].hex(), at + 16
        shape, at = _varints(data, at, 3)
        levels = 1
        if version > 3:
            levels, at = data[at], at + 1
        rates += [(name, tables, shape)] * levels
    n_rates = len(rates)
    frames = []
    while data[at]:
        start = at
        value, at = _label(data, at, version) if version > 2 else _varint(data, at)
        length, rate = divmod(value - 1, n_rates)
        payload, at = data[at : at + length], at + length
        assert len(payload) == length
        if flags & 1:
            check = _crc32(len(frames).to_bytes(4, "little") + data[start:at])
            assert data[at : at + 4] == check.to_bytes(4, "little")
            at += 4
        if flags & 2:
            frames.append((rate, *_sized(payload, original)))
        else:
            frames.append((rate, payload))
    assert data[at + 1 :] == _crc32(data[: at + 1]).to_bytes(4, "little")
    return family, image, rates, frames


def decode_payload(payload, tables, height, width):
    """A payload → symbols[row][column][channel].

    Args:
      payload: bytes of one frame.
      tables: for every channel (minimum, counts).
      height, width: of the latent.
    """
    coder = _Decoder(payload)
    groups = []  # of channels with identical counts, by their first channel
    for channel, (_, counts) in enumerate(tables):
        for group in groups:
            if tables[group[0]][1] == counts:
                group.append(channel)
                break
        else:
            groups.append([channel])
    symbols = [[[None] * len(tables) for _ in range(width)] for _ in range(height)]
    escapes = []
    for channel in (channel for group in groups for channel in group):
        minimum, counts = tables[channel]
        for pixel in range(height * width):
            place = symbols[pixel // width][pixel % width]
            entry = coder.entry(counts)
            if entry == len(counts) - 1:
                escapes.append((place, channel))
            else:
                place[channel] = minimum + entry
    length_counts = [32753] + [16384 >> k for k in range(15)] + [1] * 16
    lengths = [coder.entry(length_counts) + 1 for _ in escapes]
    pieces = [coder.equal(min(length, 16)) for length in lengths]
    for index, length in enumerate(lengths):
        if length > 16:
            pieces[index] += coder.equal(length - 16) << 16
    for (place, channel), length, piece in zip(escapes, lengths, pieces, strict=True):
        minimum, counts = tables[channel]
        steps = 2 ** (length - 1) + (piece >> 1)
        symbol = minimum - steps if piece & 1 else minimum + len(counts) - 2 + steps
        assert -(2**31) <= symbol < 2**31
        place[channel] = symbol
    return symbols


class _Decoder:
    def __init__(self, payload):
        assert payload[-1:] != b"\0"
        self.data, self.at = payload, 0
        self.difference = self._word() << 32 | self._word()
        self.range = 2**64 - 1

    def entry(self, counts):
        """Decodes the next entry under counts with sum 65536."""
        scale, quantile = self._quantile()
        start = 0
        for entry, count in enumerate(counts):
            if quantile < start + 256 * count:
                self._take(scale, start, 256 * count)
                return entry
            start += 256 * count
        raise AssertionError("beyond the last interval")

    def equal(self, bits):
        """Decodes the next of 2**bits equiprobable values."""
        scale, quantile = self._quantile()
        size = 2 ** (24 - bits)
        self._take(scale, quantile // size * size, size)
        return quantile // size

    def _quantile(self):
        scale = self.range >> 24
        quantile = self.difference // scale
        assert quantile < 2**24
        return scale, quantile

    def _take(self, scale, start, width):
        self.difference -= scale * start
        self.range = scale * width
        if self.range < 2**32:
            self.difference = self.difference << 32 | self._word()
            self.range <<= 32

    def _word(self):
        word = self.data[self.at : self.at + 4]
        self.at += 4
        return int.from_bytes(word + bytes(4 - len(word)), "big")


def _sized(payload, original):
    if not payload or payload[-1]:
        return payload, original
    size, at = _varints(payload[-2::-1], 0, 2)
    assert all(1 <= side <= 2**20 for side in size)
    return payload[: len(payload) - 1 - at], size


def _label(data, at, version):
    three, lowest = (0xF8, 30848) if version == 3 else (0xC0, 16512)
    first = data[at]
    if first < 128:
        return first, at + 1
    if first < three:
        return int.from_bytes(data[at : at + 2], "big") - 0x8000 + 128, at + 2
    if first < 0xFF:
        return int.from_bytes(data[at : at + 3], "big") - (three << 16) + lowest, at + 3
    return int.from_bytes(data[at + 1 : at + 6], "big"), at + 6


def _varint(data, at):
    value, shift = 0, 0
    while True:
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _varints(data, at, count):
    values = []
    for _ in range(count):
        value, at = _varint(data, at)
        values.append(value)
    return tuple(values), at


def _crc32(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
