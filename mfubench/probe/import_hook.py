"""Call a function once a module has been imported, right after its code ran."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Callable


def after_import(name: str, then: Callable[[ModuleType], None], failed: Callable[[Exception], None]) -> None:
    """Call `then(module)` after the first import of `name`; exceptions of `then` go to `failed`, not to the host."""
    sys.meta_path.insert(0, _Finder(name, then, failed))


class _Finder:
    """Stays on sys.meta_path: hosts look for a spec to test whether a module is there, and import it later."""

    def __init__(self, name: str, then: Callable[[ModuleType], None], failed: Callable[[Exception], None]) -> None:
        self._name = name
        self._then = then
        self._failed = failed
        self._called = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            try:
                self._follow(spec.loader)
            except Exception as error:
                self._failed(error)
        return spec

    def _follow(self, loader: Any) -> None:
        exec_module = loader.exec_module

        def exec_then_call(module: ModuleType) -> None:
            exec_module(module)
            if self._called:
                return
            self._called = True
            try:
                self._then(module)
            except Exception as error:
                self._failed(error)

        loader.exec_module = exec_then_call
