"""Coding tables fitted to what given images really yield."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxsplit import data, models
from jaxsplit.codec import Sender
from jaxsplit.entropy import tables_from_counts
from jaxsplit.errors import DataError
from jaxsplit.family import RateFamily
from jaxsplit.models.inference import batch_size


def fit_tables(family: RateFamily, backbone: models.Backbone, source: data.Source) -> RateFamily:
    """The family with tables that follow the symbols of these images; the units stay as they are.

    A rate's channels share one table, which rounds where the old one did. For units that were
    trained elsewhere, whose tables follow other images or another network's features.

    Args:
      family: the rates.
      backbone: what the family runs on; the result is bound to it.
      source: images, labelled or not: their classes don't matter.

    Raises:
      DataError: there is no image.
      FamilyError: the family belongs to another backbone.
    """
    images, _ = data.load_arrays(source, backbone.preprocessing)
    if not len(images):
        raise DataError(f"{source.name} holds no image to fit tables to")
    size = batch_size(backbone.preprocessing.input_shape)
    sender = Sender(family, backbone, size)
    seen: dict[str, list[np.ndarray]] = {rate.rate_id: [] for rate in family.rates}
    # Batch by batch, so that the head runs once for all rates and its features need not be kept.
    for start in range(0, len(images), size):
        features = sender.features(images[start : start + size])
        for rate_id, symbols in seen.items():
            symbols.append(sender.quantise(features, rate_id))
    return with_tables_of(
        sender.family, {rate_id: np.concatenate(symbols) for rate_id, symbols in seen.items()}
    )


def with_tables_of(family: RateFamily, symbols: Mapping[str, np.ndarray]) -> RateFamily:
    """The family with tables that follow given symbols, one table for all channels of a rate.

    Args:
      family: the rates; tables go on rounding where they did.
      symbols: rate id → int32 [..., C].
    """
    rates = []
    for rate in family.rates:
        values, counts = np.unique(symbols[rate.rate_id], return_counts=True)
        histogram = dict(zip(values.tolist(), counts.tolist(), strict=True))
        tables = tables_from_counts(histogram, rate.spec.channels, rate.tables.offsets)
        rates.append(dataclasses.replace(rate, tables=tables, measured={}))
    return dataclasses.replace(family, rates=tuple(rates))
