"""Input files: arrays, raw bytes, pictures, masks, and one clear error for each mistake."""

import numpy as np
import pytest
from PIL import Image

from sw_driver.graph import Graph, Tensor
from sw_driver.inputs import InputError, load_input, load_runs, quantise_pixels


def image_input(channels=3, height=4, width=6, scale=1 / 255, zero_point=-128):
    return Tensor(0, "x", (1, height, width, channels), "int8", np.array([scale], np.float32), np.array([zero_point]))


MASK = Tensor(1, "m", (1, 4, 6, 1), "bool")
VALUES = np.arange(72, dtype=np.int8).reshape(1, 4, 6, 3)


def saved(path, array):
    np.save(path, array)
    return path


@pytest.mark.parametrize("array", [VALUES, VALUES[0], np.asfortranarray(VALUES)])
def test_arrays(tmp_path, array):
    loaded = load_input(saved(tmp_path / "x.npy", array), image_input())
    np.testing.assert_array_equal(loaded, VALUES)
    assert loaded.dtype == np.int8
    assert loaded.flags.c_contiguous


def test_raw_bytes(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(VALUES.tobytes())
    np.testing.assert_array_equal(load_input(path, image_input()), VALUES)


@pytest.mark.parametrize("array", [
    np.eye(4, 6, dtype=bool).reshape(1, 4, 6, 1), np.eye(4, 6, dtype=bool), np.eye(4, 6, dtype=np.uint8),
])
def test_masks(tmp_path, array):
    loaded = load_input(saved(tmp_path / "m.npy", array), MASK)
    np.testing.assert_array_equal(loaded[0, :, :, 0], np.eye(4, 6, dtype=bool))
    assert loaded.dtype == np.bool_


def test_a_mask_from_bytes_and_from_a_picture(tmp_path):
    mask = np.eye(4, 6, dtype=np.uint8)
    (tmp_path / "m.bin").write_bytes(mask.tobytes())
    np.testing.assert_array_equal(load_input(tmp_path / "m.bin", MASK)[0, :, :, 0], mask == 1)
    Image.fromarray(mask * 255).save(tmp_path / "m.png")
    np.testing.assert_array_equal(load_input(tmp_path / "m.png", MASK)[0, :, :, 0], mask == 1)
    Image.fromarray(mask * 255).resize((12, 8), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    np.testing.assert_array_equal(load_input(tmp_path / "large.png", MASK)[0, :, :, 0], mask == 1)


@pytest.mark.parametrize(("scale", "zero_point", "expected"), [
    (1 / 255, -128, [-128, -127, 0, 127]),  # 0 to 1
    (1.0, -128, [-128, -127, 0, 127]),  # 0 to 255
    (2.0, 0, [0, 1, 64, 127]),  # halves go away from zero
    (0.01, 0, [-100, -99, 0, 100]),  # -1 to 1
    (1 / 64, 0, [-64, -63, 0, 64]),
    (4.0, 0, [0, 0, 32, 64]),
])
def test_pixels_are_quantised_by_the_range_of_the_input(scale, zero_point, expected):
    pixels = np.array([0, 1, 128, 255], np.uint8)
    np.testing.assert_array_equal(quantise_pixels(pixels, scale, zero_point), expected)


def test_a_picture_of_the_right_size_is_taken_as_it_is(tmp_path):
    pixels = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    loaded = load_input(tmp_path / "x.png", image_input())
    np.testing.assert_array_equal(loaded[0], pixels.astype(int) - 128)


@pytest.mark.parametrize("name", ["x.png", "x.JPG"])
def test_a_picture_is_cropped_and_scaled(tmp_path, name):
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 20:80] = 200  # the middle, of the input's proportions
    Image.fromarray(pixels).save(tmp_path / name, quality=100)
    loaded = load_input(tmp_path / name, image_input())
    assert loaded.shape == (1, 4, 6, 3)
    assert np.abs(loaded[:, :, 1:-1].astype(int) - 72).max() <= 2


def test_colour_becomes_grey_and_grey_becomes_colour(tmp_path):
    Image.new("RGB", (6, 4), (255, 255, 255)).save(tmp_path / "colour.png")
    assert (load_input(tmp_path / "colour.png", image_input(1)) == 127).all()
    Image.new("L", (6, 4), 255).save(tmp_path / "grey.png")
    assert (load_input(tmp_path / "grey.png", image_input(3)) == 127).all()


def write_archive(path):
    np.savez(path.with_suffix(".npz"), a=VALUES)
    path.with_suffix(".npz").rename(path)


def write_lying_header(path):
    np.save(path, VALUES)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"(1, 4, 6, 3), ", b"(9999999999,),"))


