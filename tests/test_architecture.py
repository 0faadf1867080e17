"""The rules that hold the house together, read off the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mfubench"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py"))
FRAMEWORKS = sorted(path.stem for path in (ROOT / "conf" / "framework").glob("*.yaml"))

# Later rooms may import earlier ones, never back; rooms of one line stand beside each other.
ORDER = (
    ("files",),
    ("config",),
    ("workload", "hardware", "probe", "records"),
    ("flops",),
    ("plan",),
    ("launch",),
    ("measure",),
    ("explain",),
    ("result",),
    ("report",),
    ("tracking",),
    ("run", "doctor", "reference"),
    ("__main__", "watch"),
)
ONLY_IN = {
    "hydra": ("config", "__main__"),
    "omegaconf": ("config", "plan"),
    "subprocess": ("launch",),
    "wandb": ("tracking",),
    "wandb_workspaces": ("tracking",),
    "matplotlib": ("report",),
    "jinja2": ("report",),
    "pydantic": ("result",),
    "torch": ("flops", "workload", "hardware", "probe"),
    "transformers": ("flops", "workload", "hardware"),
    "datasets": ("workload",),
    "huggingface_hub": ("workload",),
    "peft": ("flops",),
}


def room(path: Path) -> str:
    """The file or folder of mfubench/ that a source belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Full names of all modules that a source imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_at_the_top(path: Path) -> set[str]:
    """Packages that importing a source imports."""
    top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return {
        (n.module or "").split(".")[0] if isinstance(n, ast.ImportFrom) else n.names[0].name.split(".")[0] for n in top
    }


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_earlier_rooms(path: Path) -> None:
    floor = {name: number for number, names in enumerate(ORDER) for name in names}
    mine = room(path)
    if mine == "__init__":
        return
    for name in imports(path):
        if name.startswith("mfubench.") and not name.startswith("mfubench.__version__"):
            theirs = name.split(".")[1]
            assert theirs == mine or floor[theirs] < floor[mine], f"{path.name} imports {name}"


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_package_is_imported_only_in_its_room(package: str) -> None:
    found = {room(path) for path in SOURCES if any(name.split(".")[0] == package for name in imports(path))}
    assert found <= set(ONLY_IN[package])


@pytest.mark.parametrize("package", ["torch", "transformers", "peft", "wandb", "wandb_workspaces", "matplotlib"])
def test_heavy_packages_are_imported_inside_functions_only(package: str) -> None:
    at_the_top = [path for path in SOURCES if room(path) != "probe" and package in imported_at_the_top(path)]
    assert at_the_top == []


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_no_source_of_mfubench_names_a_framework(name: str) -> None:
    word = re.compile(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])")
    assert [path for path in SOURCES if word.search(path.read_text())] == []


def test_the_report_and_the_command_line_start_without_heavy_packages() -> None:
    heavy = "{'torch', 'transformers', 'wandb', 'wandb_workspaces', 'scipy', 'pandas', 'matplotlib'}"
    for module in ("mfubench.__main__", "mfubench.report.__main__", "mfubench.run", "mfubench.doctor.__main__"):
        program = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
        out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
        assert out.stdout.strip() == "[]", f"{module} imports {out.stdout}"


def test_the_report_starts_without_what_only_a_run_or_a_count_needs() -> None:
    program = "import sys, mfubench.report.__main__; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    machinery = {
        *("mfubench.workload", "mfubench.flops.profile", "mfubench.flops.trace", "mfubench.flops.analytic"),
        *("mfubench.hardware.machine", "mfubench.hardware.monitor", "mfubench.records.reading"),
        *("mfubench.plan.native", "mfubench.plan.support", "mfubench.measure.metrics", "mfubench.measure.run_warnings"),
        *("psutil", "yaml"),
    }
    assert machinery & set(out.stdout.split()) == set()


def test_every_launcher_folder_belongs_to_a_framework() -> None:
    folders = {path.name for path in (ROOT / "launchers").iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders <= set(FRAMEWORKS)
