"""Find the option of conf/hardware for a device by the name that its driver reports.

A name matches an option if it has all the words of the option's `device_name`, and besides them only words from a closed
list of harmless ones. Any other word (Ti, Laptop, D, MIG, PCIe, SUPER, ...) may mean another chip: the name is unknown.
"""

from __future__ import annotations

import re
from functools import cache
from operator import itemgetter

import yaml

from mfubench.config import Hardware
from mfubench.files.paths import CONF

# Words that don't change what the tensor cores can do. PCIe is none of them: an H100 has another peak there.
BRANDS = {"nvidia", "geforce", "tesla", "amd", "instinct"}
FORMS = {"generation", "edition", "server", "workstation", "ac", "sxm", "sxm2", "sxm4", "sxm5", "sxm6"}
MEMORY_KINDS = {"hbm2", "hbm2e", "hbm3", "hbm3e"}
# In GB, as sold. 64 is left out: that A100 is a special edition with more multiprocessors.
MEMORY_SIZES = {
    f"{size}{unit}" for size in (16, 24, 32, 40, 48, 80, 94, 96, 120, 141, 144, 480) for unit in ("g", "gb")
}
HARMLESS_WORDS = frozenset(BRANDS | FORMS | MEMORY_KINDS | MEMORY_SIZES)


def known_peaks(device_name: str) -> Hardware | None:
    """Find the option whose peaks hold for a device of this name; None if no option explains every word of it."""
    words = _name_words(device_name)
    explaining = [
        (len(names), option) for option in options() for names in _patterns(option) if _explains(names, words)
    ]
    return max(explaining, key=itemgetter(0), default=(0, None))[1]


def means(option: Hardware, device_name: str) -> bool:
    """Return True if `device_name` is one of the names of this option's device."""
    return any(_explains(pattern, _name_words(device_name)) for pattern in _patterns(option))


def nearest_options(device_name: str) -> list[str]:
    """List the options the user may have meant: those that share a model number (a word with a digit) with the name."""
    numbers = {word for word in _name_words(device_name) - HARMLESS_WORDS if any(c.isdigit() for c in word)}
    return [o.name for o in options() if any(numbers & pattern for pattern in _patterns(o))]


@cache
def options() -> tuple[Hardware, ...]:
    """Read the options of conf/hardware that name a device, in the order of their names."""
    files = sorted((CONF / "hardware").glob("*.yaml"))
    read = (Hardware(**yaml.safe_load(file.read_text())) for file in files)
    return tuple(option for option in read if option.device_name is not None)


def _patterns(option: Hardware) -> list[frozenset[str]]:
    """Split `device_name` at its commas into names, and each name into its words."""
    return [_name_words(name) for name in (option.device_name or "").split(",") if name.strip()]


def _explains(pattern: frozenset[str], words: frozenset[str]) -> bool:
    return pattern <= words and words - pattern <= HARMLESS_WORDS


def _name_words(name: str) -> frozenset[str]:
    return frozenset(re.split(r"[\s/-]+", name.strip().lower()))
