"""The web half of an app of two process groups (see Procfile)."""

import os

from flask import Flask

app = Flask(__name__)


@app.get("/")
def index() -> str:
    return f"Hello from Flask, group {os.environ.get('FLY_PROCESS_GROUP', '?')}\n"
