"""Image-codec baselines: JPEG, WebP and AVIF images as input of the unsplit network.

JPEG and WebP are set to their smallest files: optimized Huffman tables, and the longest search.
AVIF has Pillow's default speed: slower ones took 4 to 60 times as long for about 1 % fewer bytes on
28 × 28 images. Chroma is 4:2:0, Pillow's default. Grey is one component in JPEG and AVIF; WebP has
no grey, so it is coded as RGB and decoded to luma. Files' headers are counted apart.
"""

import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, features

from jaxsplit import tasks
from jaxsplit._moved import renamed_argument
from jaxsplit.errors import ConfigError, DataError, choices
from jaxsplit.evaluation.intervals import measure_outputs, metric_value
from jaxsplit.evaluation.points import CodecPoint
from jaxsplit.tasks import AGREEMENT, CLASSIFICATION_METRICS, Metric, Outputs, Task, metric_of

#: Codec → its name in tables.
TITLES = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF"}
#: Allowed values of Pillow's quality; above 95, JPEG grows without improving.
QUALITIES = {"jpeg": range(1, 96), "webp": range(0, 101), "avif": range(0, 101)}
#: Default qualities of `sweep`: dense where the curves of bottlenecks lie.
DEFAULT_QUALITIES = {
    "jpeg": (1, 3, 5, 7, 10, 15, 20, 30, 45, 60, 80, 90, 95),
    "webp": (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100),
    "avif": (0, 5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 90, 100),
}
#: Steps between qualities, and between those of the grid, of a coarse sweep.
COARSE = 3

_SAVE: dict[str, dict] = {"jpeg": {"optimize": True}, "webp": {"method": 6}}
_SAVE["avif"] = {"speed": 6, "max_threads": 1}  # the bytes depend on the number of threads
# JPEG markers (ITU-T T.81, table B.1) and the sizes of WebP's headers (RFC 9649 and RFC 6386).
_SCAN, _END = 0xDA, 0xD9
_RIFF_HEADER, _CHUNK_HEADER, _FRAME_HEADER = 12, 8, 10
_SLICE = 50  # images per task of a thread; smaller tasks cost more to distribute


@renamed_argument("labels", "targets")
@renamed_argument("uncut", "unsplit")
def sweep(
    images: np.ndarray,
    targets: np.ndarray | None,
    unsplit: np.ndarray,
    predict: Callable[[np.ndarray], Outputs],
    codec: str = "jpeg",
    qualities: Sequence[int] | None = None,
    batch_size: int = 250,
    task: Task | None = None,
) -> tuple[CodecPoint, ...]:
    """Measures an image codec over its qualities: size of files, and the task's metrics.

    Threads share the images, since Pillow releases Python's lock.

    Args:
      images: uint8 [N, h, w, c], c = 1 (grey) or 3 (RGB).
      targets: of the images, [N, …], such as labels int [N]; None: only the agreement is measured.
      unsplit: what the unsplit network predicts for the original images, like `targets`.
      predict: the unsplit network, uint8 [B, h, w, c] → outputs, such as logits [B, K],
        B = min(batch_size, N). Batches are always full, the last one padded with zeros, so that
        it compiles once.
      codec: "jpeg", "webp" or "avif".
      qualities: Pillow's qualities; None: `DEFAULT_QUALITIES`.
      batch_size: images in a batch of `predict`.
      task: of the network; None for classification.

    Returns:
      One point for each quality, in the given order.

    Raises:
      ConfigError: the arrays, the codec, a quality or the outputs are not as described, or Pillow
        was built without the codec.

    >>> images = np.zeros((4, 8, 8, 1), np.uint8)
    >>> images[2:] = 255
    >>> def is_white(batch):
    ...     return np.stack([batch.mean((1, 2, 3)) < 128, batch.mean((1, 2, 3)) >= 128], 1)
    >>> labels, unsplit = np.array([0, 0, 1, 0]), np.array([0, 0, 1, 1])
    >>> [point] = sweep(images, labels, unsplit, is_white, "jpeg", [50])
    >>> point.top1, point.agreement, point.bytes_per_image > point.header_bytes_per_image
    (0.75, 1.0, True)
    """
    import jax

    from jaxsplit.networks.inference import in_batches

    task = task or tasks.UNNAMED_CLASSES
    qualities = _checked_qualities(codec, qualities)
    images, unsplit = np.asarray(images), np.asarray(unsplit)
    targets = targets if targets is None else np.asarray(targets)
    _check_arrays(images, targets, unsplit)
    if (batch_size := min(batch_size, len(images))) < 1:
        raise ConfigError(f"the batch size is {batch_size}, expected at least 1")

    def measure(quality: int) -> CodecPoint:
        total = np.zeros(2, np.int64)  # bytes of files and of headers

        def run(part: slice) -> Outputs:
            decoded, sizes = _coded(pool, images[part], codec, quality)
            np.add(total, sizes, out=total)
            outputs = in_batches(predict, decoded, batch_size)
            shapes = map(np.shape, jax.tree.leaves(outputs))
            if wrong := [shape for shape in shapes if shape[:1] != (len(decoded),)]:
                raise ConfigError(
                    f"predict returned {wrong[0]}, expected outputs [{batch_size}, …]"
                )
            return outputs

        found = measure_outputs(task, run, targets, len(images), batch_size, unsplit).statistics
        names = [name for name in (task.quality, AGREEMENT) if name in found]
        metrics = {name: metric_value(found[name], task.metric(name)) for name in names}
        size, header = total / len(images)
        return CodecPoint(codec, quality, size, header, metrics)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return tuple(map(measure, qualities))


