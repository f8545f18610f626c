"""From a folder of source to what it needs to run here: which framework, built how, started how, and told what.

    folder       the folder, read and never run
    catalog      every framework; one module each, or one for a family
    findings     evidence, points, recipes
    versions     which version of a language
    script       pieces of Dockerfiles
    settings     what fly.toml holds, and why
    procfile     what a project says about its processes
    compose      what it says about its surroundings
    ignores      its .dockerignore
    changes      files as differences, written on request
    choice       all of it, in one answer

Nothing here asks anybody or writes anything: launch shows the answer, and applies what is agreed to.
"""

from caddisfly.launch.detect.changes import Change, apply
from caddisfly.launch.detect.choice import Detection, detect
from caddisfly.launch.detect.folder import Folder, opened
from caddisfly.launch.detect.settings import Default, Secret, Service, Settings
from caddisfly.launch.detect.versions import Interpreters, NoInterpreters

__all__ = [
    "Change",
    "Default",
    "Detection",
    "Folder",
    "Interpreters",
    "NoInterpreters",
    "Secret",
    "Service",
    "Settings",
    "apply",
    "detect",
    "opened",
]
