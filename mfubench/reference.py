"""`python -m mfubench.reference`: check the results in outputs/reference/ (see mfubench/report/reference/)."""

from __future__ import annotations

import sys

from mfubench.report.reference.command import main

if __name__ == "__main__":
    sys.exit(main())
