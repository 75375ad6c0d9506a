"""The receiver of a service: the outputs of `Receiver`, whatever shares a batch."""

import numpy as np
import pytest

from jaxsplit.codec import BatchReceiver
from jaxsplit.errors import BitstreamError, FamilyError


@pytest.fixture(scope="module")
def receiver(tiny_family):
    return BatchReceiver(tiny_family, batch_size=6).warm_up()


@pytest.fixture(scope="module")
def ends(tiny_family):
    return tiny_family.codec(batch_size=4)


def mixed(sender, images):
    """A frame of each image, at the rates in turn."""
    names = [rate.rate_id for rate in sender.family.rates]
    return [
        sender(image[None], names[number % len(names)])[0] for number, image in enumerate(images)
    ]


def test_sizes_are_powers_of_two_and_the_largest(receiver, tiny_family):
    assert receiver.sizes == (1, 2, 4, 6)
    assert BatchReceiver(tiny_family, batch_size=1).sizes == (1,)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 13])
def test_frames_of_all_rates_share_batches(receiver, ends, tiny_images, compiles, count):
    sender, other = ends
    frames = mixed(sender, tiny_images[:count])
    with compiles() as compiled:
        outputs, failed = receiver.decode_each(frames)
    assert not failed
    assert not compiled
    np.testing.assert_allclose(outputs, other(frames), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(receiver(frames).argmax(-1), outputs.argmax(-1))


def test_a_frame_that_fails_costs_no_other(receiver, ends, tiny_images):
    frames = mixed(ends[0], tiny_images[:4])
    outputs, failed = receiver.decode_each([frames[0], b"", frames[1], frames[2] + b"x", frames[3]])
    assert sorted(failed) == [1, 3]
    assert all(isinstance(error, BitstreamError) for error in failed.values())
    np.testing.assert_allclose(
        outputs[[0, 2, 4]], ends[1]([frames[0], frames[1], frames[3]]), rtol=1e-4, atol=1e-4
    )
    outputs, failed = receiver.decode_each([b"", b""])
    assert (outputs.shape, sorted(failed)) == ((2, 10), [0, 1])


def test_outputs_that_are_not_finite_fail_alone(receiver, ends, tiny_images, monkeypatch):
    frames = mixed(ends[0], tiny_images[:3])
    tail = receiver._tail

    def second_is_infinite(features):
        found = np.array(tail(features))
        found[1] = np.inf
        return found

    monkeypatch.setattr(receiver, "_tail", second_is_infinite)
    outputs, failed = receiver.decode_each(frames)
    (error,) = failed.values()
    assert isinstance(error, FamilyError)
    assert np.isfinite(outputs).all()
