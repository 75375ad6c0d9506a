"""DeepLabV3 from a .tflite file in ours and in the LiteRT interpreter, on the same images.

    python tests/benchmarks/deeplab_litert.py --images DIR --file MODEL.tflite [--json FILE]

The interpreter runs the file as it is, activations in bytes; ours has its weights as float32 and
activations in float32. Masks have the resolution of the network's input; pixels of the letterbox
count too. The table has the share of all pixels that both call the same, and of those that the
interpreter calls an object. Exit status 1: fewer are the same than `--pixels` and `--objects` say.
Needs `pip install ".[bench]"`.
"""

import dataclasses
import sys
import time
from pathlib import Path

import jax
import numpy as np
from harness import make_parser, write_json
from PIL import Image
from rich.console import Console
from rich.table import Table

from jaxsplit import load_backbone


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG images")
    parser.add_argument("--file", type=Path, required=True, help="deeplabv3_mobilenet_v2, .tflite")
    parser.add_argument("--count", type=int, default=10, help="images, spread over the folder")
    parser.add_argument("--pixels", type=float, default=0.99, help="least share of all pixels")
    parser.add_argument("--objects", type=float, default=0.0, help="least share of objects' pixels")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    from ai_edge_litert.interpreter import Interpreter

    files = sorted(p for p in options.images.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    files = files[:: max(1, len(files) // options.count)][: options.count]
    backbone = load_backbone("deeplabv3_mobilenet_v2", options.file)
    run = ours(backbone)
    interpreter = Interpreter(str(options.file), num_threads=1)
    interpreter.allocate_tensors()
    rows = []
    for file in files:
        pixels = backbone.preprocessing.apply(np.asarray(Image.open(file).convert("RGB")))[None]
        theirs, seconds = timed(lambda pixels=pixels: interpret(interpreter, pixels))
        mask, own_seconds = timed(lambda pixels=pixels: np.asarray(run(pixels)))
        same, object_ = mask == theirs, theirs > 0
        counts = {"same": same.sum(), "pixels": same.size}
        counts |= {"objects_same": same[object_].sum(), "objects": object_.sum()}
        rows.append({name: int(count) for name, count in counts.items()})
        rows[-1] |= {"image": file.name, "litert_s": seconds, "jaxsplit_s": own_seconds}
    shares = {
        "pixels": share(rows, "same", "pixels"),
        "objects": share(rows, "objects_same", "objects"),
    }
    show(rows, shares)
    write_json(options.json, {"file": options.file.name, **shares, "images": rows})
    fails = shares["pixels"] < options.pixels or shares["objects"] < options.objects
    return 1 if fails else 0


def ours(backbone):
    """Jitted: images uint8 [B, h, w, 3] → masks [B, h, w], resized as in the source's graph."""
    folded = backbone.fold()
    task = dataclasses.replace(backbone.task, size=backbone.preprocessing.size)

    @jax.jit
    def run(images):
        logits = folded.network(folded.variables, backbone.preprocessing.normalize(images))
        return task.predict(logits)

    run(np.zeros((1, *backbone.preprocessing.input_shape), np.uint8)).block_until_ready()
    return run


def interpret(interpreter, pixels):
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def timed(call):
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def share(rows, part, whole):
    return sum(row[part] for row in rows) / max(1, sum(row[whole] for row in rows))


def show(rows, shares):
    table = Table("image", "same %", "of objects %", "objects %", "LiteRT s", "jaxsplit s")
    for row in rows:
        table.add_row(
            row["image"],
            f"{100 * share([row], 'same', 'pixels'):.2f}",
            f"{100 * share([row], 'objects_same', 'objects'):.2f}",
            f"{100 * share([row], 'objects', 'pixels'):.1f}",
            f"{row['litert_s']:.2f}",
            f"{row['jaxsplit_s']:.2f}",
        )
    table.add_section()
    table.add_row("all", *(f"{100 * value:.2f}" for value in shares.values()))
    Console(width=100).print(table)


if __name__ == "__main__":
    sys.exit(main())
