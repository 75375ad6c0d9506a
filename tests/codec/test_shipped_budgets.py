"""Every shipped family within budgets of bytes."""

import numpy as np
import pytest
from drawn_scenes import scenes

from jaxsplit import data
from jaxsplit.family.pretrained import load_pretrained, pretrained_names

N_BUDGETS = 20


def images_for(family):
    height, width, channels = family.preprocessing.input_shape
    if channels == 1:
        source = data.open_source("embedded", max_samples=4)
        return data.load_arrays(source, family.preprocessing)[0]
    return scenes(2, size=(height, width))[0]


@pytest.mark.parametrize("name", pretrained_names())
def test_no_frame_is_over_its_budget_and_more_bytes_are_used_where_they_are_given(name):
    family = load_pretrained(name)
    images = images_for(family)
    sender, _ = family.codec(batch_size=len(images))
    ends = [[len(x) for x in sender(images, family.rates[i].rate_id)] for i in (0, -1)]
    budgets = np.geomspace(max(ends[0]), max(ends[1]), N_BUDGETS).astype(int)
    sizes = np.array(
        [[len(frame) for frame in sender(images, max_bytes=int(budget))] for budget in budgets]
    )
    assert (sizes <= budgets[:, None]).all()
    means = sizes.mean(axis=1)
    assert (np.diff(means) >= 0).all()
    assert means[-1] > means[0]
    if family.levels is not None:
        # Images that could use more: their frame at the highest level is longer than the budget.
        room = np.array(ends[1]) > budgets[:, None]
        slack = (budgets[:, None] - sizes)[room]
        assert slack.mean() <= max(3, 0.03 * budgets.mean())
