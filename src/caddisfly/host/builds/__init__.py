"""Builds: what has a Dockerfile becomes an image, in a sandbox of its own, beside what serves."""
