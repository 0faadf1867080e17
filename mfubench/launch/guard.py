"""`python -m mfubench.launch.guard TAG SECONDS`: outlive mfubench, and clean up after it if it is killed.

Standard input is a pipe that only mfubench can write to: for each run its log and the folder of its records, each followed
by a zero byte. The guard sleeps until the pipe ends: mfubench is gone, however it died. It then kills every process that
carries the tag, removes their locks on compilations made since SECONDS (time of day), and removes secrets from the last
run's output.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mfubench.files import secrets
from mfubench.launch import extensions, processes

if __name__ == "__main__":
    tag, began_s = sys.argv[1:]
    paths = [Path(os.fsdecode(path)) for path in sys.stdin.buffer.read().split(b"\0")[:-1]]
    orphans = processes.tagged_processes(tag)
    if orphans:
        processes.kill(lambda: processes.tagged_processes(tag))
        extensions.release(float(began_s))
    if paths:
        secrets.clean_output(*paths[-2:])
