"""Measuring: what SPECIFICATION.md promises, beside what a user would run instead, in one run on one computer."""