def _check_arrays(images: np.ndarray, targets: np.ndarray | None, unsplit: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ConfigError(
            f"images are {images.dtype} {images.shape}, expected uint8 [N, height, width, 1 or 3]"
        )
    first = unsplit if targets is None else targets
    for name, given in (("targets", first), ("predictions of the unsplit network", unsplit)):
        if given.shape[:1] != images.shape[:1] or given.shape != first.shape or not len(given):
            what = f"{name} are {given.shape}"
            raise ConfigError(f"{what}, expected one for each of {len(images)} images")


@renamed_argument("targets", "goals", unless="goals")
@renamed_argument("labels", "targets")
@renamed_argument("uncut", "unsplit")
def sweep_to(
    images: np.ndarray,
    targets: np.ndarray | None,
    unsplit: np.ndarray,
    predict: Callable[[np.ndarray], Outputs],
    codec: str,
    goals: Iterable[float],
    measure: str | None = None,
    task: Task | None = None,
    *,
    coarse: bool = False,
) -> tuple[CodecPoint, ...]:
    """Sweeps an image codec, densely around the smallest files that reach some goals.

    After `DEFAULT_QUALITIES`, each goal is bisected between the lowest quality that reaches it
    and the next lower one, so that the coarseness of a grid costs no codec bytes.

    Args:
      images, targets, unsplit, predict, codec, task: as in `sweep`.
      goals: values of a metric, such as accuracies, 0 … 1.
      measure: the metric: the task's quality by default, or "agreement", which needs no targets.
      coarse: of the default qualities, and around goals, take every third, in a third of the time.

    Returns:
      All measured points, by rising quality.
    """
    task, step = task or tasks.UNNAMED_CLASSES, COARSE if coarse else 1
    name = check_goal(measure, task.quality)
    metric = task.metric(name)

    def swept(qualities: Sequence[int]) -> dict[int, CodecPoint]:
        found = sweep(images, targets, unsplit, predict, codec, qualities, task=task)
        return {point.quality: point for point in found}

    points = swept(DEFAULT_QUALITIES[codec][::step])
    for goal in sorted(set(goals)):
        while True:
            reaching = [q for q, point in points.items() if _reaches(point, goal, name, metric)]
            below = [q for q in points if q < min(reaching, default=0)]
            if not below or min(reaching) - max(below) <= step:
                break
            points |= swept([(min(reaching) + max(below)) // 2])
    return tuple(points[quality] for quality in sorted(points))


@renamed_argument("target", "goal")
def smallest_reaching(
    points: Iterable[CodecPoint],
    goal: float,
    measure: str | None = None,
    metric: Metric | None = None,
) -> CodecPoint | None:
    """Returns the point of fewest mean bytes whose metric reaches a goal, or None.

    The metric `measure` is the points' first one by default, which is the quality of their task;
    `metric` describes it, by default as one of a classification.

    >>> points = [
    ...     CodecPoint("jpeg", q, 300.0 + q, 320.0, {"top1": q / 100}) for q in (20, 50, 90)
    ... ]
    >>> smallest_reaching(points, 0.4).quality, smallest_reaching(points, 0.95)
    (50, None)
    """
    points = list(points)
    name = measure or next((one for point in points for one in point.metrics), AGREEMENT)
    metric = metric or metric_of(CLASSIFICATION_METRICS, name)
    reaching = [point for point in points if _reaches(point, goal, name, metric)]
    return min(reaching, key=lambda point: point.bytes_per_image, default=None)


def _reaches(point: CodecPoint, goal: float, name: str, metric: Metric) -> bool:
    return metric.sign * point.metrics[name].mean >= metric.sign * goal


def check_goal(metric: str | None, quality: str) -> str:
    """Returns the metric at which codecs are compared with a rate: by default the task's quality.

    A ConfigError if it is neither that nor "agreement": codecs are measured by these.
    """
    if metric not in (None, quality, AGREEMENT):
        raise ConfigError(f"codecs are compared by {quality} or {AGREEMENT}, not by {metric!r}")
    return metric or quality


def check_codec(codec: str) -> None:
    """Checks that a codec is known and that Pillow was built with it; else a ConfigError."""
    if codec not in QUALITIES:
        raise ConfigError(f"unknown image codec {codec!r}; choose: {choices(codec, QUALITIES)}")
    if codec in ("webp", "avif") and not features.check(codec):
        raise ConfigError(
            f"the installed Pillow was built without {TITLES[codec]}; leave {codec} out of the "
            "baselines, or install a Pillow of at least 11.3 that has it"
        )


def _checked_qualities(codec: str, qualities: Sequence[int] | None) -> tuple[int, ...]:
    check_codec(codec)
    allowed = QUALITIES[codec]
    chosen = DEFAULT_QUALITIES[codec] if qualities is None else tuple(qualities)
    if wrong := [quality for quality in chosen if quality not in allowed]:
        raise ConfigError(
            f"{codec} quality {wrong[0]} is not an integer from {allowed[0]} to {allowed[-1]}"
        )
    return tuple(map(int, chosen))


def _coded(
    pool: ThreadPoolExecutor, images: np.ndarray, codec: str, quality: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes images with several threads; returns what is decoded, and bytes of files, headers."""
    slices = [images[i : i + _SLICE] for i in range(0, len(images), _SLICE)]
    parts = pool.map(lambda part: _through_codec(part, codec, quality), slices)
    decoded, sizes = zip(*parts, strict=True)
    return np.concatenate(decoded), np.sum(sizes, axis=0)


def _through_codec(
    images: np.ndarray, codec: str, quality: int
) -> tuple[np.ndarray, tuple[int, int]]:
    decoded, size, header = np.empty_like(images), 0, 0
    grey = images.shape[3] == 1
    options = _SAVE[codec] | ({"subsampling": "4:0:0"} if grey and codec == "avif" else {})
    for image, out in zip(images, decoded, strict=True):
        file = io.BytesIO()
        pixels = image[..., 0] if grey else image  # for WebP, Pillow itself converts grey to RGB
        Image.fromarray(pixels).save(file, codec, quality=quality, **options)
        with Image.open(file, formats=[codec]) as received:
            out[...] = np.asarray(received.convert("L" if grey else "RGB")).reshape(out.shape)
        size += len(file.getvalue())
        header += header_bytes(file.getvalue())
    return decoded, (size, header)


def header_bytes(encoded: bytes) -> int:
    """Counts the bytes of a JPEG, lossy WebP or AVIF file that are not coefficients.

    JPEG: all markers and tables, also the image's own Huffman tables, so that the payload is a
    lower bound. WebP: all chunks but the frame, and the frame's own header. AVIF (ISO/IEC
    14496-12): every box but the content of `mdat`; AV1's headers in there count as payload.

    Args:
      encoded: a whole file of one image.

    Returns:
      The number of bytes.

    Raises:
      DataError: another format, or a truncated file.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("L", (28, 28)).save(file, "WEBP")
    >>> header_bytes(file.getvalue())
    30
    """
    if encoded[:2] == b"\xff\xd8":
        payload = _jpeg_payload(encoded)
    elif encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        payload = _webp_payload(encoded)
    elif encoded[4:12] == b"ftypavif":
        payload = _avif_payload(encoded)
    else:
        payload = 0
    if payload < 1:
        raise DataError(
            "cannot tell header from payload: expected a whole JPEG, lossy WebP or AVIF file, got "
            f"{len(encoded)} bytes that start with {encoded[:4]!r}"
        )
    return len(encoded) - payload


def _jpeg_payload(encoded: bytes) -> int:
    position = 2
    while position + 4 <= len(encoded):
        marker = encoded[position + 1]
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
        if marker == _SCAN:
            whole = encoded[-2:] == bytes([0xFF, _END])
            return len(encoded) - position - 2 if whole else 0
    return 0


def _webp_payload(encoded: bytes) -> int:
    position = _RIFF_HEADER
    while position + _CHUNK_HEADER <= len(encoded):
        name = encoded[position : position + 4]
        size = int.from_bytes(encoded[position + 4 : position + 8], "little")
        position += _CHUNK_HEADER + size + size % 2
        if name == b"VP8 ":
            return size - _FRAME_HEADER if position <= len(encoded) else 0
    return 0


def _avif_payload(encoded: bytes) -> int:
    """Counts the bytes inside `mdat` boxes; 0 unless boxes fill the file to its last byte."""
    position, payload = 0, 0
    while position + 8 <= len(encoded):
        size, header = int.from_bytes(encoded[position : position + 4], "big"), 8
        name = encoded[position + 4 : position + 8]
        if size == 0:  # up to the end of the file
            size = len(encoded) - position
        elif size == 1:  # a 64-bit size follows
            size, header = int.from_bytes(encoded[position + 8 : position + 16], "big"), 16
        if size < header:
            return 0
        if name == b"mdat":
            payload += size - header
        position += size
    return payload if position == len(encoded) else 0
