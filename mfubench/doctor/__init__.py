"""The doctor: what works on this machine, and the command to try next.

Shows the environments, the devices and each framework's support of an Experiment's settings. It measures and downloads
nothing.
"""
