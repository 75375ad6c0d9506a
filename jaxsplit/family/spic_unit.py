"""The tensors of one published unit (see `spic`), as the variables of a `Bottleneck`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxsplit.errors import WeightsError
from jaxsplit.io.untrusted import finite_floats, listed, shown, shown_shape
from jaxsplit.units.bottleneck import BottleneckSpec
from jaxsplit.weights.formats import read_tensors

# Convolution and batch normalisation of each of our layers, in the authors' names.
_LAYERS = {
    ("encoder", "depthwise"): ("conv2_2", "bn2_1"),
    ("encoder", "pointwise"): ("conv2_3", "bn3_1"),
    ("decoder", "pointwise"): ("conv2_4", "bn4_1"),
    ("decoder", "depthwise"): ("conv2_5", "bn5_1"),
}
_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_UNUSED = ("priorEncoder.", "priorDecoder.", "bitEstimator_z.")


def unit_variables(file: Path, spec: BottleneckSpec, width: int) -> dict[str, Any]:
    """The variables of a unit from its file: checked as a whole, laid out as `Bottleneck` does.

    Args:
      file: published weights, in any format that `read_tensors` knows.
      spec: of the unit.
      width: Cin, channels of the features.

    Returns:
      {"params", "batch_stats"}, float32.

    Raises:
      WeightsError: the file is missing or damaged, or its tensors are not those of the unit; all
        that are missing, unknown or of another shape are named.
    """
    tensors = {
        name: tensor
        for name, tensor in read_tensors(file).items()
        if not name.startswith(_UNUSED) and not name.endswith(".num_batches_tracked")
    }
    shapes = _shapes(spec, width)
    wrong = [
        f"{shown(name)} is {shown_shape(tensors[name].shape) if name in tensors else 'missing'}, "
        f"expected {shapes.get(name, 'nothing')}"
        for name in sorted(tensors.keys() | shapes.keys())
        if name not in tensors or tensors[name].shape != shapes.get(name)
    ]
    if wrong:
        raise WeightsError(f"{file} does not hold the unit's tensors: {listed(wrong)}")
    floats = finite_floats(tensors, str(file))
    params: dict[str, Any] = {"encoder": {}, "decoder": {}}
    stats: dict[str, Any] = {"encoder": {}, "decoder": {}}
    for (part, layer), (conv, norm) in _LAYERS.items():
        kernel = floats[f"{conv}.weight"]
        if layer == "depthwise":  # [C, 1, k, k], convolution and transposed convolution alike
            params[part][layer] = kernel.transpose(2, 3, 0, 1)
        else:  # [out, in, 1, 1] of a convolution, [in, out, 1, 1] of a transposed one
            matrix = kernel[:, :, 0, 0]
            params[part][layer] = {"kernel": matrix.T if part == "encoder" else matrix}
        values = {ours: floats[f"{norm}.{its}"] for ours, its in _NORM.items()}
        params[part][f"{layer}_norm"] = {key: values[key] for key in ("scale", "bias")}
        stats[part][f"{layer}_norm"] = {key: values[key] for key in ("mean", "var")}
    return {"params": params, "batch_stats": stats}


def _shapes(spec: BottleneckSpec, width: int) -> dict[str, tuple[int, ...]]:
    """The authors' names of what inference needs → the shapes."""
    sizes = {"bn2_1": width, "bn3_1": spec.channels, "bn4_1": width, "bn5_1": width}
    return {
        "conv2_2.weight": (width, 1, spec.kernel, spec.kernel),
        "conv2_3.weight": (spec.channels, width, 1, 1),
        "conv2_4.weight": (spec.channels, width, 1, 1),
        "conv2_5.weight": (width, 1, *2 * (spec.decoder_form[0],)),
        **{f"{norm}.{part}": (n,) for norm, n in sizes.items() for part in _NORM.values()},
    }
