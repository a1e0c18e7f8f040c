"""The bridge on a board: registers, external memory and interrupt of the device, over a serial line."""
