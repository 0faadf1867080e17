"""What is ready on this machine: an Experiment's settings in; what each framework makes of them, what is installed, what is
known of the devices, and the command to try next, out. Nothing is measured or downloaded."""
