"""Inputs of a run from files: arrays (.npy), raw bytes (.bin), pictures (PNG, JPEG).

An array has the input's shape, with or without the leading batch of 1, and its type: int8 as the model takes it,
bool (or integers 0 and 1) for a decision mask. A mask, or an input of one channel, may also be height x width.
Raw bytes are the int8 values, or the mask's bytes 0 and 1, in order, as many as the input has.

Pictures are for inputs 1 x height x width x 1 or 3. They are cropped to the input's proportions around the centre,
scaled, turned into grey or RGB, and quantised: q = round(real / scale) + zero point, halves away from zero. What
real value a pixel of 0 to 255 stands for follows from the range of real values that the input can hold:

    highest value above 64       the pixel itself, 0 to 255
    lowest value below -0.25     pixel / 127.5 - 1, that is -1 to 1
    otherwise                    pixel / 255, that is 0 to 1

Models trained with another normalisation (means and deviations of channels) need a .npy file. A picture for a mask
is active where it is at least half bright.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sw_driver.graph import NUMPY_TYPES, Graph, Tensor

#: Pixels of pictures that are active in a mask: at least this bright.
_MASK_THRESHOLD = 128

_IMAGES = (".png", ".jpg", ".jpeg")


class InputError(ValueError):
    """An input file that can't be read, or does not fit the model's input."""


def load_runs(graph: Graph, arguments: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """Inputs for runs, as given on a command line.

    For a graph with one input, each FILE is a run. NAME=FILE, once for every input of the graph, makes one run.
    Returns for each run an array for each of `Graph.input_names`. Raises InputError.
    """
    names = graph.input_names
    given = [_name_and_path(graph, argument) for argument in arguments]
    if all(name is None for name, _path in given):
        if len(names) != 1:
            raise InputError(f"the model has {len(names)} inputs, {', '.join(map(repr, names))}: "
                             "give NAME=FILE for each of them")
        return [{names[0]: load_input(path, graph.tensors[graph.inputs[0]], names[0])} for _name, path in given]
    run: dict[str, np.ndarray] = {}
    for name, path in given:
        if name is None:
            raise InputError(f"{path}: give either NAME=FILE for every input, or only files")
        if name in run:
            raise InputError(f"input {name!r} is given twice; NAME=FILE makes one run, with one file for each input")
        run[name] = load_input(path, graph.tensors[graph.inputs[names.index(name)]], name)
    missing = [name for name in names if name not in run]
    if missing:
        raise InputError(f"no file is given for input {', '.join(map(repr, missing))}")
    return [run]


def load_input(path: str | Path, tensor: Tensor, name: str = "") -> np.ndarray:
    """The contents of a file as an array of the tensor's shape and type.

    `name` is what messages call the input, by default the tensor's name. Raises InputError.
    """
    path = Path(path)
    label = f"{path}, for input {name or tensor.name!r}"
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".bin", *_IMAGES):
        raise InputError(f"{label}: the file must be .npy, .bin, {', '.join(_IMAGES)}, not {path.suffix or 'without'}")
    if not path.is_file():
        raise InputError(f"{label}: there is no such file")
    if suffix == ".npy":
        return fit_array(_read_array(path, label), tensor, label)
    if suffix == ".bin":
        return _from_bytes(path.read_bytes(), tensor, label)
    return _from_image(path, tensor, label)


def fit_array(array: np.ndarray, tensor: Tensor, label: str = "input") -> np.ndarray:
    """`array` in the tensor's shape and type, by the rules above. Raises InputError, which starts with `label`."""
    shapes = [tensor.shape]
    if tensor.shape[:1] == (1,):
        shapes.append(tensor.shape[1:])
        if len(tensor.shape) == 4 and tensor.shape[3] == 1:
            shapes.append(tensor.shape[1:3])
    if array.shape not in shapes:
        raise InputError(f"{label}: the shape must be {' or '.join(map(str, shapes))}, not {array.shape}")
    if tensor.dtype == "bool":
        return _as_mask(array, label).reshape(tensor.shape)
    if array.dtype != NUMPY_TYPES[tensor.dtype]:
        remedy = ""
        if tensor.dtype == "int8" and len(tensor.scales) == 1:
            remedy = f"; quantise it: round(value / {tensor.scale:.9g}) + {tensor.zero_point}"
        raise InputError(f"{label}: the type must be {tensor.dtype}, not {array.dtype}{remedy}")
    return np.ascontiguousarray(array).reshape(tensor.shape)


