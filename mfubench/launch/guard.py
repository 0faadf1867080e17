"""A program beside mfubench that outlives it: ends what mfubench leaves behind when it is killed.

python -m mfubench.launch.guard TAG SECONDS

In: on its standard input a pipe that only mfubench can write to, and never does. Its end means that mfubench is gone, by
whatever death; until then this sleeps. Then every process that carries the tag is killed, and locks that these held on
compilations since SECONDS (time of day) are removed.
"""

from __future__ import annotations

import sys

from mfubench.launch import extensions, processes

if __name__ == "__main__":
    tag, began_s = sys.argv[1:]
    sys.stdin.buffer.read()
    orphans = processes.carriers(tag)
    if orphans:
        processes.kill(lambda: processes.carriers(tag))
        extensions.release(float(began_s))
