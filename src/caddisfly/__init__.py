"""Caddisfly: Fly.io's platform in a house of your own.

The rooms, and who may enter which, are drawn in `docs/architecture.md` and checked by import-linter.
"""

__version__ = "0.1.0"
