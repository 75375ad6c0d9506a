"""Class tables of segmentation data sets: names and colours, by the indices of their masks."""

from __future__ import annotations

from typing import NamedTuple

#: Red, green and blue, each 0 … 255.
Colour = tuple[int, int, int]


class ClassTable(NamedTuple):
    """Names and colours of classes, in the order of their indices; `ignored` is an index too."""

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    ignored: int = 255


def default_colours(count: int) -> tuple[Colour, ...]:
    """Returns the colours of Pascal VOC's development kit: distinct, the first one black.

    Args:
      count: of classes, at most 256.

    Returns:
      A colour for each index. Bits 0, 1 and 2 of an index are the highest bits of red, green and
      blue, the next three bits the next lower ones.

    >>> default_colours(3)
    ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    """
    return tuple(_colour(index) for index in range(count))


def _colour(index: int) -> Colour:
    red, green, blue = (
        sum((index >> (3 * level + channel) & 1) << (7 - level) for level in range(3))
        for channel in range(3)
    )
    return red, green, blue


def _table(text: str, colours: tuple[Colour, ...] = (), ignored: int = 255) -> ClassTable:
    names = tuple(text.split(", "))
    return ClassTable(names, colours or default_colours(len(names)), ignored)


#: Table by its name, for `Segmentation.of`.
CLASS_TABLES = {
    "pascal_voc": _table(
        "background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, "
        "dining table, dog, horse, motorbike, person, potted plant, sheep, sofa, train, tv monitor"
    ),
    "camvid": _table(
        "sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist",
        (
            *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222)),
            *((128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0)),
            (0, 128, 192),
        ),
        ignored=11,
    ),
    "cityscapes": _table(
        "road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, "
        "terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle",
        (
            *((128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153)),
            *((153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152)),
            *((70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70)),
            *((0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)),
        ),
    ),
}
