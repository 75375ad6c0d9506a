"""The sender of an exported bundle: images to frames by onnxruntime, without JAX."""

from __future__ import annotations

import functools
import io
import numbers
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from PIL import Image

from jaxsplit.bitstream import EntropyCoder, Frame, Header, pack_frame
from jaxsplit.data.images import decode_image
from jaxsplit.deploy.runtime.bundle import MODEL, as_error, read_bundle
from jaxsplit.errors import BudgetError, ConfigError, FamilyError, choices

#: An image: uint8 [H, W, c], one of Pillow, a path, or a file's bytes; or an array [N, h, w, c].
DeviceImages = Any
_NOT_FINITE = -(2**31)  # the symbol of a latent that is not a finite number
_SYMBOL_LIMIT = np.float32(2.0**31 - 128)  # the largest float32 that int32 holds
_LEVEL = "level"


class DeviceSender:
    """Encodes images on a device that has numpy, Pillow, onnxruntime and constriction alone.

    Frames are those of `jaxsplit.Sender`, but for symbols at the edge of rounding: two compilers
    order sums differently. They decode exactly all the same.

    Args:
      folder: written by `jaxsplit export`; a FamilyError if it is none.
      threads: of onnxruntime; None: one for each core.

    Attributes:
      bundle: what the folder says.

    >>> DeviceSender("no such folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    jaxsplit.errors.FamilyError: no such folder ...
    """

    def __init__(self, folder: str | os.PathLike[str], threads: int | None = None) -> None:
        self.bundle = read_bundle(Path(folder))
        self._threads = threads
        self._coders: dict[int, EntropyCoder] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.bundle.folder)!r})"

    @property
    def header(self) -> Header:
        """Header of containers and streams of this family."""
        return self.bundle.header

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rates, or of those levels that have one."""
        return tuple(one.name for one in self.bundle.rates) or tuple(self.bundle.level_names)

    def index(self, rate: str | float) -> int:
        """Returns the number that a rate has in a frame.

        Args:
          rate: its name; or the position of a level, from 0, the fewest bytes, to 1, also as text.

        Returns:
          The index; a FamilyError if the bundle has no such rate.
        """
        levels = self.bundle.levels
        if levels is None:
            found = next((one.index for one in self.bundle.rates if one.name == rate), None)
        else:
            found = self._level(rate, len(levels))
        if found is None:
            raise FamilyError(
                f"the bundle has no rate {rate!r}; it has {choices(rate, self.names)}"
            )
        return found

    def name(self, index: int) -> str:
        """Returns the name of a rate or level.

        Args:
          index: the number that it has in a frame.

        Returns:
          Its name; that of a level without one is "level" and the number.
        """
        if self.bundle.levels is None:
            return next(one.name for one in self.bundle.rates if one.index == index)
        named = {level: name for name, level in self.bundle.level_names.items()}
        return named.get(index, f"{_LEVEL}{index}")

    def check(self, rate: str | float | None = None, max_bytes: int | None = None) -> None:
        """Checks a request.

        Args:
          rate, max_bytes: as in `encode`, with its errors."""
        if (rate is None) == (max_bytes is None):
            raise ConfigError("give one of rate and max_bytes")
        if rate is not None:
            self.index(rate)
            return
        whole = isinstance(max_bytes, numbers.Integral) and not isinstance(max_bytes, bool)
        if not whole or max_bytes is None or max_bytes < 1:
            raise ConfigError(f"max_bytes is {max_bytes!r}, expected a positive integer")
        if self.bundle.levels is None and not self.bundle.by_accuracy:
            raise FamilyError("the rates carry no figures to choose one by: name a rate")

    def warm_up(self) -> Self:
        """Loads the model and runs it at every rate, which the first image would wait for.

        Returns:
          This sender.
        """
        blank = np.zeros((1, *self.bundle.preprocessing.input_shape), np.uint8)
        rate = np.array(-1) if self.bundle.levels is None else np.zeros(1, np.int64)
        self._session.run(None, {"image": blank, "rate": rate})
        return self

    def _level(self, rate: str | float, count: int) -> int | None:
        if rate in self.bundle.level_names:
            return self.bundle.level_names[str(rate)]
        try:
            if isinstance(rate, str) and rate.startswith(_LEVEL):
                level = int(rate.removeprefix(_LEVEL))
                return level if rate == f"{_LEVEL}{level}" and 0 <= level < count else None
            position = float(rate)
        except (TypeError, ValueError):
            return None
        return round(position * (count - 1)) if 0 <= position <= 1 else None

    def encode(
        self,
        images: DeviceImages,
        rate: str | float | None = None,
        *,
        max_bytes: int | None = None,
        over_budget: str = "error",
    ) -> list[bytes]:
        """Encodes images at a named rate, or each at the best one that fits.

        Args:
          images: one or several, of any size: the network's preprocessing is applied, but not to
            arrays uint8 [N, h, w, c] of its input shape.
          rate: see `index`.
          max_bytes: most bytes of a frame, in place of a rate: the highest level, or the rate of
            best measured accuracy, whose frame is at most that long.
          over_budget: "error", or "shortest": the shortest frame of an image that fits at no rate.

        Returns:
          A frame for each image.

        Raises:
          ConfigError: not exactly one of rate and max_bytes is given, or a value is impossible.
          BudgetError: a FamilyError; an image fits at no rate.
          FamilyError: no such rate, or rates without measured figures to choose by.
          DataError: an image cannot be read.
        """
        self.check(rate, max_bytes)
        if over_budget not in ("error", "shortest"):
            raise ConfigError(f"over_budget is {over_budget!r}; expected error or shortest")
        if max_bytes is None:
            index = self.index(cast("str | float", rate))
            symbols = self.encode_at(self.inputs(images), index)
            return [self.pack(one, index) for one in symbols]
        find = self._best_of if self.bundle.levels is None else self._best_level
        frames = find(self.inputs(images), max_bytes)
        over = next((i for i, frame in enumerate(frames) if len(frame) > max_bytes), None)
        if over is not None and over_budget == "error":
            raise BudgetError(
                f"image {over} takes at least {len(frames[over])} bytes, more than max_bytes = "
                f"{max_bytes}: raise it, or send the shortest frame with over_budget='shortest'",
                shell=f"image {over} takes at least {len(frames[over])} bytes, more than "
                f"--max-bytes {max_bytes}: raise it, or give --over-budget shortest",
            )
        return frames

    __call__ = encode

    def symbols(self, images: DeviceImages, rate: str | float) -> np.ndarray:
        """Computes the symbols of images.

        Args:
          images, rate: as in `encode`.

        Returns:
          int32 [N, h', w', C].
        """
        return self.encode_at(self.inputs(images), self.index(rate))

    def encode_at(self, images: np.ndarray, index: int) -> np.ndarray:
        """Computes the symbols of a rate by its number in a frame.

        Args:
          images: see `inputs`.
          index: see `index`.

        Returns:
          int32 [N, h', w', C].
        """
        if self.bundle.levels is None:
            output = next(one.output for one in self.bundle.rates if one.index == index)
            rate = np.array(index, np.int64)
        else:
            output, rate = "symbols", np.full(len(images), index, np.int64)
        (symbols,) = self._session.run([output], {"image": images, "rate": rate})
        return _finite(symbols)

    def decode(self, frame: Frame) -> np.ndarray:
        """Decodes a frame to its symbols.

        Args:
          frame: of this family; a BitstreamError if it is damaged.

        Returns:
          int32 [h', w', C].
        """
        rates = [rate for rate in self.header.rates for _ in range(rate.levels)]
        shape = rates[frame.rate_index].shape
        return self._coder(frame.rate_index).decode(frame.payload, shape[:2])

    def inputs(self, images: DeviceImages) -> np.ndarray:
        """Converts images to what the model takes, to the pixel as `jaxsplit encode` does it.

        Args:
          images: as in `encode`.

        Returns:
          uint8 [N, h, w, c].
        """
        preprocessing = self.bundle.preprocessing
        if isinstance(images, np.ndarray):
            if images.dtype != np.uint8:
                raise FamilyError(f"images are {images.dtype}; expected uint8")
            if images.shape[1:] == preprocessing.input_shape:
                return images
            images = list(images) if images.ndim == 4 else [images]
        elif not isinstance(images, Sequence) or isinstance(images, str | bytes):
            images = [images]
        return np.stack([self._input(image) for image in images])

    def _input(self, image: object) -> np.ndarray:
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim not in (2, 3):
                raise FamilyError(f"image is {image.dtype} {image.shape}; expected uint8 [H, W, c]")
            pixels = image if image.ndim == 3 else image[..., np.newaxis]
            if pixels.shape == self.bundle.preprocessing.input_shape:
                return pixels
            image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
        elif isinstance(image, io.IOBase):
            image = image.read()
        if not isinstance(image, bytes | str | Path | Image.Image):
            raise FamilyError(f"got a {type(image).__name__} in place of an image")
        return self.bundle.preprocessing.apply(decode_image(image))

    def pack(self, symbols: np.ndarray, index: int) -> bytes:
        """Codes the symbols of one image as a frame.

        Args:
          symbols: int32 [h', w', C].
          index: of their rate.

        Returns:
          The frame.
        """
        count, version = self.header.n_rates, self.header.version
        return pack_frame(self._coder(index).encode(symbols), index, count, version)

    def _coder(self, index: int) -> EntropyCoder:
        if index not in self._coders:
            self._coders[index] = EntropyCoder(self.bundle.tables(index))
        return self._coders[index]

    @functools.cached_property
    def _session(self) -> Any:
        """The model, compiled for this machine."""
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        if self._threads is not None:
            settings.intra_op_num_threads = self._threads
            settings.inter_op_num_threads = 1
        path = str(self.bundle.folder / MODEL)
        try:
            return onnxruntime.InferenceSession(path, settings, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class of its own for every reason
            raise as_error(error) from error

    def _best_of(self, images: np.ndarray, max_bytes: int) -> list[bytes]:
        """Returns each image's frame at the first rate where it is short enough."""
        by_index = {one.index: one for one in self.bundle.rates}
        rates = [by_index[index] for index in self.bundle.by_accuracy]
        feed = {"image": images, "rate": np.array(-1, np.int64)}  # all rates: the head runs once
        each = self._session.run([one.output for one in rates], feed)
        frames = []
        for image in range(len(images)):
            shortest: bytes | None = None
            for rate, symbols in zip(rates, each, strict=True):
                frame = self.pack(_finite(symbols[image]), rate.index)
                if shortest is None or len(frame) < len(shortest):
                    shortest = frame
                if len(shortest) <= max_bytes:
                    break
            assert shortest is not None
            frames.append(shortest)
        return frames

    def _best_level(self, images: np.ndarray, max_bytes: int) -> list[bytes]:
        """Returns each image's frame at the highest level where it is short enough, by bisection.

        Where none of those tried is, the shortest of them, the lowest level among equals.
        """
        assert self.bundle.levels is not None
        rate = np.zeros(len(images), np.int64)
        (latents,) = self._session.run(["latents"], {"image": images, "rate": rate})
        frames = []
        for latent in latents:
            fits, exceeds = -1, len(self.bundle.levels)
            found: bytes | None = None
            while exceeds - fits > 1:
                level = (fits + exceeds) // 2
                frame = self.pack(self._level_symbols(latent, level), level)
                is_short = len(frame) <= max_bytes
                fits, exceeds = (level, exceeds) if is_short else (fits, level)
                if is_short or (fits < 0 and (found is None or len(frame) <= len(found))):
                    found = frame
            assert found is not None
            frames.append(found)
        return frames

    def _level_symbols(self, latents: np.ndarray, level: int) -> np.ndarray:
        """Computes the symbols of one image at a level, as the model does."""
        assert self.bundle.gains is not None
        rounded = np.rint(latents * self.bundle.gains[level])
        if not np.isfinite(rounded).all():
            _finite(np.full(1, _NOT_FINITE, np.int32))
        shape = self.header.rates[0].shape
        return np.clip(rounded, -_SYMBOL_LIMIT, _SYMBOL_LIMIT).astype(np.int32).reshape(shape)


def _finite(symbols: np.ndarray) -> np.ndarray:
    if (symbols == _NOT_FINITE).any():
        raise FamilyError("the model gives latents that are infinite or not numbers")
    return symbols
