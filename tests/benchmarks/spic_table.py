"""The paper's units on ImageNet images, through the library's real bytes.

    python tests/benchmarks/spic_table.py --spic FOLDER --weights resnet50.safetensors \\
        --images TAR_OR_FOLDER --synsets FILE [--cuts S1,S2,S3] \\
        [--published FILE] [--json FILE] [--plot FILE]

Takes every second image by name (`synset_name.JPEG`; the label is the synset's line in FILE) and
runs the unsplit network and every published unit: head and encoder once, symbols to frames and back
under tables fitted to these images and under those of the published counts, decoder and tail.
Beside each figure stands the one that was measured with PyTorch on the same 250 images and the
same ResNet-50; the last column says which of these fails:

- top-1 within 1.0 point of PyTorch's;
- the symbols' entropy ("ideal": one table for all channels) within 1 % of PyTorch's;
- payload with the fitted table ≤ ideal + 1 % + 1 byte.

"train. table" is what these symbols cost under the published counts; the JSON file has the entropy
of those counts too, which is not the same. "Huffman" is the authors' coder: a static Huffman code
of their published counts. Exit status 1 says that something failed.
"""

import heapq
import itertools
import json
import tarfile
from pathlib import Path

import numpy as np
from harness import make_parser, write_json
from rich.console import Console
from rich.table import Table

from jaxsplit import bitstream
from jaxsplit.codec import Receiver, Sender
from jaxsplit.data.images import decode_image, suffixes
from jaxsplit.evaluation.evaluate import predictor
from jaxsplit.family.spic import import_families
from jaxsplit.family.table_fitting import with_tables_of
from jaxsplit.weights.load import load_backbone

BATCH_SIZE = 50
# Measured with PyTorch: top-1; bits an image by the entropy of its symbols, and by that of the
# training set's.
UNCUT = 0.808
MEASURED = {
    "S1": (
        (0.744, 0.748, 0.764, 0.756, 0.728, 0.656, 0.668),
        (4256, 3163, 2732, 710, 457, 380, 317),
        (4355, 3226, 2760, 720, 464, 385, 323),
    ),
    "S2": (
        (0.756, 0.748, 0.720, 0.704, 0.648, 0.640),
        (5668, 4218, 3340, 1773, 1002, 795),
        (5691, 4255, 3351, 1766, 990, 791),
    ),
    "S3": (
        (0.704, 0.696, 0.696, 0.688, 0.628, 0.552),
        (10261, 7187, 4434, 3660, 2342, 1955),
        (10583, 7422, 4597, 3778, 2413, 2019),
    ),
}
TOP1, IDEAL, PAYLOAD, PAYLOAD_BYTES = 0.01, 0.01, 0.01, 1.0


def read_images(path, preprocessing):
    """Every second image by name: uint8 [N, h, w, 3], and the names."""
    if path.is_dir():
        files = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    else:
        with tarfile.open(path) as archive:
            members = [member for member in archive if member.isfile()]
            files = {Path(m.name).name: archive.extractfile(m).read() for m in members}
    names = sorted(name for name in files if Path(name).suffix.lower() in suffixes())
    names = names[::2]
    images = [preprocessing.apply(decode_image(files[name], name)) for name in names]
    return np.stack(images), names


