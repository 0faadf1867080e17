"""The doctor: the frameworks' support of an Experiment's settings on this machine, the environments, the devices, and the
command to try next. Nothing is measured or downloaded."""
