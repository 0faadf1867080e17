"""The framework's processes: a Plan in, an Outcome out. `start` is the door; the guard is small, so nothing is imported here."""
