"""Golden model, cycle model, and the one file that knows simulators."""
