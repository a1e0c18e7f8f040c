"""The hardware of Lacuna, in the order of the data. `hw.contract` alone is plain Python."""
