"""Rules of the bus, proved or bounded-checked by Yosys-smtbmc: `python -m testbench.formal`, or `make formal`.

A harness (`harness.Harness`) puts a module of hw.bus among free inputs, states what may be assumed of the other side
of the bus and what must always hold; `prover` has it judged. `proofs` is the list of them.
"""
