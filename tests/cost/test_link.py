"""Times on a link, against sums by hand."""

import json
import math

import pytest

from jaxsplit import networks
from jaxsplit.cost import Link, best, make_plan
from jaxsplit.cost.link import compare_latencies, extremes, option, plan_to_dict
from jaxsplit.errors import ConfigError


@pytest.fixture(scope="module")
def plan():
    module = networks.create("resnet8_small", 10)
    return make_plan(module, (28, 28, 1), channels=(4, 16), strides=(4,))


def test_milliseconds_by_hand():
    timing = Link(2, 10, 5, 30).time(4_000_000, 625, 50_000_000)
    assert timing.device_ms == pytest.approx(2)
    assert timing.transfer_ms == pytest.approx(30 + 1)
    assert timing.server_ms == pytest.approx(5)
    assert timing.total_ms == pytest.approx(38)
    assert Link(2, 10, 5, 30).time(1, None, 0).transfer_ms == 0


def test_a_cut_pays_for_its_unit_on_both_sides(plan):
    link, cut = Link(1, 4, 8), plan["stage1.block1"]
    unit = cut.units[0]
    timing = option(link, cut, unit, 100).timing
    assert timing.device_ms == pytest.approx((cut.device_macs + unit.encoder_macs) / 1e6)
    assert timing.server_ms == pytest.approx((cut.server_macs + unit.decoder_macs) / 4e6)
    assert timing.transfer_ms == pytest.approx(0.1)
    alone, sent = extremes(link, plan, 784)
    assert alone.timing.total_ms == pytest.approx(plan.macs / 1e6)
    assert sent.timing.total_ms == pytest.approx(0.784 + plan.macs / 4e6)


def fastest(plan, *link, image_bytes=784):
    return compare_latencies(plan, Link(*link), 196, 2.0, image_bytes).fastest


def test_limits_have_their_winners(plan):
    assert fastest(plan, 1e6, 1e-3, 1e-6).name == "all on the device"
    assert fastest(plan, 1e-6, 1e6, 1e6).name == "image sent"
    # A slow device and a slow link: the fewest bytes, at the first cut that has them.
    found = fastest(plan, 1e-3, 1e3, 1e-3)
    assert found.cut == plan.cuts[0].cut
    assert found.sent_bytes < 784


def test_the_comparison_is_one_json_document(plan):
    comparison = compare_latencies(plan, Link(1, 10, 1, 5), 196, 2.0, 500)
    values = json.loads(json.dumps(plan_to_dict(plan, comparison, 196)))
    assert [cut["cut"] for cut in values["cuts"]] == [cut.cut for cut in plan.cuts]
    for cut in values["cuts"]:
        assert cut["device_macs"] + cut["server_macs"] == values["macs"]
        assert cut["device_macs_share"] + cut["server_macs_share"] == pytest.approx(1)
        assert cut["feature_bytes"] == 4 * math.prod(cut["feature_shape"])
        assert {"device_params", "server_params"} <= set(cut)
        assert "device_peak_bytes" in cut
        for unit in cut["units"]:
            assert unit["latent_symbols"] == math.prod(unit["latent_shape"])
            parts = [unit["time"][f"{part}_ms"] for part in ("device", "transfer", "server")]
            assert unit["time"]["total_ms"] == pytest.approx(sum(parts))
    link = values["link"]
    assert link["best"]["total_ms"] == min(one["total_ms"] for one in link["cuts"])
    assert link["best_cut"] == link["best"]["cut"]
    assert [one["sent_bytes"] for one in link["ends"]] == [None, 500]
    assert "link" not in plan_to_dict(plan, None, 196)


@pytest.mark.parametrize("link", [(0, 1, 1), (1, -1, 1), (1, 1, math.inf), (1, 1, 1, math.nan)])
def test_impossible_links_are_refused(link):
    with pytest.raises(ConfigError, match="more than 0"):
        Link(*link)


def test_there_must_be_something_to_choose_from(plan):
    with pytest.raises(ConfigError, match="no unit"):
        best([])
    with pytest.raises(ConfigError, match="bits per symbol"):
        compare_latencies(plan, Link(1, 1, 1), 196, 0.0, 10)
