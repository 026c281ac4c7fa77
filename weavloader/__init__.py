"""The domain of Weavloader: settings, SAGE, images, dead letters and stores.

Knows no Celery and no server; everything to its right in the import order
(see ``pyproject.toml``) may use it, and it uses none of them.
"""

__version__ = "0.1.0"
