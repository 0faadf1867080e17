"""`make reference-gpu`: the published comparison on one GPU, into outputs/reference/<hardware>/<study>/. Not yet run on a GPU.

Runs one study after the other, LoRA first, so that a machine that is lent for minutes leaves whole results. A study that was
handed in before is replaced once all runs of it are done. Exit status: 0 all runs are ok and checked, 1 some are not.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mfubench.config.compose import compose_one
from mfubench.files.paths import ROOT
from mfubench.hardware.catalogue import known_peaks
from mfubench.hardware.machine import Unavailable, detect

COMPARISON = "experiment=axolotl-vs-llmforge parallelism.num_devices=1 attention=sdpa"
STUDIES = {
    "axolotl-vs-llmforge-lora": f"{COMPARISON} mode=lora 'repeat=range(3)'",
    "axolotl-vs-llmforge-full": f"{COMPARISON} mode=full precision=bf16_pure 'repeat=range(3)'",
}


def main() -> int:
    """Run the studies on this machine's GPU. Returns the exit status."""
    try:
        machine = detect(compose_one([]).hardware)
    except Unavailable as reason:
        sys.exit(f"make reference-gpu: {reason}")
    option = known_peaks(machine.device_name) if machine.device == "cuda" else None
    if option is None:
        sys.exit(f"make reference-gpu needs a GPU of conf/hardware/, and this machine has {machine.device_name}")
    status = 0
    for study, arguments in STUDIES.items():
        status |= measure(arguments, ROOT / "outputs" / "reference" / option.name / study)
    return status


def measure(arguments: str, target: Path) -> int:
    """Run the command, and hand in its results if all are there. Returns 0 if they are, and are right."""
    with tempfile.TemporaryDirectory(dir=ROOT / "outputs") as made:
        command = [sys.executable, "-m", "mfubench", *shlex.split(arguments), f"hydra.sweep.dir={made}"]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            print(f"{target.name}: not every run is ok, so nothing is handed in", file=sys.stderr)
            return 1
        hand_in(Path(made), arguments, target)
    return subprocess.run([sys.executable, "-m", "mfubench.reference", str(target)], check=False).returncode


def hand_in(sweep: Path, arguments: str, target: Path) -> None:
    """Copy each result of a sweep and the command into a study's folder, in place of earlier ones."""
    shutil.rmtree(target, ignore_errors=True)
    for result in sorted(sweep.rglob("result.json")):
        folder = target / result.parent.name
        folder.mkdir(parents=True)
        shutil.copy(result, folder)
    (target / "command.txt").write_text(f"python -m mfubench {arguments}\n")


if __name__ == "__main__":
    sys.exit(main())
