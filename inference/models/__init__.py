"""A module for each kind of model.

Every module in this folder is imported, and registers its models with the decorators of
:mod:`inference.registry`.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
