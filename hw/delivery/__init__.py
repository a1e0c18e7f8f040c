"""What goes beside the Verilog: register maps, file lists, manifest, integration page. All read from the contract.

Only `__main__` imports Amaranth; everything else is plain Python.
"""
