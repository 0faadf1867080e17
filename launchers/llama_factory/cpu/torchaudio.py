"""A stand-in for torchaudio on a CPU build of torch, for which there is no wheel.

The framework imports it at its start, for audio input; text never uses it.
"""
