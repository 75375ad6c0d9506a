"""Tables are validated, compare by content and give the information of symbols."""

import dataclasses

import numpy as np
import pytest

from jaxsplit.bitstream import CodingTables, LevelTables
from jaxsplit.errors import ConfigError

PLACES = (np.arange(12).reshape(3, 2, 2) % 5 == 0).astype(np.uint8)


def _arrays():
    return {
        "counts": np.array([[30000, 30000, 5536, 0], [65535, 1, 0, 0]], np.int32),
        "sizes": np.array([3, 2], np.int32),
        "minima": np.array([-1, 0], np.int32),
        "offsets": np.array([0.25, 0.0], np.float32),
    }


def _changed(**changes):
    return {**_arrays(), **changes}


def test_round_trip_through_arrays(make_tables):
    tables = make_tables([2, 5, 30])
    again = CodingTables.from_arrays(tables.to_arrays())
    assert again == tables
    assert hash(again) == hash(tables)
    assert again != "tables"
    for name, array in tables.to_arrays().items():
        np.testing.assert_array_equal(array, again.to_arrays()[name])


def test_arrays_are_read_only_copies():
    arrays = _arrays()
    tables = CodingTables(**arrays)
    arrays["counts"][0, 0] = 7
    assert tables.counts[0, 0] == 30000
    with pytest.raises(ValueError, match="read-only"):
        tables.counts[0, 0] = 7


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": np.array([[30000, 30001, 5535, 0], [65535, 1, 0, 0]], np.int32)},
        {"minima": np.array([-1, 1], np.int32)},
        {"offsets": np.array([0.25, 1e-9], np.float32)},
        {
            "counts": np.array([[30000, 35536, 0, 0], [65535, 1, 0, 0]], np.int32),
            "sizes": np.array([2, 2], np.int32),
        },
        {name: array[::-1] for name, array in _arrays().items()},
        {name: array[:1] for name, array in _arrays().items()},
    ],
)
def test_fingerprint_changes_with_every_field(changes):
    tables = CodingTables(**_arrays())
    other = CodingTables(**_changed(**changes))
    assert other.fingerprint != tables.fingerprint
    assert other != tables


def test_fingerprint_does_not_depend_on_what_changes_nothing():
    tables = CodingTables(**_arrays())
    narrow = CodingTables(**_changed(counts=_arrays()["counts"][:, :3]))
    negative_zero = CodingTables(**_changed(offsets=np.array([0.25, -0.0], np.float32)))
    fortran = CodingTables(**_changed(counts=np.asfortranarray(_arrays()["counts"])))
    assert tables == narrow == negative_zero == fortran


def test_fingerprint_is_frozen():
    # Stored in every stream and family: a change makes all of them unreadable.
    assert CodingTables(**_arrays()).fingerprint == (
        "c125c882557885592b00593c7b622e808c5b1eecac16989553b29b282986679a"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": _arrays()["counts"].astype(np.int64)}, "counts is int64, expected int32"),
        ({"offsets": np.zeros(2)}, "offsets is float64, expected float32"),
        ({"counts": np.ones(3, np.int32)}, r"counts \(3,\) and sizes \(2,\)"),
        ({"sizes": np.array([3], np.int32)}, r"counts \(2, 4\) and sizes \(1,\)"),
        ({"minima": np.zeros(3, np.int32)}, r"minima \(3,\), expected \(2,\)"),
        ({"sizes": np.array([3, 1], np.int32)}, "sizes 1 … 3, expected 2 … width 4"),
        ({"sizes": np.array([3, 5], np.int32)}, "sizes 3 … 5, expected 2 … width 4"),
        ({"sizes": np.array([2, 2], np.int32)}, "an unused one is not 0"),
        ({"sizes": np.array([4, 2], np.int32)}, "used count is below 1"),
        (
            {"counts": np.array([[30000, 30000, 5535, 0], [65535, 1, 0, 0]], np.int32)},
            "table 0 sum to 65535, expected 65536",
        ),
        ({"minima": np.array([2**31 - 1, 0], np.int32)}, "beyond the largest int32"),
        ({"offsets": np.array([np.nan, 0], np.float32)}, "not finite"),
        ({name: array[:0] for name, array in _arrays().items()}, "at least one table"),
        ({"offsets": np.zeros(3, np.float32)}, r"offsets \(3,\), expected \(2,\)"),
        ({"table_indices": PLACES.astype(np.int32)}, "table_indices is int32, expected uint8"),
        (
            {"table_indices": PLACES[0]},
            r"table indices \(2, 2\) and offsets \(2,\), expected \[h, w",
        ),
        ({"table_indices": PLACES[..., :1]}, r"table indices \(3, 2, 1\) and offsets \(2,\)"),
        ({"table_indices": PLACES[:0]}, r"table indices \(0, 2, 2\)"),
        ({"table_indices": np.zeros_like(PLACES)}, "each of the 2 tables"),
        ({"table_indices": 2 * PLACES}, "each of the 2 tables"),
    ],
)
def test_what_is_no_table_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        CodingTables(**_changed(**changes))


