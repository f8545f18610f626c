"""Launch: what happens on a laptop, on top of `client`: fly.toml, detection, Dockerfiles, deploys, scale.

It never imports the platform, which is checked. `plan/` is for a folder that is no app yet, and uses all the others;
`deploy/` for one that is.
"""
