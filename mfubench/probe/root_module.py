"""Track the root module (the outermost module called in training), and number every root module."""

from __future__ import annotations

import itertools
import weakref

from torch import nn

from . import describe

PAST_WRAPPER = -1  # the number of a model trained without its wrapper


class RootModules:
    """The present root module, and the numbers of all root modules so far."""

    def __init__(self) -> None:
        self._root: weakref.ref[nn.Module] | None = None
        self._ids: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
        self._numbers = itertools.count()

    @property
    def root(self) -> nn.Module | None:
        """The present root; None before the first, and when it is gone."""
        return self._root() if self._root is not None else None

    def number(self, module: nn.Module) -> int:
        """The number of a module that is, was, or would be the root but for its wrapper."""
        return self._ids.setdefault(module, PAST_WRAPPER)

    def is_wrapped(self, module: nn.Module) -> bool:
        """True if the root is nothing but wrappers around it."""
        root = self.root
        return root is not None and any(module is link for link in describe.chain(root)[1:])

    def may_be_evaluated(self, module: nn.Module) -> bool:
        """True if its forward is the model's; evaluation may call the model inside its wrappers."""
        return bool(module._modules) if self.root is None else module is self.root or self.is_wrapped(module)

    def may_replace(self, module: nn.Module) -> bool:
        """True if it could become the root: parts may be called alone, and an embedding before the root is known."""
        root = self.root
        return bool(module._modules) and (root is None or not any(part is module for part in root.modules()))

    def replace(self, module: nn.Module) -> bool:
        """Make `module` the root from here on. Returns True if it is so for the first time."""
        self._root = weakref.ref(module)
        if module in self._ids:
            return False
        self._ids[module] = next(self._numbers)
        return True