@pytest.mark.parametrize("arrays", [{}, {**_arrays(), "scale": np.ones(1)}])
def test_other_arrays_are_refused(arrays):
    with pytest.raises(ConfigError, match="expected"):
        CodingTables.from_arrays(arrays)


def test_information_is_the_sum_of_logarithms(make_tables, draw):
    tables = make_tables([2, 4, 30])
    symbols = draw(tables, (6, 5))
    expected = 0.0
    for channel in range(3):
        for symbol in symbols[..., channel].ravel():
            count = tables.counts[channel, symbol - tables.minima[channel]]
            expected -= np.log2(count / 65536)
    assert tables.information_bits(symbols) == pytest.approx(expected, rel=1e-12)
    by_image = sum(tables.information_bits(row) for row in symbols)
    assert by_image == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("symbol", "length", "length_count"),
    [(1, 1, 32753), (-2, 1, 32753), (2, 2, 16384), (3, 2, 16384), (4, 3, 8192), (2**31 - 1, 31, 1)],
)
def test_information_of_an_escape(symbol, length, length_count):
    # Symbols -1 and 0 are in the table of channel 0; the escape owns 5536 of 65536.
    tables = CodingTables(**{name: array[:1] for name, array in _arrays().items()})
    expected = -np.log2(5536 / 65536) - np.log2(length_count / 65536) + length
    assert tables.information_bits(np.array([[symbol]], np.int32)) == pytest.approx(expected)


@pytest.mark.parametrize("symbols", [np.zeros((2, 2)), np.zeros((2, 3), np.int32), np.int32(0)])
def test_information_of_what_does_not_fit_is_refused(symbols):
    with pytest.raises(ConfigError, match="expected int32"):
        CodingTables(**_arrays()).information_bits(symbols)


def test_places_have_their_own_information_and_fingerprint():
    plain = CodingTables(**_arrays())
    tables = CodingTables(**_changed(table_indices=PLACES))
    assert tables.fingerprint != plain.fingerprint
    other = CodingTables(**_changed(table_indices=PLACES[::-1]))
    assert other.fingerprint != tables.fingerprint
    assert CodingTables.from_arrays(tables.to_arrays()) == tables
    symbols = np.where(PLACES, 0, -1).astype(np.int32)  # the first entry everywhere
    counts = np.where(PLACES, 65535, 30000)
    expected = -np.log2(counts / 65536).sum()
    assert tables.information_bits(symbols) == pytest.approx(expected, rel=1e-12)
    two = np.stack([symbols, symbols])
    assert tables.information_bits(two) == pytest.approx(2 * expected, rel=1e-12)
    for wrong in (symbols[:2], symbols.reshape(1, 6, 2)):
        with pytest.raises(ConfigError, match=r"expected int32 \[\.\.\., 3, 2, 2\]"):
            tables.information_bits(wrong)


def test_places_fix_the_size_of_the_latent():
    tables = CodingTables(**_changed(table_indices=PLACES))
    np.testing.assert_array_equal(tables.rows(3, 2), PLACES)
    with pytest.raises(ConfigError, match="a latent of 2 × 3, expected 3 × 2"):
        tables.rows(2, 3)
    np.testing.assert_array_equal(CodingTables(**_arrays()).rows(1, 1), [[[0, 1]]])


