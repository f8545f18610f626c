"""A JSON API: `caddis launch` finds it, its port and its server by itself."""

import os

from fastapi import FastAPI

app = FastAPI(title="Greetings")


@app.get("/")
def index() -> dict[str, str]:
    return {"hello": "FastAPI", "machine": os.environ.get("FLY_MACHINE_ID", ""), "docs": "/docs"}


@app.get("/greet/{name}")
def greet(name: str, times: int = 1) -> dict[str, list[str]]:
    return {"greetings": [f"Hello, {name}!"] * times}
