"""Early, middle and late cuts, after the device's share of the work."""

import pytest

from jaxsplit.cost import CUT_SHARES, find_cut, make_plan, plan_unit
from jaxsplit.errors import ConfigError
from jaxsplit.experiments.recipe import default_unit
from jaxsplit.units import ResidualSpec
from jaxsplit.weights.load import abstract_backbone


@pytest.fixture(scope="module")
def backbone():
    return abstract_backbone("efficientnet_lite0")


@pytest.mark.parametrize(
    ("word", "cut"),
    [("early", "stage3.block1"), ("middle", "stage5.block3"), ("late", "stage6.block4")],
)
def test_a_word_is_the_last_cut_within_its_share(backbone, word, cut):
    assert find_cut(backbone, word, default_unit) == cut
    plan = make_plan(backbone, channels=(), strides=(), progress=False)

    def share(name):
        shape = plan[name].feature_shape
        encoder = plan_unit(default_unit(shape, plan.macs), shape).encoder_macs
        return (plan[name].device_macs + encoder) / plan.macs

    names = [one.cut for one in plan.cuts]
    later = [share(name) for name in names[names.index(cut) + 1 :]]
    assert share(cut) <= CUT_SHARES[word] < min(later)


def test_the_encoder_counts(backbone):
    """A heavy one makes the cut an earlier one."""

    def heavy(shape, macs):
        return ResidualSpec(channels=8, width=256, blocks=4)

    cuts = backbone.network.cuts()
    assert cuts.index(find_cut(backbone, "late", heavy)) < cuts.index("stage6.block4")


def test_a_name_is_itself_also_if_it_is_a_word(backbone):
    assert find_cut(backbone, "stem", default_unit) == "stem"


def test_other_words_are_refused(backbone):
    with pytest.raises(ConfigError, match=r"no cut 'erly'; .* did you mean early\?"):
        find_cut(backbone, "erly", default_unit)
    with pytest.raises(ConfigError, match=r"no early cut, .* at most 30 % .*: name a cut"):
        find_cut(backbone, "early", lambda shape, macs: ResidualSpec(1024, width=4096, blocks=9))


@pytest.mark.parametrize("shape", [(56, 56, 24), (28, 28, 40), (7, 7, 192), (3, 3, 8), (28, 28, 1)])
def test_the_default_unit_fits_and_is_light(shape):
    macs = 385_000_000
    spec = default_unit(shape, macs)
    assert spec.channels <= min(spec.width, shape[2] * spec.stride**2)
    assert plan_unit(spec, shape).encoder_macs <= 0.05 * macs
    assert default_unit((28, 28, 16), 10_000_000).width < spec.width or shape == (28, 28, 1)