def huffman_lengths(counts):
    """Symbol → bits of a Huffman code of these counts; at least one bit.

    >>> huffman_lengths({0: 5, 1: 2, 2: 1})
    {0: 1, 1: 2, 2: 2}
    """
    lengths = dict.fromkeys(counts, 0)
    order = itertools.count()  # ties: first come, first merged
    heap = [(count, next(order), (symbol,)) for symbol, count in counts.items()]
    heapq.heapify(heap)
    while len(heap) > 1:
        (a, _, left), (b, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in left + right:
            lengths[symbol] += 1
        heapq.heappush(heap, (a + b, next(order), left + right))
    return {symbol: max(1, length) for symbol, length in lengths.items()}


def entropy(weights):
    """Bits a symbol of a histogram."""
    p = np.asarray(list(weights), np.float64) / np.sum(list(weights))
    p = p[p > 0]
    return float(-np.sum(p * np.log2(p)))


def mean_payload(sender, receiver, symbols, rate_id):
    """Mean bytes of real payloads, after each was decoded to the very symbols again."""
    frames = sender.frames(symbols, rate_id)
    if not np.array_equal(receiver.symbols(frames, rate_id), symbols):
        raise SystemExit(f"{rate_id}: a frame decoded to other symbols")
    count = len(sender.family.rates)
    payloads = [bitstream.unpack_frame(frame, count)[0].payload for frame in frames]
    return float(np.mean([len(payload) for payload in payloads]))


def measure_cut(cut, family, published, backbone, images, labels):
    """A dict of figures for each unit of one cut."""
    sender, receiver = (end(family, backbone, BATCH_SIZE) for end in (Sender, Receiver))
    features = sender.features(images)
    symbols = {r.rate_id: sender.quantize(features, r.rate_id) for r in family.rates}
    fitted = with_tables_of(family, symbols)
    ends = [end(fitted, backbone, BATCH_SIZE) for end in (Sender, Receiver)]
    rows = []
    for number, rate in enumerate(family.rates):
        name, ours = rate.rate_id, symbols[rate.rate_id]
        logits = receiver.predict(ours, name)
        values, counts = np.unique(ours, return_counts=True)
        theirs = {int(s): n for s, n in published[name]["symbol_counts"].items()}
        lengths = huffman_lengths(theirs)
        unseen = sum(n for s, n in zip(values, counts, strict=True) if int(s) not in lengths)
        huffman = sum(lengths.get(int(s), 0) * n for s, n in zip(values, counts, strict=True))
        one = ours[0].size
        row = {
            "unit": name,
            "n_images": len(images),
            "top1": float(np.mean(logits.argmax(-1) == labels)),
            "ideal_bits": entropy(counts) * one,
            "training_entropy_bits": entropy(theirs.values()) * one,
            "training_table_bits": rate.tables.information_bits(ours) / len(ours),
            "payload_bytes": mean_payload(*ends, ours, name),
            "training_table_payload_bytes": mean_payload(sender, receiver, ours, name),
            "huffman_bits": None if unseen else float(huffman) / len(ours),
            "huffman_unseen_symbols": int(unseen),
        }
        if cut in MEASURED:
            figures = (column[number] for column in MEASURED[cut])
            row["measured"] = dict(
                zip(("top1", "ideal_bits", "training_entropy_bits"), figures, strict=True)
            )
        row["fails"] = failures(row)
        rows.append(row)
    return rows


def failures(row):
    """Values of a row that are out of tolerance; PyTorch's are known for some cuts only."""
    wrong = []
    limit = row["ideal_bits"] / 8 * (1 + PAYLOAD) + PAYLOAD_BYTES
    if row["payload_bytes"] > limit:
        wrong.append("payload")
    if "measured" in row:
        measured = row["measured"]
        if abs(row["top1"] - measured["top1"]) > TOP1 + 1e-9:
            wrong.append("top-1")
        if abs(row["ideal_bits"] / measured["ideal_bits"] - 1) > IDEAL:
            wrong.append("ideal")
    return wrong


def make_table(uncut, rows):
    table = Table(
        title=f"Unsplit network: top-1 {uncut:.3f} (PyTorch {UNCUT}), {rows[0]['n_images']} images"
    )
    table.add_column("unit")
    for name in (
        "top-1",
        "PyTorch",
        "ideal bits",
        "PyTorch",
        "diff. %",
        "ideal /8",
        "payload bytes",
        "train. table: bits",
        "payload bytes",
        "Huffman /8",
        "fails",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        measured = row.get("measured")
        shown = row["huffman_bits"]
        table.add_row(
            row["unit"],
            f"{row['top1']:.3f}",
            f"{measured['top1']:.3f}" if measured else "",
            f"{row['ideal_bits']:.1f}",
            f"{measured['ideal_bits']}" if measured else "",
            f"{100 * (row['ideal_bits'] / measured['ideal_bits'] - 1):+.2f}" if measured else "",
            f"{row['ideal_bits'] / 8:.1f}",
            f"{row['payload_bytes']:.1f}",
            f"{row['training_table_bits']:.1f}",
            f"{row['training_table_payload_bytes']:.1f}",
            f"{row['huffman_unseen_symbols']} unseen" if shown is None else f"{shown / 8:.1f}",
            ", ".join(row["fails"]) or "-",
        )
    return table


def draw(path, uncut, rows, published, pixels):
    """Top-1 over bits per pixel: our bytes, and the points of the published figures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 6.5), layout="constrained")
    cuts = dict.fromkeys(row["unit"].partition("-")[0] for row in rows)
    for colour, cut in zip(
        ("#0b5fa5", "#c8501e", "#2e8b57", "#7b3f9e", "#8a6d1d"), cuts, strict=False
    ):
        mine = [row for row in rows if row["unit"].startswith(f"{cut}-")]
        points = sorted((8 * row["payload_bytes"] / pixels, 100 * row["top1"]) for row in mine)
        axes.plot(*zip(*points, strict=True), "o-", color=colour, label=f"{cut}, our bytes")
        section = "US_Classification" if cut.startswith("US") else "Classification"
        if points := (published or {}).get(section, {}).get(cut):
            axes.plot(
                *zip(*points, strict=True),
                "s--",
                color=colour,
                alpha=0.5,
                label=f"{cut}, published",
            )
    axes.axhline(100 * uncut, color="#444444", linewidth=1.2, label="unsplit, ours")
    axes.set_xscale("log")
    axes.set_xlabel("bits per pixel (payload, logarithmic)")
    axes.set_ylabel("top-1 accuracy (%)")
    axes.set_title(
        f"Ours: {rows[0]['n_images']} images, this ResNet-50. Published: the paper's figures"
    )
    axes.grid(True, color="#dddddd")
    axes.legend(ncols=2, frameon=False)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--spic", type=Path, required=True, help="folder of the published units")
    parser.add_argument("--weights", type=Path, required=True, help="a ResNet-50")
    parser.add_argument("--images", type=Path, required=True, help="a tar file or a folder")
    parser.add_argument("--synsets", type=Path, required=True, help="class names, one a line")
    parser.add_argument("--cuts", default="S1,S2,S3")
    parser.add_argument("--published", type=Path, help="points of the published figures, JSON")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--plot", type=Path, help="PNG file for the curves")
    args = parser.parse_args()
    backbone = load_backbone("resnet50", args.weights)
    images, names = read_images(args.images, backbone.preprocessing)
    synsets = args.synsets.read_text().split()
    labels = np.array([synsets.index(name.partition("_")[0]) for name in names])
    uncut = float(np.mean(predictor(backbone)(images).argmax(-1) == labels))
    published = json.loads((args.spic / "classification.json").read_text())
    rows = []
    for cut in args.cuts.split(","):
        family = import_families(args.spic, cut=cut)[cut]
        rows += measure_cut(cut, family, published, backbone, images, labels)
    Console(width=140).print(make_table(uncut, rows))
    write_json(args.json, {"uncut_top1": uncut, "units": rows})
    if args.plot:
        points = json.loads(args.published.read_text()) if args.published else None
        draw(args.plot, uncut, rows, points, images.shape[1] * images.shape[2])
    return 1 if any(row["fails"] for row in rows) or abs(uncut - UNCUT) > TOP1 else 0


if __name__ == "__main__":
    raise SystemExit(main())
