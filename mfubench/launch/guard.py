"""`python -m mfubench.launch.guard TAG SECONDS`: outlive mfubench, and clean up after it if it is killed.

Standard input is a pipe that only mfubench can write to: for each run its log, the folder of its records and the shell's
command that ends it on other nodes (or nothing), each followed by a zero byte. The guard sleeps until the pipe ends: mfubench is
gone, however it died. It then kills every process that carries the tag, ends the last run on other nodes, removes their
locks on compilations made since SECONDS (time of day), and removes secrets from the last run's output.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mfubench.files import secrets
from mfubench.launch import extensions, processes

if __name__ == "__main__":
    tag, began_s = sys.argv[1:]
    told = [os.fsdecode(part) for part in sys.stdin.buffer.read().split(b"\0")[:-1]]
    orphans = processes.tagged_processes(tag)
    if orphans:
        processes.kill(lambda: processes.tagged_processes(tag))
        extensions.release(float(began_s))
    if told:
        *paths, end = told[-3:]
        if orphans and end:
            subprocess.run(("sh", "-c", end), capture_output=True)
        secrets.clean_output(*map(Path, paths))
