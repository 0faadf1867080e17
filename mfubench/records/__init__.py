"""Read the probe's records of a run, follow their progress, and compare them with the expected work."""
