"""Where a new Machine goes: a market, not a global picture (docs/architecture.md)."""
