"""The engine of a family: predictions of frames of any rates, and errors beside them."""

from jaxsplit.bitstream import Frame, unpack_frame
from jaxsplit.deploy.engine import Engine
from jaxsplit.errors import BitstreamError


def test_predictions_are_the_tasks(tiny_family, tiny_backbone, tiny_images, compiles):
    engine = Engine.of("tiny", tiny_family, tiny_backbone, max_batch=4)
    engine.warm_up()
    sender, receiver = tiny_family.codec()
    names = [rate.rate_id for rate in tiny_family.rates]
    frames = [sender(tiny_images[i : i + 1], names[i % len(names)])[0] for i in range(4)]
    opened = [unpack_frame(frame, engine.header.n_rates)[0] for frame in frames]
    expected = tiny_backbone.task.describe(receiver(frames))
    with compiles() as compiled:
        found = engine.run([opened[0], Frame(99, b""), *opened[1:3]], top=3)
    assert not compiled
    assert isinstance(found[1], BitstreamError)
    for one, other in zip([found[0], *found[2:]], expected[:3], strict=True):
        assert one["class"] == other["class"]
        assert len(one["top"]) == 3
        assert one["top"][0]["probability"] == max(x["probability"] for x in one["top"])
    assert [x["class"] for x in engine.run(opened, top=1)] == [x["class"] for x in expected]