def _name_and_path(graph: Graph, argument: str) -> tuple[str | None, str]:
    """Input and file of NAME=FILE; None and the file of FILE."""
    cuts = [] if Path(argument).exists() else [i for i, character in enumerate(argument) if character == "="]
    unknown = ""
    for cut in cuts:
        try:
            return graph.input_names[graph.input_position(argument[:cut])], argument[cut + 1 :]
        except KeyError as error:
            unknown = unknown or str(error.args[0])
    if unknown:
        raise InputError(f"{argument}: {unknown[0].lower()}{unknown[1:]}")
    return None, argument


def _as_mask(array: np.ndarray, label: str) -> np.ndarray:
    if array.dtype == np.bool_:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.integer) or not np.isin(array, (0, 1)).all():
        raise InputError(f"{label}: a mask must be bool, or integers 0 and 1, not {array.dtype}"
                         + (f" from {array.min()} to {array.max()}" if array.size else ""))
    return array.astype(np.bool_)


def _read_array(path: Path, label: str) -> np.ndarray:
    try:
        # Mapped, not read: a damaged header that promises gigabytes is refused instead of allocated.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy lets parsers' errors of many kinds through
        raise InputError(f"{label}: not a valid .npy file: {error}") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise InputError(f"{label}: this is an archive of arrays; store one array with numpy.save")
    return np.array(array)


def _from_bytes(raw: bytes, tensor: Tensor, label: str) -> np.ndarray:
    if len(raw) != tensor.elements * tensor.element_bytes:
        raise InputError(f"{label}: the file must have {tensor.elements * tensor.element_bytes} bytes "
                         f"({'x'.join(map(str, tensor.shape))} {tensor.dtype}), not {len(raw)}")
    if tensor.dtype == "bool":
        return _as_mask(np.frombuffer(raw, np.uint8), label).reshape(tensor.shape)
    return np.frombuffer(raw, NUMPY_TYPES[tensor.dtype].newbyteorder("<")).reshape(tensor.shape).copy()


# ---- pictures ----------------------------------------------------------------------------------


def _from_image(path: Path, tensor: Tensor, label: str) -> np.ndarray:
    shape = tensor.shape
    if len(shape) != 4 or shape[0] != 1 or shape[3] not in (1, 3):
        raise InputError(f"{label}: a picture needs an input of 1 x height x width x 1 or 3, not "
                         f"{' x '.join(map(str, shape))}; use .npy")
    mask = tensor.dtype == "bool"
    pixels = _read_pixels(path, (shape[2], shape[1]), "L" if shape[3] == 1 else "RGB", label, smooth=not mask)
    if mask:
        return (pixels >= _MASK_THRESHOLD).reshape(shape)
    if tensor.dtype != "int8":
        raise InputError(f"{label}: pictures are for int8 inputs and masks, not {tensor.dtype}; use .npy")
    return quantise_pixels(pixels, tensor.scale, tensor.zero_point).reshape(shape)


def quantise_pixels(pixels: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """int8 values of uint8 pixels, by the convention above."""
    lowest, highest = scale * (-128 - zero_point), scale * (127 - zero_point)
    real = pixels.astype(np.float64)
    if highest <= 64:
        real = real / 127.5 - 1 if lowest < -0.25 else real / 255
    steps = real / scale
    rounded = np.sign(steps) * np.floor(np.abs(steps) + 0.5)
    return np.clip(rounded + zero_point, -128, 127).astype(np.int8)


def _read_pixels(path: Path, size: tuple[int, int], mode: str, label: str, smooth: bool) -> np.ndarray:
    """uint8 [height, width] or [height, width, 3] of a picture, cropped and scaled to `size` (width, height)."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            source = image.mode
            image = ImageOps.exif_transpose(image)
            if source in ("I", "F") or source.startswith("I;"):
                raise InputError(f"{label}: the picture must have 8 bits for each channel, not mode {source}")
            image = image.convert(mode)
            if image.size != size:
                method = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
                image = ImageOps.fit(image, size, method)
            return np.asarray(image, np.uint8)
    except InputError:
        raise
    except Exception as error:  # Pillow lets decoders' errors of many kinds through
        raise InputError(f"{label}: not a valid PNG or JPEG picture: {error}") from None