def test_fingerprint_with_places_is_frozen():
    assert CodingTables(**_changed(table_indices=PLACES)).fingerprint == (
        "4a29efe8b3ee933efd4bb1f82093fec9b0b8c409b60b9897727acd05e4beda6a"
    )


def _of_levels(make_placed, sizes):
    placed = make_placed(sizes, (1, 6, 3))
    return dataclasses.replace(placed, offsets=np.zeros(3, np.float32))


def test_a_level_has_the_tables_of_its_row(make_placed):
    placed = _of_levels(make_placed, [2, 9, 30, 5])
    levels = LevelTables(placed)
    assert len(levels) == 6
    for level in range(6):
        found, rows = levels.level(level), placed.table_indices[0, level]
        assert found.channels == 3
        for channel, row in enumerate(rows):
            size = placed.sizes[row]
            assert found.sizes[channel] == size
            np.testing.assert_array_equal(found.counts[channel, :size], placed.counts[row, :size])
        np.testing.assert_array_equal(found.minima, placed.minima[rows])
        np.testing.assert_array_equal(found.offsets, placed.offsets)


def test_tables_of_levels_pass_through_smaller_arrays(make_placed):
    levels = LevelTables(_of_levels(make_placed, [2, 9, 300, 5]))
    arrays = levels.to_arrays()
    assert LevelTables.from_arrays(arrays).fingerprint == levels.fingerprint
    sizes = [sum(x.nbytes for x in some.values()) for some in (arrays, levels.shared.to_arrays())]
    assert sizes[0] < sizes[1] / 4


def test_classes_of_positions_select_tables(make_placed):
    shared = _of_levels(make_placed, [2, 9, 30, 5])
    classes = (np.arange(40) % 3).astype(np.uint8).reshape(2, 4, 5)
    levels = LevelTables(shared, classes)
    found = levels.level(4)
    assert (found.channels, found.table_indices.shape) == (5, (2, 4, 5))
    plain = LevelTables(shared)
    for one in range(3):
        np.testing.assert_array_equal(
            found.counts[found.table_indices[classes == one][0]],
            plain.level(4).counts[one],
        )
    assert levels.fingerprint != plain.fingerprint
    again = LevelTables.from_arrays(levels.to_arrays())
    assert again.fingerprint == levels.fingerprint
    np.testing.assert_array_equal(again.classes, classes)


@pytest.mark.parametrize(
    "classes",
    [
        np.zeros((2, 4, 5), np.uint8),
        np.full((2, 4, 5), 3, np.uint8),
        np.arange(3, dtype=np.uint8),
        np.arange(3).reshape(1, 1, 3),
    ],
)
def test_other_classes_are_refused(make_placed, classes):
    with pytest.raises(ConfigError, match="classes"):
        LevelTables(_of_levels(make_placed, [2, 9, 30, 5]), classes)


@pytest.mark.parametrize(
    "changes",
    [
        {"offsets": np.full(1, 0.5, np.float32)},
        {"counts": np.array([65535, 1, 7], np.uint16)},
        {"counts": np.array([[65535, 1]], np.int32)},
        {"sizes": np.array([2, 2**30], np.int32)},
        {"sizes": np.array([[2]], np.int32)},
        {"sizes": np.array([2.0])},
        {"sizes": np.array([], np.int32)},
        {"sizes": np.array([-2, 4], np.int32)},
        {"places": np.zeros((2, 3, 1), np.uint8)},
    ],
)
def test_damaged_tables_of_levels_are_refused(changes):
    arrays = {
        "counts": np.array([65535, 1], np.uint16),
        "sizes": np.array([2], np.int32),
        "minima": np.zeros(1, np.int32),
        "offsets": np.zeros(1, np.float32),
        "places": np.zeros((1, 3, 1), np.uint8),
    }
    assert len(LevelTables.from_arrays(arrays)) == 3
    with pytest.raises(ConfigError, match="coding tables"):
        LevelTables.from_arrays({**arrays, **changes})
    with pytest.raises(ConfigError, match="coding tables"):
        LevelTables.from_arrays({name: x for name, x in arrays.items() if name not in changes})
