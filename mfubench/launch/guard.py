"""A program beside mfubench that outlives it: ends what mfubench leaves behind when it is killed.

python -m mfubench.launch.guard TAG SECONDS

In: on its standard input a pipe that only mfubench can write to: of each run its log and the folder of its records, each with
a zero byte behind it. The pipe's end means that mfubench is gone, by whatever death; until then this sleeps. Then every
process that carries the tag is killed, locks that these held on compilations since SECONDS (time of day) are removed, and
what the last run wrote is cleaned of secrets.
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
