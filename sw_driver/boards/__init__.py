"""From a board's name to its bitstream, with the open tools from PyPI; Amaranth runs in a process of its own."""
