"""Observe a run and turn its records into figures, each with its interval, and a status."""
