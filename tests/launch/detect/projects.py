"""Small folders that look like real projects. Each is a table of paths and contents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

from caddisfly.launch.detect import Detection, Folder, Interpreters, NoInterpreters, detect

Files = Mapping[str, str]


def project(root: Path, files: Files) -> Folder:
    """Written to disk. A script of `bin/` can be executed."""
    for path, content in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(dedent(content).lstrip("\n"))
        if path.startswith("bin/"):
            target.chmod(0o755)
    return Folder(root.resolve())


def found(root: Path, files: Files, *, framework: str = "", local: Interpreters | None = None) -> Detection:
    return detect(project(root, files), framework=framework, local=local or NoInterpreters())


def package(**members: object) -> str:
    return json.dumps({"name": "shop", "version": "1.0.0", **members}, indent=2)


FASTAPI: Files = {
    "main.py": "from fastapi import FastAPI\n\napp = FastAPI()\n",
    "requirements.txt": "fastapi[standard]==0.115\n",
}
FLASK_UV: Files = {
    "pyproject.toml": """
        [project]
        name = "shop"
        version = "0.1.0"
        requires-python = ">=3.12"
        dependencies = ["flask>=3"]
    """,
    "uv.lock": "version = 1\n",
    "app.py": "from flask import Flask\n\napp = Flask(__name__)\n",
}
DJANGO: Files = {
    "manage.py": """
        import os
        os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'proj.settings')
        from django.core.management import execute_from_command_line
    """,
    "proj/__init__.py": "",
    "proj/wsgi.py": "application = None\n",
    "proj/asgi.py": "application = None\n",
    "proj/settings.py": """
        ALLOWED_HOSTS = []
        STATIC_URL = "static/"
        STATIC_ROOT = BASE_DIR / "collected"
    """,
    "requirements.txt": "Django>=5\ngunicorn\npsycopg[binary]\ndj-database-url\n",
}
STREAMLIT: Files = {
    "poetry.lock": "# lock\n",
    "pyproject.toml": """
        [tool.poetry]
        name = "board"
        [tool.poetry.dependencies]
        python = "^3.11"
        streamlit = "^1.38"
    """,
    "dash.py": "import streamlit as st\n\nst.title('board')\n",
}
NUMPY: Files = {"requirements.txt": "numpy\n"}
RUFF_AND_FASTAPI: Files = {
    "pyproject.toml": "[tool.ruff]\nline-length = 100\n",
    "requirements.txt": "fastapi\n",
    "main.py": "from fastapi import FastAPI\napp = FastAPI()\n",
}
NEXT: Files = {
    "package.json": package(
        scripts={"build": "next build", "start": "next start"}, dependencies={"next": "15.0.0", "pg": "8.13.0"}
    ),
    "package-lock.json": "{}",
}
VITE: Files = {
    "package.json": package(scripts={"dev": "vite"}, devDependencies={"vite": "^6.0.0"}),
    "index.html": "<!doctype html>\n",
}
GO: Files = {
    "go.mod": "module example.com/shop\n\ngo 1.23\n",
    "go.sum": "",
    "main.go": "package main\n\nfunc main() {}\n",
}
OWN_DOCKERFILE: Files = {
    "Dockerfile": 'FROM python:3.12\nCOPY main.py .\nEXPOSE 5000\nVOLUME /var/data\nCMD ["python", "main.py"]\n',
    "main.py": "print('hello')\n",
}
RAILS: Files = {
    "Gemfile": 'source "https://rubygems.org"\ngem "rails", "~> 7.1"\n',
    "Gemfile.lock": """
        GEM
          remote: https://rubygems.org/
          specs:
            bootsnap (1.18.4)
            pg (1.5.9)
            rails (7.1.4)

        RUBY VERSION
           ruby 3.3.5p100
    """,
    "bin/rails": "#!/usr/bin/env ruby\n",
    "config.ru": 'require_relative "config/environment"\nrun Rails.application\n',
    "config/database.yml": """
        default: &default
          adapter: postgresql
        production:
          <<: *default
          database: shop
    """,
    "config/routes.rb": 'get "up" => "rails/health#show", as: :rails_health_check\n',
    "config/master.key": "0123456789abcdef\n",
}
DENO: Files = {"deno.json": "{}", "server.ts": 'Deno.serve(() => new Response("hello"));\n'}
MAVEN: Files = {"pom.xml": "<project><artifactId>shop</artifactId></project>\n"}
COMPOSE: Files = {
    "compose.yaml": """
        services:
          web:
            build: .
            depends_on: [db]
            environment:
              GREETING: hello
              DATABASE_URL: postgres://db/shop
          db:
            image: postgres:16
            volumes: ["pg:/var/lib/postgresql/data"]
        volumes:
          pg:
    """,
    "Dockerfile": 'FROM alpine:3.20\nCMD ["sleep", "60"]\n',
}

PHOENIX: Files = {
    "mix.exs": """
        defmodule Shop.MixProject do
          def project do
            [app: :shop, version: "0.1.0", elixir: "~> 1.14", aliases: aliases()]
          end
          defp deps do
            [{:phoenix, "~> 1.7"}, {:postgrex, ">= 0.0.0"}]
          end
          defp aliases, do: ["assets.deploy": ["tailwind shop --minify", "phx.digest"]]
        end
    """,
    "mix.lock": "%{}\n",
    "config/config.exs": "import Config\n",
    "config/prod.exs": "import Config\n",
    "config/runtime.exs": "import Config\n",
}
LARAVEL: Files = {
    "artisan": "#!/usr/bin/env php\n",
    "composer.json": json.dumps({"require": {"php": "^8.2", "laravel/framework": "^11.0"}}),
    "composer.lock": "{}",
    "public/index.php": "<?php\n",
    ".env.example": "APP_KEY=\nDB_CONNECTION=pgsql\nCACHE_STORE=redis\n",
    "bootstrap/app.php": "<?php\nreturn Application::configure()->withRouting(health: '/up');\n",
    "package.json": package(scripts={"dev": "vite", "build": "vite build"}, devDependencies={"vite": "^6"}),
    "package-lock.json": "{}",
}
RUST: Files = {
    "Cargo.toml": """
        [package]
        name = "shop"
        version = "0.1.0"
        edition = "2021"
        [dependencies]
        rocket = "0.5"
    """,
    "Cargo.lock": "version = 3\n",
    "src/main.rs": "fn main() {}\n",
}
DOTNET: Files = {
    "Shop.csproj": """
        <Project Sdk="Microsoft.NET.Sdk.Web">
          <PropertyGroup><TargetFramework>net10.0</TargetFramework></PropertyGroup>
        </Project>
    """,
    "Program.cs": "var builder = WebApplication.CreateBuilder(args);\n",
}
SPRING: Files = {
    "build.gradle.kts": """
        plugins { id("org.springframework.boot") version "3.4.0" }
        java { toolchain { languageVersion = JavaLanguageVersion.of(17) } }
        dependencies { implementation("org.springframework.boot:spring-boot-starter-actuator") }
    """,
    "settings.gradle.kts": 'rootProject.name = "shop"\n',
    "gradlew": "#!/bin/sh\n",
    "gradle/wrapper/gradle-wrapper.properties": "",
    "src/main/java/Shop.java": "class Shop {}\n",
}
BRIDGETOWN: Files = {
    "Gemfile": 'source "https://rubygems.org"\ngem "bridgetown", "~> 1.3"\ngem "puma"\n',
    "config.ru": "run RodaApp.freeze.app\n",
    "package.json": package(scripts={"start": "node esbuild.js --watch"}, devDependencies={"esbuild": "1"}),
}
SINATRA: Files = {
    "Gemfile": 'source "https://rubygems.org"\nruby "3.2.2"\ngem "sinatra"\ngem "puma"\n',
    "config.ru": "run Sinatra::Application\n",
}
LUCKY: Files = {
    "shard.yml": "name: shop\ndependencies:\n  lucky:\n    github: luckyframework/lucky\n",
    "tasks.cr": "# tasks\n",
    "src/start_server.cr": "# server\n",
}
ELIXIR: Files = {"mix.exs": "defmodule Shop do\n  def project, do: [app: :shop]\nend\n"}
REDWOOD: Files = {
    "redwood.toml": "[web]\n  port = 8910\n",
    "package.json": package(engines={"node": "=20.x"}, packageManager="yarn@4.4.0"),
    "yarn.lock": "",
    ".yarnrc.yml": "nodeLinker: node-modules\n",
    "api/package.json": package(),
    "web/package.json": package(),
    "api/db/schema.prisma": 'datasource db {\n  provider = "postgresql"\n}\n',
}
HUGO: Files = {"hugo.toml": 'baseURL = "https://example.org/"\n', "content/_index.md": "# hello\n"}
STATIC: Files = {"index.html": "<!doctype html>\n", "style.css": "body {}\n"}
PHP: Files = {
    "index.php": "<?php echo 'hello';\n",
    "composer.json": json.dumps({"require": {"php": ">=8.1", "ext-gd": "*"}}),
}
NODE: Files = {
    "package.json": package(scripts={"start": "node server.js"}, dependencies={"express": "^4"}),
    "package-lock.json": "{}",
    "server.js": "const port = process.env.PORT || 4000;\napp.listen(port);\n",
}
BUN: Files = {
    "package.json": package(scripts={"start": "bun run index.ts"}),
    "bun.lock": "{}",
    "index.ts": "Bun.serve({ port: 3000 });\n",
}


def javascript(name: str, *, start: str = "", build: str = "", **more: object) -> Files:
    """A project of one framework."""
    scripts = {key: text for key, text in (("start", start), ("build", build)) if text}
    return {"package.json": package(scripts=scripts, dependencies={name: "1.0.0"}, **more), "pnpm-lock.yaml": ""}


FAMILIES: dict[str, tuple[Files, int]] = {
    "astro": ({"package.json": package(scripts={"dev": "astro dev"}, dependencies={"astro": "^5"})}, 8080),
    "adonis": (javascript("@adonisjs/core", start="node bin/server.js", build="node ace build"), 3000),
    "gatsby": (javascript("gatsby", start="gatsby develop", build="gatsby build"), 8080),
    "meteor": ({**javascript("meteor-node-stubs", start="meteor run"), ".meteor/release": "METEOR@3.1\n"}, 3000),
    "nest": (javascript("@nestjs/core", start="nest start", build="nest build"), 3000),
    "nuxt": (javascript("nuxt", start="node .output/server/index.mjs", build="nuxt build"), 3000),
    "shopify": (
        {**javascript("@shopify/shopify-app-remix", start="remix-serve build/server/index.js"), "shopify.app.toml": ""},
        3000,
    ),
    "remix": (javascript("@remix-run/node", start="remix-serve ./build/server/index.js", build="remix build"), 3000),
    "sveltekit": (javascript("@sveltejs/kit", build="vite build"), 3000),
    "react": (javascript("react-scripts", start="react-scripts start", build="react-scripts build"), 8080),
}

EVERY: dict[str, tuple[Files, int]] = {
    "fastapi": (FASTAPI, 8000),
    "flask": (FLASK_UV, 8080),
    "django": (DJANGO, 8000),
    "streamlit": (STREAMLIT, 8501),
    "python": (NUMPY, 8080),
    "next": (NEXT, 3000),
    "vite": (VITE, 8080),
    "go": (GO, 8080),
    "rails": (RAILS, 3000),
    "deno": (DENO, 8080),
    "java": (SPRING, 8080),
    "phoenix": (PHOENIX, 8080),
    "laravel": (LARAVEL, 8080),
    "rust": (RUST, 8080),
    "dotnet": (DOTNET, 8080),
    "bridgetown": (BRIDGETOWN, 4000),
    "ruby": (SINATRA, 8080),
    "lucky": (LUCKY, 8080),
    "elixir": (ELIXIR, 8080),
    "redwood": (REDWOOD, 8910),
    "hugo": (HUGO, 8080),
    "static": (STATIC, 8080),
    "php": (PHP, 8080),
    "node": (NODE, 4000),
    "bun": (BUN, 3000),
    **FAMILIES,
}
"""One project of each framework, with the port that it gets."""