@pytest.mark.parametrize(("name", "write", "message"), [
    ("x.npy", None, "there is no such file"),
    ("x.txt", lambda p: p.write_text("1"), "must be .npy, .bin, .png, .jpg, .jpeg, not .txt"),
    ("x.npy", lambda p: p.write_bytes(b""), "not a valid .npy file"),
    ("x.npy", lambda p: p.write_bytes(b"nonsense" * 20), "not a valid .npy file"),
    ("x.npy", lambda p: p.write_bytes(b"\x93NUMPY\x01\0\x08\0{'descr':"), "not a valid .npy file"),
    ("x.npy", lambda p: np.save(p, np.array([{}], object)), "not a valid .npy file"),
    ("x.npy", write_lying_header, "not a valid .npy file"),
    ("x.npy", write_archive, "archive of arrays"),
    ("x.npy", lambda p: np.save(p, VALUES[:, 1:]), r"shape must be \(1, 4, 6, 3\) or \(4, 6, 3\), not \(1, 3, 6, 3\)"),
    ("x.npy", lambda p: np.save(p, VALUES.astype(np.float32)), "must be int8, not float32; quantise it: round"),
    ("x.npy", lambda p: np.save(p, VALUES.astype(np.uint8)), "must be int8, not uint8"),
    ("x.bin", lambda p: p.write_bytes(b"12"), r"must have 72 bytes \(1x4x6x3 int8\), not 2"),
    ("x.png", lambda p: p.write_bytes(b"no picture"), "not a valid PNG or JPEG picture"),
    ("x.png", lambda p: Image.new("I;16", (6, 4)).save(p), "8 bits for each channel"),
])
def test_mistakes_are_named(tmp_path, name, write, message):
    path = tmp_path / name
    if write is not None:
        write(path)
    with pytest.raises(InputError, match=message) as caught:
        load_input(path, image_input(), "x")
    assert str(caught.value).startswith(f"{path}, for input 'x': ")
    assert "\n" not in str(caught.value)


def test_a_truncated_picture_is_refused(tmp_path):
    path = tmp_path / "x.jpg"
    Image.effect_noise((60, 40), 50).save(path)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(InputError, match="not a valid PNG or JPEG picture"):
        load_input(path, image_input())


def test_a_mask_of_other_values_is_refused(tmp_path):
    with pytest.raises(InputError, match="a mask must be bool, or integers 0 and 1, not int64 from 0 to 23"):
        load_input(saved(tmp_path / "m.npy", np.arange(24).reshape(4, 6)), MASK)


def test_a_picture_for_an_input_that_is_none(tmp_path):
    Image.new("L", (6, 4)).save(tmp_path / "x.png")
    with pytest.raises(InputError, match="needs an input of 1 x height x width x 1 or 3, not 1 x 640"):
        load_input(tmp_path / "x.png", Tensor(0, "x", (1, 640), "int8", np.ones(1, np.float32), np.zeros(1, np.int64)))


# ---- the command line's arguments --------------------------------------------------------------


def graph_of(*tensors):
    return Graph("g", list(tensors), [], [tensor.index for tensor in tensors], [])


def test_one_input_makes_a_run_of_each_file(tmp_path):
    files = [str(saved(tmp_path / f"{n}.npy", VALUES + np.int8(n))) for n in range(3)]
    runs = load_runs(graph_of(image_input()), files)
    assert [int(run["x"][0, 0, 0, 0]) for run in runs] == [0, 1, 2]


def test_several_inputs_make_one_run(tmp_path):
    x, m = saved(tmp_path / "x=1.npy", VALUES), saved(tmp_path / "m.npy", np.ones((4, 6), bool))
    graph = graph_of(image_input(), MASK)
    (run,) = load_runs(graph, [f"m={m}", f"x={x}"])
    assert run["x"].shape == (1, 4, 6, 3)
    assert run["m"].all()
    for arguments, message in [
        ([str(x)], "has 2 inputs, 'x', 'm': give NAME=FILE"),
        ([f"x={x}"], "no file is given for input 'm'"),
        ([f"x={x}", f"x={x}", f"m={m}"], "'x' is given twice"),
        ([f"x={x}", str(m)], "give either NAME=FILE for every input, or only files"),
        ([f"y={m}"], "no input 'y'; its inputs are 'x', 'm'"),
    ]:
        with pytest.raises(InputError, match=message):
            load_runs(graph, arguments)
