"""A module for each family of models; whatever lies in this folder can be configured.

A module declares its models with the decorators of :mod:`inference.registry`, and is found
because it is here.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
