"""The device: identity, inputs, errors, and that the next run works after any of them."""

import dataclasses

import numpy as np
import pytest

import lacuna
from hw.contract.commands import COMMAND_BYTES, Opcode, fields
from hw.contract.config import PRESETS
from hw.contract.flash import flash_bytes, flash_content
from hw.contract.registers import REGISTERS, Error, Status
from sw_driver.links.golden import GoldenLink
from sw_driver.links.link import InterruptTimeout
from sw_driver.tflite.builder import TfliteBuilder

PRESET = "small"
SHAPE = (1, 6, 7, 3)


@pytest.fixture(scope="module")
def model():
    builder = TfliteBuilder()
    rng = np.random.default_rng(1)
    x = builder.add_input("image:0", SHAPE, scale=0.05, zero_point=3)
    weights = rng.integers(-60, 60, (8, 3, 3, 3)).astype(np.int8)
    x = builder.add_conv_2d(x, weights, None, 0.01, scale=0.05, zero_point=3, name="first")
    builder.add_output(builder.add_max_pool_2d(x, 2, name="second"))
    return builder.to_bytes()


@pytest.fixture
def program(model):
    return lacuna.compile(model, preset=PRESET)


@pytest.fixture
def x():
    return np.random.default_rng(2).integers(-128, 128, SHAPE).astype(np.int8)


class CountingLink(GoldenLink):
    """The golden model; notes every write to external memory, and what it is told to answer."""

    def __init__(self):
        super().__init__(PRESETS[PRESET])
        self.written: list[int] = []
        self.answers: dict[str, int] = {}
        self.hangs = False
        self.closed = False

    def read_register(self, address):
        name = next(name for name, register in REGISTERS.items() if register.address == address)
        return self.answers.get(name, super().read_register(address))

    def write_memory(self, address, data):
        self.written.append(len(data))
        super().write_memory(address, data)

    def wait_interrupt(self, cycles):
        if self.hangs:
            raise InterruptTimeout(f"No interrupt within {cycles} cycles")
        super().wait_interrupt(cycles)

    def close(self):
        self.closed = True


@pytest.fixture
def link():
    return CountingLink()


# ---- identity -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("register", "value", "message"), [
    ("ID", 0, "There is no Lacuna device behind link 'golden': its ID register holds 0x00000000, not 0x414e434c"),
    ("FORMAT", 99, "The device reads format version 99, this driver writes"),
    ("CONFIG", 5, "The device was built with configuration 0x00000005, 'small' is 0x"),
])
def test_another_device(link, register, value, message):
    link.answers[register] = value
    with pytest.raises(lacuna.DeviceError, match=message):
        lacuna.Device(link, PRESETS[PRESET])
    assert link.closed


def test_the_device_knows_its_preset(link):
    assert lacuna.Device(link).config is PRESETS[PRESET]
    link.answers["CONFIG"] = 5
    with pytest.raises(lacuna.DeviceError, match="is no preset; give its Config"):
        lacuna.Device(link)


def test_open_places():
    with pytest.raises(ValueError, match=r"A device is one of golden, rtl, rtl:SOCKET, uart:PORT, .*, not 'moon'"):
        lacuna.open("moon")


# ---- inputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["image:0", "image", "input", "input_0"])
def test_names_of_an_input(program, x, name):
    with lacuna.open("golden", PRESET) as device:
        by_name = device.run(program, {name: x})
        np.testing.assert_array_equal(by_name.output, device.run(program, x).output)


@pytest.mark.parametrize(("inputs", "message"), [
    ({"image": np.zeros((1, 6, 7), np.int8)}, "Input 'image:0' must be int8 1x6x7x3, not int8 1x6x7"),
    ({"image": np.zeros(SHAPE, np.uint8)}, "Input 'image:0' must be int8 1x6x7x3, not uint8 1x6x7x3"),
    ({"picture": np.zeros(SHAPE, np.int8)}, "The model has no input 'picture'; its inputs are 'image:0'"),
    ({}, "There is no array for the model's input 'image:0'"),
    (dict.fromkeys(("image", "input"), np.zeros(SHAPE, np.int8)), "There are two arrays for input 'image:0'"),
])
def test_inputs_that_do_not_fit(program, inputs, message):
    with lacuna.open("golden", PRESET) as device, pytest.raises(lacuna.InputError) as error:
        device.run(program, inputs)
    assert str(error.value) == message


# ---- runs ---------------------------------------------------------------------------------------


