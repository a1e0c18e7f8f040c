"""The memories of the device, as arrays of entries, and external memory behind its address windows."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from hw.contract.commands import Space
from hw.contract.config import MASK_WORD_BITS, WINDOWS, Config
from hw.contract.registers import Error, Permission

Bytes = NDArray[np.uint8]


class DeviceError(Exception):
    """What the device reports in ERROR_CODE and ERROR_ADDRESS; the command index is added where it is known."""

    def __init__(self, code: Error, text: str, address: int = 0):
        super().__init__(f"{code.name}: {text}")
        self.code = code
        self.address = address & 0xFFFF_FFFF


def entry_bytes(config: Config, space: Space) -> int:
    """Bytes of an entry of an on-chip memory, as LOAD and STORE count them."""
    return {
        Space.FEATURE: config.lanes,
        Space.WEIGHT: config.weight_word_bytes,
        Space.MAP: 8,
        Space.MASK: MASK_WORD_BITS // 8,
        Space.PARAMETER: config.parameter_entry_bytes,
    }[space]


def entry_count(config: Config, space: Space) -> int:
    """Entries of an on-chip memory."""
    return {
        Space.FEATURE: config.feature_words,
        Space.WEIGHT: config.weight_words,
        Space.MAP: config.map_entries,
        Space.MASK: config.mask_words,
        Space.PARAMETER: config.parameter_entries,
    }[space]


class OnChip:
    """The on-chip memories: `entries[space]` is uint8 [entries, bytes of an entry]. Addresses wrap around."""

    def __init__(self, config: Config):
        self.config = config
        self.entries: dict[Space, Bytes] = {
            space: np.zeros((entry_count(config, space), entry_bytes(config, space)), dtype=np.uint8)
            for space in Space
        }

    def _indices(self, space: Space, address: int, length: int) -> NDArray[np.int64]:
        memory = self.entries[space]
        return (address + np.arange(length // memory.shape[1])) % memory.shape[0]

    def write(self, space: Space, address: int, data: Bytes) -> None:
        """Write whole entries from entry `address` on."""
        indices = self._indices(space, address, data.size)
        self.entries[space][indices] = data.reshape(len(indices), self.entries[space].shape[1])

    def read(self, space: Space, address: int, length: int) -> Bytes:
        """`length` bytes, whole entries, from entry `address` on."""
        return self.entries[space][self._indices(space, address, length)].reshape(-1)

    @property
    def feature(self) -> NDArray[np.int8]:
        """Feature memory: int8 [words, lanes], a view."""
        return self.entries[Space.FEATURE].view(np.int8)

    @property
    def weight_rows(self) -> NDArray[np.int8]:
        """Weight store: int8 [2 * words, lanes], a view; a row is one input channel's output channels."""
        return self.entries[Space.WEIGHT].view(np.int8).reshape(-1, self.config.lanes)

    @property
    def map_bits(self) -> NDArray[np.bool_]:
        """Row maps: bool [maps, lanes]."""
        bits = np.unpackbits(self.entries[Space.MAP].reshape(-1), bitorder="little")
        return bits.reshape(-1, self.config.lanes).astype(bool)

    @property
    def mask_bits(self) -> NDArray[np.bool_]:
        """Decision masks: bool [words, MASK_WORD_BITS]."""
        return np.unpackbits(self.entries[Space.MASK], axis=1, bitorder="little").astype(bool)

    def parameters(self, entry: int, entries: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Bias, multiplier and shift of `entries` * Q channels: three int64 arrays."""
        q = self.config.requantise_lanes
        memory = self.entries[Space.PARAMETER]
        data = memory[(entry + np.arange(entries)) % memory.shape[0]]
        bias = np.ascontiguousarray(data[:, : 4 * q]).view("<i4")
        multiplier = np.ascontiguousarray(data[:, 4 * q : 8 * q]).view("<i4")
        shift = np.ascontiguousarray(data[:, 8 * q : 9 * q]).view(np.int8)
        return (bias.reshape(-1).astype(np.int64), multiplier.reshape(-1).astype(np.int64),
                shift.reshape(-1).astype(np.int64))


@dataclasses.dataclass
class AddressWindow:
    """One window: bytes base .. base + size - 1, with Permission bits."""

    base: int = 0
    size: int = 0
    permission: int = 0


class External:
    """External memory: `length` bytes from byte address `base`, allocated by the operating system when touched."""

    def __init__(self, base: int, length: int):
        self.base = base
        self.data: Bytes = np.zeros(length, dtype=np.uint8)

    def holds(self, address: int, length: int) -> bool:
        """Whether all of these bytes exist."""
        return self.base <= address and address + length <= self.base + self.data.size

    def view(self, address: int, length: int) -> Bytes:
        """A writable view of `length` bytes; `holds` must be true for them."""
        return self.data[address - self.base : address - self.base + length]


class Windows:
    """Accesses to external memory through the address windows; everything else is denied.

    `check`, `read` and `write` raise DeviceError: WINDOW_READ or WINDOW_WRITE with the transfer's offset, BUS_READ or
    BUS_WRITE with the first byte address where no memory answers.
    """

    def __init__(self, external: External, address_bits: int):
        self.external = external
        self.address_bits = address_bits
        self.windows = [AddressWindow() for _ in range(WINDOWS)]

    def check(self, window: int, offset: int, length: int, permission: Permission) -> int:
        """The byte address of an access that is permitted."""
        reading = permission == Permission.READ
        code = Error.WINDOW_READ if reading else Error.WINDOW_WRITE
        limits = self.windows[window]
        if not limits.permission & permission:
            raise DeviceError(code, f"window {window} does not permit to {permission.name}", offset)
        if offset + length > limits.size:
            raise DeviceError(code, f"bytes {offset} to {offset + length - 1} are outside window {window} of "
                                    f"{limits.size} bytes", offset)
        address = limits.base + offset
        if address + length > 1 << self.address_bits:
            raise DeviceError(code, f"bytes {offset} to {offset + length - 1} of window {window} at {limits.base:#x} "
                                    f"pass the end of the address space of {self.address_bits} bits", offset)
        if not self.external.holds(address, length):
            end = self.external.base + self.external.data.size
            missing = end if self.external.base <= address < end else address
            raise DeviceError(Error.BUS_READ if reading else Error.BUS_WRITE,
                              f"there is no memory at {missing:#x}", missing)
        return address

    def read(self, window: int, offset: int, length: int) -> Bytes:
        """A copy of `length` bytes at `offset` of `window`."""
        return self.external.view(self.check(window, offset, length, Permission.READ), length).copy()

    def write(self, window: int, offset: int, data: Bytes) -> None:
        """Write `data` at `offset` of `window`."""
        self.external.view(self.check(window, offset, data.size, Permission.WRITE), data.size)[:] = data
