"""Fitted tables follow the symbols of the images, and units need no prior."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxsplit import data
from jaxsplit.codec import Receiver, Sender
from jaxsplit.entropy import tables_from_counts
from jaxsplit.errors import ConfigError, FamilyError
from jaxsplit.evaluation.evaluate import evaluate
from jaxsplit.family import Levels, RateFamily
from jaxsplit.family.table_fitting import _fitted, fit_tables
from jaxsplit.networks.inference import batch_size
from jaxsplit.split import make_split
from jaxsplit.units import BottleneckSpec, VariableRate

BATCH_SIZE = batch_size((12, 12, 1))


@pytest.fixture(scope="module")
def imported(tiny_family):
    """The tiny family as if it had been imported: no prior, no backbone, tables of no use."""
    rates = []
    for rate in tiny_family.rates:
        params = {key: tree for key, tree in rate.variables["params"].items() if key != "prior"}
        coarse = tables_from_counts({50: 1}, rate.spec.channels, rate.tables.offsets)
        variables = {**rate.variables, "params": params}
        rates.append(dataclasses.replace(rate, lmbda=None, variables=variables, tables=coarse))
    return dataclasses.replace(tiny_family, backbone_fingerprint=None, rates=tuple(rates))


@pytest.fixture(scope="module")
def fitted(imported, tiny_backbone, tiny_test_source):
    return fit_tables(imported, tiny_backbone, tiny_test_source)


def test_fitted_tables_cost_the_entropy_of_the_symbols(
    fitted, imported, tiny_backbone, tiny_images
):
    sender = Sender(imported, tiny_backbone, BATCH_SIZE)
    for rate in fitted.rates:
        symbols = sender.symbols(tiny_images, rate.rate_id)
        _, counts = np.unique(symbols, return_counts=True)
        ideal = -np.sum(counts * np.log2(counts / counts.sum()))
        assert ideal <= rate.tables.information_bits(symbols) <= 1.01 * ideal
        assert imported[rate.rate_id].tables.information_bits(symbols) > 1.2 * ideal


def test_only_the_tables_change_and_the_family_is_bound(fitted, imported, tiny_backbone):
    assert fitted.backbone_fingerprint == tiny_backbone.fingerprint
    for new, old in zip(fitted.rates, imported.rates, strict=True):
        assert (new.rate_id, new.spec) == (old.rate_id, old.spec)
        assert new.variables is old.variables
        np.testing.assert_array_equal(new.tables.offsets, old.tables.offsets)
        assert new.tables != old.tables


def test_a_family_without_priors_sends_what_one_with_priors_sends(
    imported, tiny_family, tiny_backbone, tiny_images, tmp_path
):
    imported.save(tmp_path)
    loaded = RateFamily.load(tmp_path)
    sender, receiver = (end(loaded, tiny_backbone, 16) for end in (Sender, Receiver))
    trained = Sender(tiny_family, tiny_backbone, 16)
    for rate in loaded.rates:
        assert set(rate.variables["params"]) == {"encoder", "decoder"}
        symbols = trained.symbols(tiny_images[:20], rate.rate_id)
        np.testing.assert_array_equal(sender.symbols(tiny_images[:20], rate.rate_id), symbols)
        frames = sender.frames(symbols, rate.rate_id)
        np.testing.assert_array_equal(receiver.symbols(frames, rate.rate_id), symbols)


def test_without_a_prior_the_tables_estimate_the_bits(
    fitted, tiny_family, tiny_backbone, tiny_test_source
):
    curve = evaluate(fitted, tiny_backbone, tiny_test_source)
    trained = evaluate(tiny_family, tiny_backbone, tiny_test_source)
    assert curve.uncompressed_top1 == trained.uncompressed_top1
    for point, other in zip(curve.points, trained.points, strict=True):
        assert point.top1 == other.top1
        # Two bytes of frame and the coder's end beside the information content.
        assert 0 <= point.bytes_per_image - point.estimated_bits_per_image / 8 <= 3


def test_another_backbone_is_refused(tiny_family, other_backbone, tiny_test_source):
    with pytest.raises(FamilyError, match="give it those weights"):
        fit_tables(tiny_family, other_backbone, tiny_test_source)


def test_the_head_runs_once_for_all_rates(imported, tiny_backbone, monkeypatch):
    calls = []
    features = Sender.features
    monkeypatch.setattr(
        Sender, "features", lambda self, images: calls.append(len(images)) or features(self, images)
    )
    fit_tables(imported, tiny_backbone, data.open_source("embedded", split="test", max_samples=300))
    assert calls == [BATCH_SIZE, 300 - BATCH_SIZE]


def test_a_table_for_each_channel_costs_the_entropy_of_each_channel(
    imported, tiny_backbone, tiny_test_source, tiny_images
):
    each = fit_tables(imported, tiny_backbone, tiny_test_source, tables="channels")
    shared = fit_tables(imported, tiny_backbone, tiny_test_source)
    sender = Sender(imported, tiny_backbone, BATCH_SIZE)
    for rate in each.rates:
        symbols = sender.symbols(tiny_images, rate.rate_id)
        ideal = 0.0
        for channel in range(rate.spec.channels):
            _, counts = np.unique(symbols[..., channel], return_counts=True)
            ideal -= np.sum(counts * np.log2(counts / counts.sum()))
        assert ideal <= rate.tables.information_bits(symbols) <= 1.02 * ideal + 50
        assert rate.tables.information_bits(symbols) <= shared[
            rate.rate_id
        ].tables.information_bits(symbols)
        np.testing.assert_array_equal(rate.tables.offsets, imported[rate.rate_id].tables.offsets)


def test_tables_of_places_cost_no_more_and_cross_exactly(
    imported, tiny_backbone, tiny_test_source, tiny_images, tmp_path
):
    placed = fit_tables(imported, tiny_backbone, tiny_test_source, tables="positions")
    each = fit_tables(imported, tiny_backbone, tiny_test_source, tables="channels")
    placed.save(tmp_path)
    loaded = RateFamily.load(tmp_path)
    assert loaded.fingerprint == placed.fingerprint
    sender, receiver = (end(loaded, tiny_backbone, BATCH_SIZE) for end in (Sender, Receiver))
    for rate in loaded.rates:
        symbols = sender.symbols(tiny_images, rate.rate_id)
        assert rate.tables.table_indices is not None
        assert rate.tables.table_indices.shape == symbols.shape[1:]
        bits = rate.tables.information_bits(symbols)
        assert bits < each[rate.rate_id].tables.information_bits(symbols)
        frames = sender.frames(symbols, rate.rate_id)
        np.testing.assert_array_equal(receiver.symbols(frames, rate.rate_id), symbols)


def test_other_tables_are_refused(imported, tiny_backbone, tiny_test_source):
    with pytest.raises(ConfigError, match="shared, channels, positions"):
        fit_tables(imported, tiny_backbone, tiny_test_source, tables="pixels")


@pytest.mark.parametrize(("tables", "margin"), [("channels", 1.02), ("positions", 1.03)])
def test_tables_of_levels_fit_every_level(
    tiny_backbone, tiny_test_source, tiny_images, tables, margin
):
    """Shared between levels, they cost little more than those fitted to each level."""
    spec = VariableRate(BottleneckSpec(channels=6), (1e-4, 1e-2))
    split = make_split(tiny_backbone, "stage2.block1", spec)
    levels = Levels.of_prior(spec, jax.device_get(split.init(jax.random.key(0))), count=12)
    family = RateFamily(
        backbone=tiny_backbone.name,
        backbone_fingerprint=None,
        weights=None,
        preprocessing=tiny_backbone.preprocessing,
        cut="stage2.block1",
        rates=(levels.named(3, "low"), levels.named(9, "high")),
        levels=levels,
    )
    fitted = fit_tables(family, tiny_backbone, tiny_test_source, tables=tables)
    sender, receiver = fitted.codec(tiny_backbone, batch_size=BATCH_SIZE)
    for rate in fitted.rates:
        symbols = sender.symbols(tiny_images, rate.rate_id)
        own = _fitted(symbols, np.zeros(6, np.float32), tables).information_bits(symbols)
        assert rate.tables.information_bits(symbols) < margin * own
        prior = family[rate.rate_id].tables.information_bits(symbols)
        assert rate.tables.information_bits(symbols) < prior
        frames = sender.frames(symbols, rate.rate_id)
        np.testing.assert_array_equal(receiver.symbols(frames, rate.rate_id), symbols)
