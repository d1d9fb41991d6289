"""Images as documents: height * width * 3 bytes each, row by row, the red, green and blue of a pixel side by side.

What a file is, is told by its content:
- a picture (PNG and whatever else Pillow opens), grey or palette pictures as their RGB;
- an array, `.npy` or `.npz` (its member `data`, or its only one): uint8 [N, H, W, 3], or uint8 [N, 3 * S * S] with
  all reds, then all greens, then all blues, as downsampled ImageNet is handed out (1707.08819; the reshaping is in
  the authors' repository PatrykChrabaszcz/Imagenet32_Scripts, and their layout is that of CIFAR);
- CIFAR-10's binary version, `.bin`: one byte of label and those 3072 bytes, again and again
  (https://www.cs.toronto.edu/~kriz/cifar.html).
A Python pickle is refused: reading one runs whatever code it holds.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import DataError
from data_pipeline.image_shape import NUM_CHANNELS, ImageShape
from data_pipeline.prepare.compressed import Readable
from data_pipeline.prepare.sources import SourceFile, seekable

_CIFAR_SIDE = 32
_WITHOUT_LOSS = ("RGB", "L", "P", "1")  # Pillow's modes whose conversion to RGB forgets nothing
_NUMPY_MAGIC, _ZIP_MAGIC, _PICKLE_MAGIC = b"\x93NUMPY", b"PK\x03\x04", b"\x80"


class Image(NamedTuple):
    """One image as the model reads it."""

    shape: ImageShape
    data: bytes


def images_of(file: SourceFile, *, shape: ImageShape | None = None) -> Iterator[Image]:
    """The images of a file in order; DataError when one cannot be read, or has another shape than `shape`."""
    for number, image in enumerate(_read(file), start=1):
        if shape is not None and image.shape != shape:
            raise _broken(file, f"image {number} is {image.shape}, the dataset's first one {shape}")
        yield image


def common_shape(files: tuple[SourceFile, ...], *, skip_broken: bool) -> ImageShape:
    """The shape of the first image that can be read, which all others must have; DataError when there is none."""
    for file in files:
        try:
            for image in _read(file):
                return image.shape
        except DataError:
            if not skip_broken:
                raise
    raise DataError(f"{files[0].path}: there is no image in the {len(files)} files given")


def _broken(file: SourceFile, reason: str) -> DataError:
    return DataError(f"{file.path}: {reason}; mend it, or leave such files out with --broken skip")


def _read(file: SourceFile) -> Iterator[Image]:
    try:
        with file.open_stored() as stored:
            magic = cast(Any, stored).peek(len(_NUMPY_MAGIC))
            if magic.startswith(_PICKLE_MAGIC):
                raise ValueError(
                    "a Python pickle, which may run any code when it is read; give arrays (.npy, .npz), pictures, or "
                    "the binary version of CIFAR-10 (.bin)"
                )
            if magic.startswith(_NUMPY_MAGIC):
                yield from _array_images(cast(Readable, stored))
            elif magic.startswith(_ZIP_MAGIC):
                with seekable(stored) as whole:
                    yield from _npz_images(whole)
            elif file.name.lower().endswith(".bin"):
                yield from _cifar_images(cast(Readable, stored))
            else:
                yield _picture(stored)
    except DataError:  # of a remote file: says all there is to say
        raise
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise _broken(file, reason) from None


def _picture(stored: BinaryIO) -> Image:
    try:
        import PIL.Image
    except ImportError:
        raise DataError("pictures need the Pillow library; pip install 'hierlm[data]'") from None
    try:
        with PIL.Image.open(io.BytesIO(stored.read())) as picture:
            if picture.mode not in _WITHOUT_LOSS:
                raise ValueError(f"a picture of mode {picture.mode}; make it plain RGB, 8 bits a channel")
            pixels = picture.convert("RGB")
            return Image(ImageShape(pixels.height, pixels.width), pixels.tobytes())
    except PIL.UnidentifiedImageError:
        raise ValueError("not an image (no picture, array or CIFAR-10 .bin)") from None
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(str(error)) from None


def _npz_images(stored: BinaryIO) -> Iterator[Image]:
    with zipfile.ZipFile(stored) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        chosen = "data.npy" if "data.npy" in names else names[0] if len(names) == 1 else None
        if chosen is None:
            there = ", ".join(name.removesuffix(".npy") for name in names) or "none"
            raise ValueError(f"an archive without an array `data` (there: {there[:80]})")
        with archive.open(chosen) as member:
            yield from _array_images(cast(Readable, member))


def _array_images(stream: Readable) -> Iterator[Image]:
    """Images of a .npy stream one by one; the array is never whole in memory."""
    dimensions = _array_dimensions(stream)
    size = math.prod(dimensions[1:])
    for _ in range(dimensions[0]):
        data = _exactly(stream, size)
        if len(dimensions) == 2:
            yield _from_planes(data, side=math.isqrt(size // NUM_CHANNELS))
        else:
            yield Image(ImageShape(dimensions[1], dimensions[2]), data)


def _array_dimensions(stream: Readable) -> tuple[int, ...]:
    version = np.lib.format.read_magic(cast(Any, stream))
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    dimensions, by_columns, dtype = read_header(cast(Any, stream))
    pixels = dimensions[1] // NUM_CHANNELS if len(dimensions) == 2 else 0
    planes = pixels > 0 and math.isqrt(pixels) ** 2 * NUM_CHANNELS == dimensions[1]
    interleaved = len(dimensions) == 4 and dimensions[3] == NUM_CHANNELS
    if dtype != np.uint8 or by_columns or not (planes or interleaved):
        order = " in Fortran order" if by_columns else ""
        raise ValueError(
            f"an array {dtype} {list(dimensions)}{order}; allowed: uint8 [N, H, W, 3], or uint8 [N, 3 * S * S] with "
            "the channels one after another"
        )
    return tuple(dimensions)


def _cifar_images(stream: Readable) -> Iterator[Image]:
    size = _CIFAR_SIDE**2 * NUM_CHANNELS
    while stream.read(1):  # the label
        yield _from_planes(_exactly(stream, size), side=_CIFAR_SIDE)


def _from_planes(data: bytes, *, side: int) -> Image:
    planes: NDArray[np.uint8] = np.frombuffer(data, dtype=np.uint8).reshape(NUM_CHANNELS, side, side)
    return Image(ImageShape(side, side), planes.transpose(1, 2, 0).tobytes())


def _exactly(stream: Readable, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = stream.read(size - len(data))
        if not more:
            raise EOFError("the file ends in the middle of an image")
        data += more
    return data
