"""Launch: what happens on a laptop, on top of `client`: fly.toml, detection, Dockerfiles, deploys, scale.

It never imports the platform, which is checked. `build/`, `config/` and `detect/` are there; the rest is not yet.
"""
