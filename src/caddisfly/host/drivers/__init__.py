"""Drivers: what turns a Machine into a running thing. They know nothing of apps."""
