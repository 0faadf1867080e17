"""The machine, the peak and the ceiling that a run's FLOP/s are divided by, and monitors of the machine during a run."""
