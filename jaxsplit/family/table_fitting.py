"""Coding tables fitted to the symbols of given images."""

from collections.abc import Mapping
from dataclasses import replace

import jax
import numpy as np

from jaxsplit import data, networks
from jaxsplit._moved import renamed_argument
from jaxsplit.bitstream import CodingTables
from jaxsplit.codec import Sender
from jaxsplit.entropy import LevelHistograms, stack_tables, tables_by_position, tables_from_counts
from jaxsplit.errors import ConfigError, DataError, choices
from jaxsplit.family import Levels, RateFamily
from jaxsplit.io.log import Log, no_log
from jaxsplit.networks.inference import batch_size
from jaxsplit.tasks.task import reader_of

#: How tables are shared: one for all, one per channel, or by spatial position.
SHARINGS = ("shared", "channels", "positions")


@renamed_argument("tables=places", "tables=positions")
@renamed_argument("tell", "log")
def fit_tables(
    family: RateFamily,
    backbone: networks.Backbone,
    source: data.Source,
    *,
    tables: str = "shared",
    log: Log = no_log,
) -> RateFamily:
    """Fits the coding tables of a family to the symbols of images; units and offsets don't change.

    Useful for units that were trained on other images or on another network's features.

    Args:
      family: the rates.
      backbone: what the family runs on.
      source: images; labels are not used.
      tables: "shared", one table for all channels of a rate, as in the published units; "channels",
        one for each channel; "positions", at most 64, shared by positions of like statistics. All
        levels of a variable-rate unit together have at most 256.
      log: log callback, called with the progress in images.

    Returns:
      The family with new tables, bound to the backbone, without measured figures.

    Raises:
      ConfigError: unknown `tables`.
      DataError: there is no image.
      FamilyError: the family belongs to another backbone.
    """
    log(f"reading {len(source)} images")
    images, _ = data.load_arrays(source, backbone.preprocessing, reader_of(backbone.task, source))
    if not len(images):
        raise DataError(f"{source.name} has no images to fit tables to")
    size = batch_size(backbone.preprocessing.input_shape, len(images))
    sender = Sender(family, backbone, size)
    if family.levels is not None:
        return _fit_levels(family.bind(backbone), family.levels, sender, images, tables, log)
    shapes = {rate.rate_id: rate.shape for rate in sender.header.rates}
    symbols = {name: np.empty((len(images), *shapes[name]), np.int32) for name in shapes}
    # Batch by batch: the head runs once for all rates, and its features are not kept.
    for start in range(0, len(images), size):
        log(f"fitting tables at {family.cut}", start, len(images))
        features = sender.features(images[start : start + size])
        for name, found in symbols.items():
            found[start : start + size] = sender.quantize(features, name)
    return with_tables_of(family.bind(backbone), symbols, backbone=backbone, tables=tables)


@renamed_argument("tables=places", "tables=positions")
def with_tables_of(
    family: RateFamily,
    symbols: Mapping[str, np.ndarray],
    *,
    backbone: networks.Backbone | None = None,
    tables: str = "shared",
) -> RateFamily:
    """Fits the coding tables of a family to given symbols, as `fit_tables` does.

    Args:
      family, tables: as in `fit_tables`.
      symbols: rate id → int32 [N, h, w, C], see `Sender.symbols`.
      backbone: what the family runs on; needed where several arrays cross the cut.
    """
    _check_sharing(tables)
    if family.levels is not None:
        raise ConfigError("the symbols of all levels are needed: use fit_tables")
    rates = []
    for rate in family.rates:
        seen = symbols[rate.rate_id]
        if backbone is None:
            found = _fitted(seen, rate.tables.offsets, tables)
        else:
            split = family.split(backbone, rate.rate_id)
            parts = split.separate(seen), split.stored_offsets(rate.tables)
            pairs = zip(*map(jax.tree.leaves, parts), strict=True)
            found = split.join_tables([_fitted(own, offsets, tables) for own, offsets in pairs])
        rates.append(replace(rate, tables=found))
    return family.with_rates(rates)


def _fit_levels(
    family: RateFamily, levels: Levels, sender: Sender, images: np.ndarray, tables: str, log: Log
) -> RateFamily:
    _check_sharing(tables)
    parts = []
    for start in range(0, len(images), sender.batch_size):
        log(f"fitting tables at {family.cut}", start, len(images))
        parts.append(sender.latents(images[start : start + sender.batch_size]))
    latents = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    highest = sender.level_symbols(latents, len(levels) - 1)
    shape, classes = highest.shape[1:], highest.shape[-1]
    if tables == "positions":
        middle = tables_by_position(sender.level_symbols(latents, len(levels) // 2))
        classes = middle.table_indices
    elif tables == "shared":
        classes = np.zeros(shape, np.uint8)
    seen = LevelHistograms(len(levels), classes, int(np.abs(highest).max()))
    for level in range(len(levels)):
        seen.add(level, sender.level_symbols(latents, level))
    return family.with_levels(replace(levels, tables=seen.tables()))


def _check_sharing(tables: str) -> None:
    if tables not in SHARINGS:
        raise ConfigError(f"tables are {tables!r}; expected one of {choices(tables, SHARINGS)}")


def _fitted(symbols: np.ndarray, offsets: np.ndarray, tables: str) -> CodingTables:
    channels = symbols.shape[-1]
    if tables == "positions":
        if symbols.ndim != 4:
            symbols = symbols.reshape(len(symbols), 1, -1, channels)
        return tables_by_position(symbols, offsets)
    width = channels if tables == "shared" else 1  # channels of one table
    fitted = []
    for group in (slice(start, start + width) for start in range(0, channels, width)):
        values, counts = np.unique(symbols[..., group], return_counts=True)
        histogram = dict(zip(values.tolist(), counts.tolist(), strict=True))
        fitted.append(tables_from_counts(histogram, width, offsets[group]))
    return stack_tables(fitted)
