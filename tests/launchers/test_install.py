"""launchers/install, on packages small enough to be made here: pip, the environments and the signals are real."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from importlib.metadata import distributions, version
from pathlib import Path

import psutil
import pytest

from mfubench.files.paths import LAUNCHERS
from mfubench.plan.engines import INSTALLED

TORCH = version("torch").partition("+")[0]
Process = subprocess.Popen[str]


def wheel(folder: Path, name: str, number: str, files: dict[str, str], needs: str = "", program: str = "") -> None:
    """A package as pip installs it: modules, what it needs, the module that its program starts with."""
    info = f"{name}-{number}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n" + (
        f"Requires-Dist: {needs}\n" if needs else ""
    )
    files |= {
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {program}:main\n" if program else "",
    }
    with zipfile.ZipFile(folder / f"{name}-{number}-py3-none-any.whl", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages there are: a torch without CUDA, and frameworks."""
    folder = tmp_path_factory.mktemp("index")
    torch = {"torch/__init__.py": "from torch import version\n", "torch/version.py": "cuda = None\n"}
    wheel(folder, "torch", TORCH, torch)
    program = {"quick.py": "def main(): print('quick')\n"}
    wheel(folder, "quick", "1.0", dict(program), needs="torch", program="quick")
    wheel(folder, "quick", "2.0", dict(program), needs="torch", program="quick")
    wheel(folder, "vision", "1.0", {"vision.py": "raise RuntimeError('no CUDA')\n"})
    wheel(folder, "lonely", "1.0", {"lonely.py": ""}, needs="nothing-that-exists")
    wheel(folder, "elder", "1.0", {"elder.py": ""}, needs="torch<1")
    wheel(folder, "broken", "1.0", {"broken.py": "import vision_of_another_kind\n"}, program="broken")
    wheel(folder, "slow", "1.0", {"slow.py": "import time\ntime.sleep(120)\n"}, program="slow")
    wheel(folder, "wait", "1.0", {"wait_a_bit.py": "import time\ntime.sleep(4)\nmain = print\n"}, program="wait_a_bit")
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Callable[..., Path]:
    """Framework and what it requires in; a project with a launcher folder for each out."""

    def made(**requirements: str) -> Path:
        (tmp_path / "conf" / "framework").mkdir(parents=True)
        (tmp_path / "launchers").mkdir()
        shutil.copy(LAUNCHERS / "install", tmp_path / "launchers")
        for name, lines in requirements.items():
            (tmp_path / "conf" / "framework" / f"{name}.yaml").write_text(f"name: {name}\n")
            (tmp_path / "launchers" / name).mkdir()
            (tmp_path / "launchers" / name / "requirements.txt").write_text(f"# {name}\n{lines}\n")
        return tmp_path

    return made


