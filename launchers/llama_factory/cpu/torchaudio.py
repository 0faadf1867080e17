"""A stand-in for torchaudio on a CPU build of torch, which has no wheel of it. The framework imports it at its start, for audio
input; text never uses it."""
