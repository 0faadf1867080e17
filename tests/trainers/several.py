"""Runs a trainer once for each line of options on standard input, all at the same time, in forks of one process.

In: `several.py TRAINER [MODULE...]`, the modules to import before forking. Fork n has RANK=n, so that each writes
records of its own: rank<n> is line n. All this is for is to import torch once.
"""

from __future__ import annotations

import os
import runpy
import shlex
import sys

if __name__ == "__main__":
    script, *heavy_modules = sys.argv[1:]
    for name in ("torch", *heavy_modules):
        __import__(name)
    children = []
    for rank, line in enumerate(sys.stdin.read().splitlines()):
        child = os.fork()
        if child == 0:
            os.environ["RANK"] = str(rank)
            sys.argv = [script, *shlex.split(line)]
            runpy.run_path(script, run_name="__main__")
            sys.stdout.flush()
            os._exit(0)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    sys.exit(any(os.WIFEXITED(status) and os.WEXITSTATUS(status) for status in statuses))