def test_result(program, x, link):
    result = lacuna.Device(link).run(program, x)
    assert [layer.op for layer in result.layers] == ["CONV_2D", "MAX_POOL_2D"]
    assert result.cycles >= max(layer.end for layer in result.layers) > 0
    assert len(result.records) == program.command_count - 2
    assert result.output.shape == (1, 3, 3, 8)
    first = result.layers[0]
    assert first.macs == 6 * 7 * 8 * 27
    assert first.utilisation == first.macs_issued / (first.cycles * PRESETS[PRESET].macs_per_cycle)


def test_the_image_is_written_once(program, x, link, model):
    device = lacuna.Device(link)
    for _ in range(3):
        device.run(program, x)
    assert link.written.count(len(program.image)) == 1
    other = lacuna.compile(model, preset=PRESET)
    other.image = other.image + bytes(8)
    device.run(other, x)
    device.run(program, x)
    assert link.written.count(len(program.image)) == 2


def test_an_error_names_command_and_layer_and_the_next_run_works(program, x, link):
    device = lacuna.Device(link)
    expected = device.run(program, x).output
    index = program.layers[1].commands[0].index
    damaged = bytearray(program.image)
    damaged[index * COMMAND_BYTES] = 0x77
    bad = dataclasses.replace(program, image=bytes(damaged))
    with pytest.raises(lacuna.DeviceError, match=rf"BAD_OPCODE at command {index} \(unreadable") as error:
        device.run(bad, x)
    assert (error.value.code, error.value.command) == (Error.BAD_OPCODE, index)
    np.testing.assert_array_equal(device.run(program, x).output, expected)

    damaged = bytearray(program.image)
    names = [field.name for field in fields(Opcode.MAX_POOL)]
    before = fields(Opcode.MAX_POOL)[: names.index("kernel_height")]
    damaged[index * COMMAND_BYTES + sum(field.bits for field in before) // 8] = 0
    bad.image = bytes(damaged)
    with pytest.raises(lacuna.DeviceError, match=rf"BAD_COMMAND at command {index} \(MAX_POOL, layer 'second'\)"):
        device.run(bad, x)
    np.testing.assert_array_equal(device.run(program, x).output, expected)


def test_no_interrupt(program, x, link):
    device = lacuna.Device(link)
    link.hangs = True
    message = r"did not finish within 5000 cycles: STATUS .*conv idle.*COMPLETED \d+"
    with pytest.raises(lacuna.DeviceTimeout, match=message):
        device.run(program, x, timeout_cycles=5000)
    link.hangs = False
    device.run(program, x)


def test_a_device_that_stays_busy(program, x, link):
    device = lacuna.Device(link)
    link.hangs = True
    link.answers["STATUS"] = int(Status.BUSY)
    with pytest.raises(lacuna.DeviceError, match="still busy"):
        device.run(program, x)


def test_too_little_external_memory(program, x, link):
    link.memory_bytes = 4096
    with pytest.raises(lacuna.DeviceError, match=r"needs \d+ bytes of external memory .* the device has 4096"):
        lacuna.Device(link).run(program, x)


def test_a_program_in_flash(program, x):
    """It runs from there, with next to no external memory of its own; anything else in the flash is refused."""
    link = GoldenLink(PRESETS[PRESET])
    expected = lacuna.Device(link).run(program, x).output
    device = lacuna.Device(link)
    device.from_flash = True
    with pytest.raises(lacuna.DeviceError, match="has no flash"):
        device.run(program, x)
    link.flash_base, link.flash_bytes = 1 << 20, flash_bytes(program)
    with pytest.raises(lacuna.DeviceError, match="does not hold this program, but no program"):
        device.run(program, x)
    content = flash_content(program)
    link.write_memory(link.flash_base, content.ljust(-(-len(content) // 8) * 8, b"\xff"))
    link.memory_bytes = 3 * 4096
    assert np.array_equal(device.run(program, x).output, expected)
    with pytest.raises(lacuna.DeviceError, match=r"needs \d+ bytes of external memory"):
        lacuna.Device(link).run(program, x)
    other = dataclasses.replace(program, image=program.image[:-1] + bytes([program.image[-1] ^ 1]))
    with pytest.raises(lacuna.DeviceError, match="does not hold this program, but another program"):
        device.run(other, x)
    link.flash_bytes = flash_bytes(program) - 8
    with pytest.raises(lacuna.DeviceError, match=r"needs \d+ bytes of flash"):
        device.run(program, x)


def test_public_names():
    assert all(hasattr(lacuna, name) for name in lacuna.__all__)