def start(project: Path, index: Path, *arguments: str) -> Process:
    """The installer, with the index as the only place that packages come from."""
    offline = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return subprocess.Popen(
        [sys.executable, project / "launchers" / "install", *arguments],
        env=mine | offline,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def install(project: Path, index: Path, *arguments: str) -> tuple[int, str, str]:
    """The exit status of the installer, what it printed, and its complaints."""
    process = start(project, index, *arguments)
    out, err = process.communicate(timeout=400)
    return process.returncode, out, err


def until(process: Process, words: str) -> None:
    """Read what the process prints, up to a line with these words."""
    assert process.stdout is not None
    assert any(words in line for line in process.stdout), f"it ended without {words!r}"


def has(environment: Path) -> dict[str, str]:
    """Package → version, read off an environment's files."""
    (packages,) = environment.glob("lib/python*/site-packages")
    return {each.name: each.version for each in distributions(path=[str(packages)])}


def test_an_environment_is_made_once_and_again_when_its_requirements_change(
    checkout: Callable[..., Path], index: Path
) -> None:
    project = checkout(quick="quick==1.0")
    environment = project / "launchers" / "quick" / ".venv"
    status, out, err = install(project, index, "quick")
    assert (status, err) == (0, ""), err
    assert f"quick: torch {TORCH} ..." in out and "quick: installed in" in out
    assert {name: has(environment)[name] for name in ("quick", "torch")} == {"quick": "1.0", "torch": TORCH}
    ran = subprocess.run([environment / "bin" / "quick"], capture_output=True, text=True, check=True)
    assert ran.stdout == "quick\n"
    mark = environment / INSTALLED
    made = mark.stat().st_mtime_ns

    assert install(project, index, "quick") == (0, "quick: installed already\n", "")
    assert mark.stat().st_mtime_ns == made

    assert install(project, index, "--check", "--all") == (0, "", "")

    (project / "launchers" / "quick" / "requirements.txt").write_text("quick==2.0\n")
    assert install(project, index, "--check", "--all") == (1, "", "")
    assert install(project, index, "quick")[0] == 0
    assert has(environment)["quick"] == "2.0"


def test_what_has_no_dependencies_and_what_stands_in_on_a_cpu(checkout: Callable[..., Path], index: Path) -> None:
    project = checkout(quick="quick==1.0\nvision==1.0")
    folder = project / "launchers" / "quick"
    (folder / "no_deps.txt").write_text("lonely==1.0\n")
    (folder / "cpu").mkdir()
    (folder / "cpu" / "remove.txt").write_text("vision\n")
    (folder / "cpu" / "audio.py").write_text("STANDS_IN = True\n")
    status, _, err = install(project, index, "quick")
    assert status == 0, err
    assert has(folder / ".venv").keys() >= {"quick", "torch", "lonely"} and "vision" not in has(folder / ".venv")
    inside = [folder / ".venv" / "bin" / "python", "-c", "import audio; print(audio.STANDS_IN)"]
    assert subprocess.run(inside, capture_output=True, text=True, check=True).stdout == "True\n"


@pytest.mark.slow
def test_a_build_with_cuda_keeps_what_needs_it(checkout: Callable[..., Path], index: Path, tmp_path: Path) -> None:
    of_cuda = tmp_path / "index"
    shutil.copytree(index, of_cuda)
    (of_cuda / f"torch-{TORCH}-py3-none-any.whl").unlink()
    torch = {"torch/__init__.py": "from torch import version\n", "torch/version.py": "cuda = '13.0'\n"}
    wheel(of_cuda, "torch", TORCH, torch)
    project = checkout(quick="quick==1.0\nvision==1.0")
    (project / "launchers" / "quick" / "cpu").mkdir()
    (project / "launchers" / "quick" / "cpu" / "remove.txt").write_text("vision\n")
    assert install(project, of_cuda, "quick")[0] == 0
    assert "vision" in has(project / "launchers" / "quick" / ".venv")


@pytest.mark.slow
def test_a_failed_install_says_why_in_pips_words_leaves_nothing_and_the_others_go_on(
    checkout: Callable[..., Path], index: Path
) -> None:
    project = checkout(absent="no-such-package==1.0", broken="broken==1.0", elder="elder==1.0", quick="quick==1.0")
    status, out, err = install(project, index, "--all")
    assert status == 1
    assert "No matching distribution found for no-such-package==1.0" in err
    assert "No module named 'vision_of_another_kind'" in err
    assert f"The user requested (constraint) torch=={TORCH}" in err  # the pin holds against what a framework wants
    assert err.endswith("not installed: absent, broken, elder\n")
    assert "quick: installed in" in out
    assert [path.parent.name for path in project.glob("launchers/*/.venv")] == ["quick"]


@pytest.mark.sample(2)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_install_that_is_ended_leaves_nothing_behind(
    checkout: Callable[..., Path], index: Path, signum: signal.Signals
) -> None:
    project = checkout(slow="slow==1.0")
    process = start(project, index, "slow")
    until(process, "does it start?")
    deadline = time.monotonic() + 60
    while not (started := psutil.Process(process.pid).children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "slow: ended before it was installed; nothing of it is left\n"
    _, alive = psutil.wait_procs(started, timeout=30)  # one that was killed may take a moment to go
    assert started and not alive
    assert [path.name for path in (project / "launchers" / "slow").iterdir()] == ["requirements.txt"]


def test_the_second_of_two_installs_waits_for_the_first_and_finds_it_done(
    checkout: Callable[..., Path], index: Path
) -> None:
    project = checkout(wait="wait==1.0")
    first = start(project, index, "wait")
    until(first, "an empty environment")  # it holds the lock
    second = install(project, index, "wait")
    assert second == (0, "wait: waiting for another install of it\nwait: installed already\n", "")
    assert first.wait(timeout=60) == 0


def test_a_name_that_no_framework_has_is_an_error_that_names_them(checkout: Callable[..., Path], index: Path) -> None:
    project = checkout(quick="quick==1.0", slow="slow==1.0")
    status, _, err = install(project, index, "quik")
    assert status == 2 and "there is no framework 'quik'; did you mean quick? known: quick, slow" in err
    status, _, err = install(project, index)
    assert status == 2 and "say which: quick, slow; or --all" in err


def test_a_framework_that_runs_in_mfubenchs_environment_has_nothing_to_install(
    checkout: Callable[..., Path], index: Path
) -> None:
    project = checkout(ours="")
    (project / "launchers" / "ours" / "requirements.txt").unlink()
    status, out, _ = install(project, index, "ours")
    assert status == 0 and out.startswith("ours: needs no environment of its own")
    assert install(project, index, "--all") == (0, "", "")


EXTRAS = """
[small]
module = "small"
requirement = "small==1.0"
[fails]
module = "fails"
requirement = "fails==1.0"
[elder]
module = "elder"
requirement = "elder==1.0"
[ready]
module = "ready"
requirement = "ready==1.0"
build = ["setuptools"]
[compiled]
module = "compiled"
requirement = "compiled==1.0"
build = ["setuptools"]
"""


@pytest.fixture(scope="module")
def with_extras(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index, and packages to add; the environment is that of mfubench itself, and has torch."""
    folder = tmp_path_factory.mktemp("extras")
    shutil.copytree(index, folder, dirs_exist_ok=True)
    wheel(folder, "helper", "1.0", {"helper.py": ""})
    wheel(folder, "small", "1.0", {"small.py": "import helper\n"}, needs="helper")
    wheel(folder, "fails", "1.0", {"fails.py": "raise OSError('no such device')\n"}, needs="helper")
    wheel(folder, "ready", "1.0", {"ready.py": ""})
    return folder


@pytest.fixture
def own(checkout: Callable[..., Path], with_extras: Path) -> Path:
    """A project whose framework `ours` runs in its own environment, beside `quick` with one of its own."""
    project = checkout(ours="", quick="quick==1.0")
    (project / "launchers" / "ours" / "requirements.txt").unlink()
    (project / "conf" / "extras.toml").write_text(EXTRAS)
    subprocess.run([sys.executable, "-m", "venv", project / ".venv"], check=True)
    pip = [project / ".venv" / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--find-links", with_extras, "torch"], check=True)
    return project


def test_a_package_is_added_to_mfubenchs_own_environment_whole_or_not_at_all(own: Path, with_extras: Path) -> None:
    before = has(own / ".venv")
    status, out, err = install(own, with_extras, "ours", "--with", "fails")
    assert status == 1 and "ours: removal of fails, helper" in out
    assert "ours: fails was not installed, and the environment is as it was" in err and "no such device" in err
    assert has(own / ".venv") == before

    status, _, err = install(own, with_extras, "ours", "--with", "elder")  # it wants another torch
    assert status == 1 and f"The user requested (constraint) torch=={TORCH}" in err
    assert has(own / ".venv") == before

    assert install(own, with_extras, "ours", "--with", "small", "--check") == (1, "", "")
    status, out, err = install(own, with_extras, "ours", "--with", "small", "--with", "ready")
    assert (status, err) == (0, "") and "ours: small installed in" in out and "no environment of its own" not in out
    assert has(own / ".venv") == before | {"small": "1.0", "helper": "1.0", "ready": "1.0"}
    assert install(own, with_extras, "ours", "--with", "small", "--check") == (0, "", "")
    assert install(own, with_extras, "ours", "--with", "small") == (0, "ours: has small already\n", "")


def test_a_build_that_lacks_something_is_not_begun(
    own: Path, with_extras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    before = has(own / ".venv")
    status, out, err = install(own, with_extras, "ours", "--with", "compiled")
    assert status == 1 and "there is no wheel of compiled==1.0 for it" in err and "built here" not in out
    assert "a build needs a CUDA build of torch" in err
    assert ("nvcc of the CUDA toolkit" in err) == (
        shutil.which("nvcc") is None and not Path("/usr/local/cuda").exists()
    )
    assert "No matching distribution found for compiled==1.0" in err
    assert has(own / ".venv") == before


def test_a_package_is_added_to_an_environment_that_is_made_with_it(own: Path, with_extras: Path) -> None:
    status, out, err = install(own, with_extras, "quick", "--with", "small")
    assert (status, err) == (0, "")
    assert "quick: installed in" in out and "quick: small installed in" in out
    assert has(own / "launchers" / "quick" / ".venv")["small"] == "1.0" and "small" not in has(own / ".venv")
    assert install(own, with_extras, "--check", "quick", "--with", "small") == (0, "", "")


def test_a_package_that_no_setting_needs_is_an_error_that_names_them(own: Path, with_extras: Path) -> None:
    status, _, err = install(own, with_extras, "ours", "--with", "flash")
    assert status == 2 and "there is no package 'flash' in conf/extras.toml; known: small, fails" in err
