"""Run the framework's processes: from a Plan to an Outcome, through `start`. Imports nothing, to keep the guard small."""
