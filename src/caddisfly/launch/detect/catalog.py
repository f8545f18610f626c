"""Every framework, in the order in which Fly looks for them: it decides between those for which equally much speaks."""

from __future__ import annotations

from caddisfly.launch.detect import dockerfile, dotnet, elixir, golang, java, lucky, rust, sites
from caddisfly.launch.detect.findings import Framework
from caddisfly.launch.detect.javascript import cooking, deno, redwood
from caddisfly.launch.detect.php import laravel, plain
from caddisfly.launch.detect.python import apps, django, generic
from caddisfly.launch.detect.ruby import rack, rails

CATALOG: tuple[Framework, ...] = (
    django.FRAMEWORK,
    laravel.FRAMEWORK,
    elixir.PHOENIX,
    rails.FRAMEWORK,
    redwood.FRAMEWORK,
    *cooking.FRAMEWORKS,
    dockerfile.FRAMEWORK,
    rack.BRIDGETOWN,
    lucky.FRAMEWORK,
    rack.RUBY,
    golang.FRAMEWORK,
    elixir.ELIXIR,
    apps.FASTAPI,
    apps.FLASK,
    apps.STREAMLIT,
    generic.FRAMEWORK,
    deno.FRAMEWORK,
    sites.HUGO,
    plain.FRAMEWORK,
    sites.STATIC,
    dotnet.FRAMEWORK,
    rust.FRAMEWORK,
    java.FRAMEWORK,
)
