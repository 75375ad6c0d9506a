r"""A search's front beside a grid of units that were trained in full at three cuts.

    python tests/benchmarks/design_grid.py resnet20_design:cifar10 --data folder:DIR \
        --workdir runs/design

`jaxsplit design` searches where it has not yet, with its own minutes. Then the points that it chose
are trained in full, by the configuration that it wrote, and so is every unit of the grid: all
channels, strides and lambdas at each of the cuts. All of them train on the whole split that the
search trained on some images of, and are compared on the whole one that it compared on.

A point is measured against what the grid has for no more multiply-accumulates on the device: the
best of it, read off at the point's own bytes, on straight lines over ln bytes. The difference of
top-1 has a standard error over the images (paired where both sides have all images); beyond two of
them the point is beaten. The front as the search left it, of short trainings, is measured by the
bits that priors charge; the chosen points in full, and the grid beside them, by real bytes.

Nothing is trained twice: the same command resumes where it was stopped.
"""

import dataclasses
import json
import runpy
from pathlib import Path

import numpy as np
from harness import make_parser, provenance, run_jaxsplit, write_json

TWO = 2.0  # standard errors


@dataclasses.dataclass(frozen=True, eq=False)
class Point:
    """A unit as it was measured: where it stands, and which images it is right about [N]."""

    name: str
    bytes_per_image: float
    device_macs: int
    correct: np.ndarray


def search(options, overrides):
    """The search's document, after the search where there is none."""
    found = options.workdir / "design.json"
    if not found.exists():
        run_jaxsplit("design", options.config, options.workdir, overrides)
    return json.loads(found.read_text())


def write_grid(path, design, cuts):
    """The configuration of the grid, by the search's own writer: each cut has all units."""
    from jaxsplit.cost import make_plan
    from jaxsplit.search.candidates import candidates
    from jaxsplit.search.export import write_config
    from jaxsplit.search.pareto import Result
    from jaxsplit.weights.load import load_backbone

    backbone = load_backbone(design.backbone)
    shape = backbone.preprocessing.input_shape
    plan = make_plan(backbone.network, shape, backbone.variables, channels=(), strides=())
    units = candidates(dataclasses.replace(design, cuts=cuts), plan)
    write_config(path, design, [Result(one, 0, 0.0, 0.0, 0) for one in units])


def train(config, cut, workdir, overrides):
    """Trains all units of a cut, where that has not been done."""
    if not (workdir / "curve.json").exists():
        run_jaxsplit("train", f"{config}:{cut}", workdir, overrides)


def measured(config, cut, workdir, estimated):
    """The points of a trained cut, by real bytes or by the bits that the priors charge."""
    forms = runpy.run_path(str(config))["VARIANTS"][cut]
    curve = json.loads((workdir / "curve.json").read_text())
    images = np.load(workdir / "images.npz")
    for point, predicted in zip(curve["points"], images["predicted"], strict=True):
        size = point["estimated_bits_per_image"] / 8 if estimated else point["bytes_per_image"]
        name = point_name(cut, *forms[point["rate_id"]])
        yield Point(name, size, point["device_macs"], predicted == images["labels"])


def point_name(cut, channels, stride, lmbda):
    """The same for the search, the grid and the chosen."""
    return f"{cut} C{channels} s{stride} {lmbda:g}"


def best_at(grid, point):
    """Which images the grid is right about at a point's bytes, float [N]; None without a unit."""
    affordable = [one for one in grid if one.device_macs <= point.device_macs]
    hull = []
    for one in sorted(affordable, key=lambda one: (one.bytes_per_image, -one.correct.mean())):
        if not hull or one.correct.mean() > hull[-1].correct.mean():
            hull.append(one)
    below = [one for one in hull if one.bytes_per_image <= point.bytes_per_image]
    if not below:
        return None
    low, above = below[-1], hull[len(below) :]
    if not above:
        return low.correct.astype(float)
    at, left, right = np.log([point.bytes_per_image, low.bytes_per_image, above[0].bytes_per_image])
    share = (at - left) / (right - left)
    return (1 - share) * low.correct + share * above[0].correct


