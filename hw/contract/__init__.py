"""What hardware, golden model and driver agree on: sizes, registers, commands, layouts, image.

Plain Python, no dependency: every fact is written once, here, and read everywhere else.
"""
