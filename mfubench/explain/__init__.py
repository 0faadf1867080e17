"""Explain a step's time: its exclusive categories, the way from the peak down to the MFU, the difference of two runs."""