def gap(grid, point, top1=None, n_images=None):
    """By how much the grid is better at a point's bytes, and the standard error; None: no unit.

    With `top1` of so many images the point is known by that alone.
    """
    best = best_at(grid, point)
    if best is None:
        return None
    if top1 is None:
        difference = best - point.correct
        return difference.mean(), difference.std(ddof=1) / np.sqrt(len(difference))
    variance = best.var(ddof=1) / len(best) + top1 * (1 - top1) / n_images
    return best.mean() - top1, np.sqrt(variance)


def row(point, top1, found):
    """One point of a report, ready for JSON."""
    said = {
        "point": point.name,
        "bytes": round(point.bytes_per_image, 2),
        "device_macs": point.device_macs,
        "top1": round(float(top1), 5),
    }
    if found is None:
        return {**said, "gap": None, "error": None, "beaten": False}
    better, error = (float(value) for value in found)
    beaten = better > TWO * error
    return {**said, "gap": round(better, 5), "error": round(error, 5), "beaten": beaten}


def report(design, chosen, grid):
    """Rows of the front as the search left it, and of its chosen points in full."""
    short, full = [], []
    for one in design["front"]:
        name = point_name(one["cut"], one["channels"], one["stride"], one["lambda"])
        point = Point(name, one["bytes_per_image"], one["device_macs"], np.empty(0))
        found = gap(grid["estimated"], point, one["top1"], one["n_images"])
        short.append(row(point, one["top1"], found))
    for point in chosen:
        full.append(row(point, point.correct.mean(), gap(grid["real"], point)))
    units = [row(point, point.correct.mean(), gap(chosen, point)) for point in grid["real"]]
    return {"front": short, "chosen": full, "grid": units}


def table(rows, title):
    """Rows as text."""
    beaten = sum(one["beaten"] for one in rows)
    lines = [f"{title}: {beaten} of {len(rows)} beaten by more than two standard errors"]
    for one in rows:
        better = (
            "no unit"
            if one["gap"] is None
            else f"{100 * one['gap']:+6.2f} ± {100 * one['error']:.2f}"
        )
        lines.append(
            f"  {one['point']:<34} {one['bytes']:8.1f} B {one['device_macs'] / 1e6:6.2f} M "
            f"{100 * one['top1']:6.2f} %  {better}{' *' if one['beaten'] else ''}"
        )
    return "\n".join(lines)


def main():
    parser = make_parser(__doc__)
    parser.add_argument("config", nargs="?", default="resnet20_design:cifar10")
    parser.add_argument("--data", help="of the configuration, such as folder:DIR")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--cuts", default="stage1.block3,stage2.block3,stage3.block2")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from jaxsplit.experiments import config

    overrides = [*([f"data={options.data}"] if options.data else []), *options.set]
    document = search(options, overrides)
    design = config.load(options.config, dict(text.split("=", 1) for text in overrides))
    splits = [f"train_split={design.train_split}", f"test_split={design.test_split}"]
    splits.append("baselines=()")
    cuts = tuple(options.cuts.split(","))
    picked, everything = options.workdir / "chosen.py", options.workdir / "grid.py"
    write_grid(everything, design, cuts)
    chosen, grid = [], {"estimated": [], "real": []}
    for cut in runpy.run_path(str(picked))["VARIANTS"]:
        folder = options.workdir / f"chosen-{cut}"
        train(picked, cut, folder, splits)
        chosen += measured(picked, cut, folder, estimated=False)
    for cut in cuts:
        folder = options.workdir / f"grid-{cut}"
        train(everything, cut, folder, splits)
        grid["estimated"] += measured(everything, cut, folder, estimated=True)
        grid["real"] += measured(everything, cut, folder, estimated=False)
    found = report(document, chosen, grid)
    print(table(found["front"], "the front of the search, of short trainings"))
    print(table(found["chosen"], "its chosen points, trained in full"))
    print(table(found["grid"], "the grid, beside the chosen points"))
    if options.json is not None:
        about = provenance(("jax", "flax", "optax", "numpy"))
        about |= {
            "config": options.config,
            "set": options.set,
            "cuts": cuts,
            "minutes": document["minutes"],
        }
        write_json(options.json, {**about, **found})


if __name__ == "__main__":
    main()
