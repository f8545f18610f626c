"""Launch: what happens on a laptop, on top of `client`: fly.toml, detection, Dockerfiles, deploys, scale.

Empty until Launch is built; the rule that it never imports the platform is checked from today.
"""
