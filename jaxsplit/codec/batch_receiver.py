"""The receiver of a service: frames of any rates share the batches of the tail."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import numpy as np

from jaxsplit import bitstream, networks
from jaxsplit.codec.receiver import Receiver
from jaxsplit.codec.runtime import RateRuntime, put_used
from jaxsplit.codec.unit_programs import features_program, tail_program
from jaxsplit.errors import FamilyError, JaxsplitError
from jaxsplit.networks import Features
from jaxsplit.networks.inference import pad_rows
from jaxsplit.split import Split
from jaxsplit.tasks import Outputs
from jaxsplit.trees import Tree

_LEAST_FULL = 0.75  # share of a batch that is no padding; else it is two batches


class BatchReceiver(Receiver):
    """Decodes batches of frames of many senders, at any rates, and names those that fail.

    A unit's decoder runs for the frames of each rate, of each spec for rate levels; the tail runs
    for all together. Batches are padded to powers of two and to `batch_size`: after `warm_up`, no
    number of frames compiles anything. For the arguments and their errors see `Runtime`.

    >>> from jaxsplit.family.pretrained import load_pretrained
    >>> family = load_pretrained("resnet8_small-fashion_mnist/stage1.block1")
    >>> receiver = BatchReceiver(family, batch_size=2)
    >>> sender, _ = family.codec()
    >>> image = np.zeros((28, 28, 1), np.uint8)
    >>> outputs, failed = receiver.decode_each([*sender(image, "r1"), b"", *sender(image, "r3")])
    >>> outputs.shape, list(failed)
    ((3, 10), [1])
    """

    def decode_each(
        self, frames: Sequence[bytes | bitstream.Frame]
    ) -> tuple[Outputs, dict[int, JaxsplitError]]:
        """Decodes frames of any rates; one that fails costs no other.

        Args:
          frames: N of them, as bytes or from a `bitstream.Reader`.

        Returns:
          Outputs float32 [N, …], as from `decode`, zeros for frames that failed; and the errors of
          those by their numbers: a BitstreamError if the frame is damaged or of another family, a
          FamilyError if its outputs are infinite or not numbers.
        """
        failed = dict[int, JaxsplitError]()
        groups = dict[int, list[tuple[int, int, np.ndarray]]]()  # levels run together
        for number, frame in enumerate(frames):
            try:
                rate, symbols = self._open(frame)
            except JaxsplitError as error:
                failed[number] = error
                continue
            group = rate.index if self._levels is None else 0
            groups.setdefault(group, []).append((number, rate.index, symbols))
        shapes = self.backbone.output_shapes
        outputs = jax.tree.map(lambda x: np.zeros((len(frames), *x.shape), x.dtype), shapes)
        if not groups:
            return outputs, failed
        parts, order = [], list[int]()
        for group, opened in groups.items():
            numbers, indices, symbols_of = zip(*opened, strict=True)
            parts.append(
                self._features(np.stack(symbols_of), self._rates[group], np.array(indices))
            )
            order += numbers
        features = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
        found = self._tail(features)
        finite = np.all(
            [np.isfinite(x).reshape(len(x), -1).all(axis=1) for x in jax.tree.leaves(found)], axis=0
        )
        for number, good in zip(order, finite, strict=True):
            if not good:
                failed[number] = _not_finite()
        kept = [number for number, good in zip(order, finite, strict=True) if good]
        for rows, values in zip(jax.tree.leaves(outputs), jax.tree.leaves(found), strict=True):
            rows[kept] = values[finite]
        return outputs, failed

    def warm_up(self) -> Self:
        """Compiles the programs of all rates at all sizes of batches.

        Returns:
          This receiver.
        """
        features: Features = ()
        for index in range(self.header.n_rates):
            rate = self._rate_at(index)
            if self._levels is None or not index:  # levels share their program
                for size in self.sizes:
                    symbols = np.zeros((size, *rate.latent_shape), np.int32)
                    features = self._features(symbols, rate, np.full(size, index))
        for size in self.sizes:
            self._tail(jax.tree.map(lambda x, size=size: x[:size], features))
        return self

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of batches, ascending: powers of two below `batch_size`, and this."""
        powers = [1 << power for power in range((self.batch_size - 1).bit_length())]
        return (*powers, self.batch_size)

    @functools.cached_property
    def _variables(self) -> networks.Variables:
        features = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((1, *x.shape), np.float32),
            self.backbone.features_at(self.family.cut),
        )
        return put_used(self._tail_program.trace, self.backbone.variables, features)

    @functools.cached_property
    def _tail_program(self) -> jax.stages.Wrapped:
        return tail_program(self.backbone.network, self.family.cut)

    def _programs(self, split: Split) -> tuple[jax.stages.Wrapped, ...]:
        return (features_program(split),)

    def _outputs(self, symbols: np.ndarray, rate: RateRuntime, indices: np.ndarray) -> Outputs:
        outputs = self._tail(self._features(symbols, rate, indices))
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs)):
            raise _not_finite()
        return outputs

    def _features(self, symbols: np.ndarray, rate: RateRuntime, indices: np.ndarray) -> Features:
        """Runs the decoder on symbols of one rate, or of the levels `indices` [N]."""
        (program,) = rate.programs

        def run(rows: tuple[np.ndarray, np.ndarray]) -> Features:
            return program(self._unit(rate, rows[1]), rate.offsets, rows[0])

        return self._in_sizes(run, (symbols, indices))

    def _tail(self, features: Features) -> Outputs:
        return self._in_sizes(lambda rows: self._tail_program(self._variables, rows), features)

    def _in_sizes(self, run: Callable[[Any], Tree], tree: Tree) -> Tree:
        """Applies `run` to arrays [N, …] in batches of `sizes`, with little padding."""
        count, start, parts = len(jax.tree.leaves(tree)[0]), 0, []
        while start < count:
            left = min(count - start, self.batch_size)
            size = next(size for size in self.sizes if size >= left)
            if left < _LEAST_FULL * size:
                size = left = max(size for size in self.sizes if size <= left)
            rows = jax.tree.map(lambda x, start=start, left=left: x[start : start + left], tree)
            found = run(pad_rows(rows, size))
            parts.append(jax.tree.map(lambda x, left=left: np.asarray(x)[:left], found))
            start += left
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _not_finite() -> FamilyError:
    return FamilyError(
        "a frame gives outputs that are infinite or not numbers: its symbols are far too large, or "
        "the family's parameters or the backbone's weights are not finite"
    )
