"""Frames of one machine on another: they decode exactly, and how differently the two round.

    python tests/benchmarks/across_machines.py encode FILE     # on one
    python tests/benchmarks/across_machines.py decode FILE     # on the other

`encode` sends test images through every rate of a family and keeps, in one npz file, the container
and the symbols behind it. `decode` reads the container on another machine, device, Python or jax,
compares its symbols with those that were sent, encodes the same images itself, and reports the
share of symbols that the two encoders round differently and of predictions that this changes.

Exit status 1 says that a frame decoded to other symbols. The default is the family that comes with
the package on 2,000 embedded images; with `--family F --data SOURCE --weights FILE` any other.
"""

import platform
import sys

import jax
import numpy as np
from harness import make_parser

from jaxsplit import bitstream, data
from jaxsplit.codec import Receiver, Sender
from jaxsplit.family.pretrained import load_pretrained
from jaxsplit.weights.load import load_backbone

BATCH = 50


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("action", choices=("encode", "decode"))
    parser.add_argument("file")
    parser.add_argument("--family", default="resnet8_small-fashion_mnist/stage1.block1")
    parser.add_argument("--weights", help="of the backbone; default: what the family names")
    parser.add_argument("--data", default="embedded")
    parser.add_argument("--split", default="test")
    parser.add_argument("--max-samples", type=int)
    options = parser.parse_args()
    family = load_pretrained(options.family)
    if options.weights:
        backbone = load_backbone(family.backbone, options.weights)
    else:
        backbone = load_backbone(family.weights)
    source = data.open_source(options.data, split=options.split, max_samples=options.max_samples)
    images, _ = data.load_arrays(source, backbone.preprocessing)
    ends = (kind(family, backbone, batch_size=BATCH) for kind in (Sender, Receiver))
    return (encode if options.action == "encode" else decode)(options.file, images, *ends)


def here() -> str:
    """One line about the properties that may differ between two machines."""
    device = jax.devices()[0]
    return (
        f"{platform.machine()}, {device.device_kind}, Python {platform.python_version()}, "
        f"jax {jax.__version__}, numpy {np.__version__}"
    )


def encode(file: str, images: np.ndarray, sender: Sender, receiver: Receiver) -> int:
    rates = [rate.rate_id for rate in sender.family.rates]
    sent = {rate: sender.symbols(images, rate) for rate in rates}
    packed = [frame for rate in rates for frame in sender.frames(sent[rate], rate)]
    frames = [bitstream.unpack_frame(frame, len(rates))[0] for frame in packed]
    container = bitstream.write_container(sender.header, frames)
    logits = {f"logits {rate}": receiver.predict(sent[rate], rate) for rate in rates}
    symbols = {f"symbols {rate}": sent[rate] for rate in rates}
    bytes_ = np.frombuffer(container, np.uint8)
    np.savez_compressed(file, machine=here(), container=bytes_, **symbols, **logits)
    print(f"{here()}: {len(frames)} frames, {len(container)} bytes")
    return 0


def decode(file: str, images: np.ndarray, sender: Sender, receiver: Receiver) -> int:
    with np.load(file) as stored:
        sent = dict(stored)
    header, frames = bitstream.read_container(sent["container"].tobytes())
    receiver.check(header)
    print(f"encoded on {sent['machine']}\ndecoded on {here()}")
    print(
        f"{'rate':8} {'frames':>7} {'exact':>7} {'symbols':>9} {'rounded otherwise':>18} top-1 kept"
    )
    faults = 0
    for index, rate in enumerate(header.rates):
        name, count = rate.rate_id, len(images)
        symbols = sent[f"symbols {name}"]
        read = receiver.symbols(frames[index * count : (index + 1) * count], name)
        exact = int((read == symbols).all(axis=(1, 2, 3)).sum())
        faults += count - exact
        own = sender.symbols(images, name)
        classes = receiver.predict(read, name).argmax(-1)
        kept = np.mean(classes == sent[f"logits {name}"].argmax(-1))
        other = int((own != symbols).sum())
        share = f"{other} ({other / own.size:.1e})"
        print(f"{name:8} {count:7} {exact:7} {own.size:9} {share:>18} {100 * kept:.2f} %")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
