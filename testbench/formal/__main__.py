"""Runs the proofs and prints a table: `python -m testbench.formal [NAME ...]`. The exit status is 0 when all hold."""

from __future__ import annotations

import argparse
import sys

from testbench.formal.proofs import PROOFS
from testbench.formal.prover import missing_tools


def main() -> int:
    """Check the proofs of these names, all by default; what fails is told with its assertion."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of: " + ", ".join(proof.name for proof in PROOFS))
    names = parser.parse_args().names
    unknown = set(names) - {proof.name for proof in PROOFS}
    if unknown:
        parser.error(f"there is no proof {', '.join(sorted(unknown))}")
    if missing := missing_tools():
        print(f"Proofs need {' and '.join(missing)}: pip install .[formal], or make formal", file=sys.stderr)
        return 2
    failed = []
    print(f"{'proof':<17}{'method':<13}{'depth':>5}{'seconds':>9}  what holds", flush=True)
    for proof in PROOFS:
        if names and proof.name not in names:
            continue
        holds, seconds, text = proof.check()
        print(f"{proof.name:<17}{proof.method:<13}{proof.depth:>5}{seconds:>9.1f}  "
              f"{proof.says if holds else 'DOES NOT HOLD'}", flush=True)
        if not holds:
            failed.append(proof.name)
            print(text, flush=True)
    print(f"{len(failed)} do not hold: {', '.join(failed)}" if failed else "all of them hold")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
