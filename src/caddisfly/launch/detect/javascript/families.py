"""Frameworks of JavaScript: what each is known by, where it listens, and what of its build is run.

Each is one function from a project to a plan. What they share (packager, image, databases) is in `cooking.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.javascript.package import Package
from caddisfly.launch.detect.settings import Default, Secret, Service, check, env, mongodb


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Either a server, by `start`, or files in `output`. `kept` as in `image.Server`."""

    port: int
    start: tuple[str, ...] = ()
    output: str = ""
    build: str = "build"
    builds: str = ""
    """The framework's own command, for a project without a script to build."""
    kept: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, object], ...] = ()
    writable: tuple[str, ...] = ()
    needs: tuple[Default | Secret | Service, ...] = ()
    review: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """`packages`: one of them is enough. `file` is another sign. `tool` tells what builds and is no framework."""

    name: str
    title: str
    packages: tuple[str, ...]
    plan: Callable[[Folder, Package], Plan]
    file: tuple[str, ...] = ()
    tool: bool = False


_OPEN: tuple[tuple[str, object], ...] = (("HOST", "0.0.0.0"),)


def _script(package: Package, *fallback: str, name: str = "start") -> tuple[str, ...]:
    """The project's script, unless it is a development server."""
    return (() if package.for_development(name) else package.script(name)) or fallback


def _next(folder: Folder, package: Package) -> Plan:
    config = folder.first("next.config.js", "next.config.mjs", "next.config.ts")
    if folder.says(config, r"output\s*:\s*['\"]standalone"):
        kept = [(".next/standalone", "/app"), (".next/static", "/app/.next/static")]
        if folder.has_directory("public"):
            kept.append(("public", "/app/public"))
        return Plan(
            port=3000,
            start=("node", "server.js"),
            builds="next build",
            kept=tuple(kept),
            environment=(("HOSTNAME", "0.0.0.0"),),
            writable=(".next/cache",),
        )
    if folder.says(config, r"output\s*:\s*['\"]export"):
        return Plan(port=8080, output="out", builds="next build")
    return Plan(port=3000, start=_script(package, "next", "start"), builds="next build", writable=(".next/cache",))


def _nuxt(folder: Folder, package: Package) -> Plan:
    start = ("node", ".output/server/index.mjs")
    return Plan(port=3000, start=start, builds="nuxt build", kept=((".output", "/app/.output"),), environment=_OPEN)


def _astro(folder: Folder, package: Package) -> Plan:
    if package.has("@astrojs/node"):
        return Plan(port=4321, start=("node", "./dist/server/entry.mjs"), builds="astro build", environment=_OPEN)
    return Plan(port=8080, output="dist", builds="astro build")


def _gatsby(folder: Folder, package: Package) -> Plan:
    return Plan(port=8080, output="public", builds="gatsby build")


def _vite(folder: Folder, package: Package) -> Plan:
    return Plan(port=8080, output="dist", builds="vite build")


def _react(folder: Folder, package: Package) -> Plan:
    return Plan(port=8080, output="build", builds="react-scripts build")


def _svelte(folder: Folder, package: Package) -> Plan:
    if package.has("@sveltejs/adapter-static"):
        return Plan(port=8080, output="build", builds="vite build")
    review = (
        () if package.has("@sveltejs/adapter-node") else ("SvelteKit needs @sveltejs/adapter-node to run as a server",)
    )
    return Plan(port=3000, start=("node", "build"), builds="vite build", environment=_OPEN, review=review)


def _remix(folder: Folder, package: Package) -> Plan:
    secret = Secret("SESSION_SECRET", "Remix signs sessions with it")
    has_check = folder.first(*(f"app/routes/healthcheck{end}" for end in (".tsx", ".ts", ".jsx", ".js", "._index.tsx")))
    checks = (check("/healthcheck", f"{has_check} answers there"),) if has_check else ()
    return Plan(
        port=3000,
        start=_script(package, "remix-serve", "./build/server/index.js"),
        environment=_OPEN,
        needs=(secret, *checks),
    )


def _shopify(folder: Folder, package: Package) -> Plan:
    needs = (
        Secret("SHOPIFY_API_KEY", "client id of the Shopify app: shopify app env show", "given"),
        Secret("SHOPIFY_API_SECRET", "secret of the Shopify app: shopify app env show", "given"),
        Secret("SCOPES", "access scopes of the Shopify app: shopify app env show", "given"),
        Secret("SHOPIFY_APP_URL", "the address of this app, which Shopify must know, too", "given"),
    )
    name = "docker-start" if "docker-start" in package.scripts else "start"
    return Plan(port=3000, start=_script(package, "remix-serve", "./build/server/index.js", name=name), needs=needs)


def _nest(folder: Folder, package: Package) -> Plan:
    start = ("node", "dist/main.js")
    return Plan(port=3000, start=_script(package, *start, name="start:prod"), environment=_OPEN)


def _adonis(folder: Folder, package: Package) -> Plan:
    old = folder.has(".adonisrc.json")
    start = ("node", "build/server.js" if old else "build/bin/server.js")
    return Plan(
        port=3000,
        start=start,
        environment=_OPEN,
        needs=(
            Secret("APP_KEY", "Adonis encrypts with it"),
            env("HOST", "0.0.0.0", "Adonis listens there only if told"),
        ),
    )


def _meteor(folder: Folder, package: Package) -> Plan:
    return Plan(
        port=3000,
        start=("node", "main.js"),
        needs=(
            env("PORT", 3000, "Meteor has no port of its own"),
            Secret("ROOT_URL", "the address of this app; Meteor does not start without it", "given"),
            mongodb("Meteor keeps its data in MongoDB"),
        ),
    )


FAMILIES = (
    Family("shopify", "Shopify", ("@shopify/shopify-app-remix",), _shopify, ("shopify.app.toml",)),
    Family("adonis", "AdonisJS", ("@adonisjs/core",), _adonis),
    Family("gatsby", "Gatsby", ("gatsby",), _gatsby),
    Family("meteor", "Meteor", ("meteor-node-stubs",), _meteor, (".meteor/release",)),
    Family("nest", "NestJS", ("@nestjs/core",), _nest),
    Family("remix", "Remix", ("@remix-run/node", "@remix-run/react", "@react-router/node", "remix"), _remix),
    Family("sveltekit", "SvelteKit", ("@sveltejs/kit",), _svelte),
    Family("astro", "Astro", ("astro",), _astro),
    Family("nuxt", "Nuxt", ("nuxt", "nuxt3"), _nuxt),
    Family("next", "Next.js", ("next",), _next),
    Family("react", "Create React App", ("react-scripts",), _react, tool=True),
    Family("vite", "Vite", ("vite",), _vite, tool=True),
)
