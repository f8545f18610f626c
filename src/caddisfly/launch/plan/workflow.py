"""A GitHub workflow that deploys each push to the branch that is checked out, for a folder whose remote is GitHub.

It is only written where there is none that deploys already, and it holds no token: that is a secret of the repository.
"""

from __future__ import annotations

import re

from caddisfly.launch.detect import Change, Folder

PATH = ".github/workflows/caddis-deploy.yml"
TOKEN = "CADDIS_API_TOKEN"
URL = "CADDIS_API_URL"
_LOCAL = re.compile(r"//(localhost|127\.|\[::1\]|0\.0\.0\.0)")

_TEXT = """\
# Deploys each push to {branch}. Its secret: gh secret set {token}, with what `caddis tokens create deploy` prints.
name: Deploy
on:
  push:
    branches: [{branch}]
jobs:
  deploy:
    runs-on: ubuntu-latest
    concurrency: deploy  # one after the other
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - run: pip install caddisfly
      - run: caddis deploy
        env:
          {url}: {address}
          {token}: ${{{{ secrets.{token} }}}}
"""


def change(folder: Folder, *, api_url: str) -> Change | None:
    """None when the folder has nothing to do with GitHub, or deploys from there already."""
    if "github" not in folder.text(".git/config") and not folder.has_directory(".github"):
        return None
    for name in folder.names(".github/workflows"):
        if re.search(r"\b(caddis|fly|flyctl) deploy\b", folder.text(f".github/workflows/{name}")):
            return None
    head = re.match(r"ref: refs/heads/([\w./-]+)", folder.text(".git/HEAD"))
    # An address of this computer means nothing to GitHub: there it is a variable of the repository.
    address = f"${{{{ vars.{URL} }}}}" if _LOCAL.search(api_url) else api_url
    text = _TEXT.format(branch=head[1] if head else "main", token=TOKEN, url=URL, address=address)
    return Change(PATH, None, text)


def next_steps(app: str, *, api_url: str) -> list[str]:
    """What only the owner of the repository can do."""
    steps = [f"caddis tokens create deploy -a {app} | gh secret set {TOKEN}"]
    if _LOCAL.search(api_url):
        steps.insert(0, f"gh variable set {URL} --body https://...  (where GitHub reaches this platform)")
    return steps
