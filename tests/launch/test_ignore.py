"""The rules of `.dockerignore`, case by case, and against a builder that knows them by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from caddisfly.launch.build import ignore
from caddisfly.model.errors import InvalidArgument

CASES = [
    # patterns, ignored, kept
    ("file", "file", "file2 a/file"),
    ("dir", "dir dir/a dir/b/c", "dirs a/dir"),
    ("dir/", "dir dir/a", "dirs"),
    ("/dir", "dir dir/a", "x/dir"),
    ("//a", "a", "x"),
    ("a/../b", "b", "a a/b"),
    ("./a/./b", "a/b", "a"),
    ("*", "a a/b .hidden", ""),
    ("*.go", "a.go", "a.goo x/a.go"),
    ("*/*.go", "x/a.go", "a.go x/y/a.go"),
    ("*/temp*", "x/temp x/temporary x/temp/y", "temp x/y/temp"),
    ("*/*/temp*", "x/y/temp.txt", "x/temp"),
    ("temp?", "tempa temp1", "temp temp12 temp/"),
    ("a?b", "axb", "a/b ab"),
    ("**", "a a/b a/b/c", ""),
    ("**/", "a a/b", ""),
    ("**/**", "a a/b", ""),
    ("**/*.txt", "a.txt x/a.txt x/y/a.txt", "a.txtx"),
    ("**/file", "file x/file x/y/file x/file/y", "xfile filex"),
    ("**file", "file xfile x/file x/yfile", "filex"),
    ("**file*", "file filex x/filex", "xfile"),
    ("a**", "a ab abc/d a/b", "ba"),
    ("a/**", "a/b a/b/c", "a ab"),
    ("a/**/", "a/b a/b/c", "a"),
    ("a/**/b", "a/b a/x/b a/x/y/b a/b/z", "ab a/xb b"),
    ("a/**/*.x", "a/1.x a/b/1.x", "1.x"),
    ("a**/b", "ab a/b ax/b ax/y/b", "axb"),
    ("**/a/**/b", "a/b x/a/y/b", "a b"),
    ("**/.git*", ".git .gitignore x/.gitignore", "a.git"),
    ("[ab]c", "ac bc", "cc abc"),
    ("[a-c]x", "ax bx cx", "dx"),
    ("[^a]x", "bx", "ax x"),
    (r"a\*b", "a*b", "axb"),
    (r"[\]x]", "] x", "y"),
    (r"\!a", "!a", "a"),
    (r"\#a", "#a", "a"),
    ("a.b", "a.b", "axb"),
    ("a+(b)|{c}$", "a+(b)|{c}$", "a"),
    ("#a", "", "a #a"),
    (" #a", "#a", "a"),
    ("  a  ", "a", "b"),
    ("a b", "a b", ""),
    ("ä*", "äb", "b"),
    (".", "", "a"),
    ("..", "", "a"),
    ("../a", "", "a"),
    ("", "", "a"),
    ("*.md|!README.md", "x.md", "README.md"),
    ("!README.md|*.md", "README.md x.md", "a"),
    ("*.md|!README*.md|README-secret.md", "x.md README-secret.md", "README.md README-2.md"),
    ("*|!a", "b", "a a/b a/b/c"),
    ("*|! a", "b", "a"),
    ("*|!/a", "b", "a"),
    ("*|!a/b", "a a/c c", "a/b a/b/d"),
    ("*|!a|a/b", "c a/b a/b/d", "a a/c"),
    ("**|!**/*.py", "a a/b", "x.py a/x.py"),
    ("a|!a/b|a/b/c", "a a/d a/b/c", "a/b a/b/d"),
    ("dir|!dir/x*", "dir dir/y", "dir/x1"),
    ("!a", "", "a b"),
]


@pytest.mark.parametrize(("lines", "ignored", "kept"), CASES, ids=[case[0] for case in CASES])
def test_patterns(lines: str, ignored: str, kept: str) -> None:
    rules = ignore.rules(lines.split("|") if "!" in lines else [lines])
    names = ["a b"] if ignored == "a b" and not kept else ignored.split()
    assert [path for path in names if not rules.ignores(path)] == []
    assert [path for path in kept.split() if rules.ignores(path.rstrip("/"))] == []


def test_a_rule_that_was_skipped_for_a_directory_is_not_inherited() -> None:
    """`!dir` says nothing while dir is kept anyway, so it does not bring back what is ignored below."""
    assert ignore.rules(["dir/x", "!dir"]).ignores("dir/x")
    assert not ignore.rules(["dir", "!dir"]).ignores("dir/x")


def test_windows_line_ends_and_a_byte_order_mark() -> None:
    rules = ignore.parse(b"\xef\xbb\xbf# no pattern\r\na\r\n\r\n!a/b\r\n", origin="x")
    assert [pattern.text for pattern in rules.patterns] == ["a", "!a/b"]
    assert ignore.parse(b"\xef\xbb\xbfa\n", origin="x").ignores("a")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[a", "a [ has no ]"),
        ("a\\", "it ends in a backslash, which has nothing to stand before"),
        ("!", "there is nothing behind the !"),
        ("[]a]", "a ] in brackets needs a backslash before it"),
        ("[-a]", "a - in brackets needs a backslash before it"),
        ("[z-a]", "the range z-a runs backwards"),
    ],
)
def test_a_pattern_that_means_nothing_is_named_with_its_line(line: str, why: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ignore.parse(f"ok\n\n{line}\n".encode(), origin="my/.dockerignore")
    assert caught.value.what == f"my/.dockerignore:3: the pattern '{line}' means nothing"
    assert caught.value.why == why


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    assert ignore.parse(b"caf\xe9\n", origin="x").ignores(name)
    assert ignore.rules(["caf?"]).ignores(name)


@pytest.mark.parametrize(
    ("lines", "directory", "possible"),
    [
        (["*"], "a", False),
        (["*", "!a/b"], "a", True),
        (["*", "!a/b"], "b", False),
        (["*", "!ab"], "a", False),
        (["*", "!**/x"], "a", True),
    ],
)
def test_an_ignored_directory_is_entered_only_when_something_in_it_may_be_kept(
    lines: list[str], directory: str, possible: bool
) -> None:
    assert ignore.rules(lines).may_keep_below(directory) is possible


def test_which_file_decides(tmp_path: Path) -> None:
    dockerfile = tmp_path / "docker" / "web.Dockerfile"
    dockerfile.parent.mkdir()
    dockerfile.touch()
    mine = tmp_path / "mine"
    mine.touch()
    assert ignore.choose(tmp_path, dockerfile=dockerfile) == ignore.defaults()
    (tmp_path / ".dockerignore").touch()
    assert ignore.choose(tmp_path, dockerfile=dockerfile).origin == str(tmp_path / ".dockerignore")
    beside = dockerfile.with_name("web.Dockerfile.dockerignore")
    beside.touch()
    assert ignore.choose(tmp_path, dockerfile=dockerfile).origin == str(beside)
    assert ignore.choose(tmp_path, dockerfile=dockerfile, ignorefile=mine).origin == str(mine)
    with pytest.raises(InvalidArgument, match="not found"):
        ignore.choose(tmp_path, ignorefile=tmp_path / "absent")


def test_without_a_file_what_nobody_wants_in_an_image_is_left_out() -> None:
    rules = ignore.defaults()
    for path in (".git/config", ".env", ".env.local", "web/node_modules/x/index.js", ".venv/bin/python", "fly.toml"):
        assert rules.ignores(path), path
    for path in ("app.py", ".gitignore", "sub/fly.toml", "environment"):
        assert not rules.ignores(path), path


# Not among them: `*` with `!**/*.py`, and a space behind the `!`. Docker brings the files back, this buildah does not.
BUILT = [
    ["*.md", "!README.md"],
    ["*", "!src", "src/**/*.pyc"],
    ["**/*.pyc", "**/node_modules"],
    ["src/", "/docs", "!docs/keep.txt"],
    ["*", "!src/b/c.py", "!README.md"],
    ["**", "!src/b"],
    ["docs", "!docs/deep/deeper/x.txt"],
    ["src/**", "!src/a.py", "?.txt", "[x-z].md"],
    ["# comment", "", "  docs  ", "!docs/keep.txt", "Dockerfile"],
    ["src/*/", ".dockerignore"],
]
TREE = (
    "README.md x.md a.txt ab.txt src/a.py src/a.pyc src/b/c.py src/b/c.pyc src/b/node_modules/m.js docs/keep.txt "
    "docs/other.txt docs/deep/deeper/x.txt docs/deep/y.txt node_modules/n.js .hidden/h"
).split()


@pytest.mark.skipif(shutil.which("buildah") is None or os.geteuid() != 0, reason="needs buildah, and root for it")
@pytest.mark.parametrize("lines", BUILT, ids=lambda lines: ",".join(lines))
def test_buildah_sees_the_same_files(lines: list[str], tmp_path: Path) -> None:
    context = tmp_path / "context"
    for name in (*TREE, "Dockerfile", ".dockerignore"):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(name)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY . /out/\n")
    (context / ".dockerignore").write_text("\n".join(lines) + "\n")
    rules = ignore.choose(context, dockerfile=context / "Dockerfile")
    everything = [str(path.relative_to(context)) for path in context.rglob("*") if path.is_file()]
    ours = {name for name in everything if not rules.ignores(name)}

    where = ["--root", str(tmp_path / "storage"), "--runroot", str(tmp_path / "run"), "--storage-driver", "vfs"]
    oci = tmp_path / "image"
    subprocess.run(
        ["buildah", *where, "build", "--quiet", "--isolation", "chroot", "--tag", f"dir:{oci}", str(context)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    layers = [path for path in oci.iterdir() if path.name not in ("manifest.json", "version")]
    listed = [
        subprocess.run(["tar", "-tf", str(layer)], capture_output=True, text=True, timeout=60) for layer in layers
    ]
    theirs = {
        name.removeprefix("out/")
        for one in listed
        if one.returncode == 0
        for name in one.stdout.splitlines()
        if name.startswith("out/") and not name.endswith("/")
    }
    assert theirs == ours
