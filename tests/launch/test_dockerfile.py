"""Dockerfiles, right and wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from caddisfly.launch.build import context, dockerfile, ignore, stages
from caddisfly.launch.build.stages import Plan
from caddisfly.model.errors import InvalidArgument


def plan(text: str, **more: object) -> Plan:
    return stages.plan(dockerfile.read(text.encode()), **more)  # type: ignore[arg-type]


def refused(text: str, **more: object) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        plan(text, **more)
    return caught.value


MISTAKES = [
    # text, what, next
    ("", "Dockerfile:1: there is no instruction", "begin with: FROM image"),
    ("# only\n\n# words\n", "Dockerfile:1: there is no instruction", "begin with: FROM image"),
    ("FROM x\nRUNN a\n", "Dockerfile:2: unknown instruction RUNN", "did you mean RUN?"),
    ("FORM x\n", "Dockerfile:1: unknown instruction FORM", "did you mean FROM?"),
    ("FROM x\nentrypont [\"a\"]\n", "Dockerfile:2: unknown instruction entrypont", "did you mean ENTRYPOINT?"),
    ("ARG A=1\n", "Dockerfile:1: there is no FROM", "begin with: FROM image"),
    ("RUN a\nFROM x\n", "Dockerfile:1: RUN stands before the first FROM", "begin with: FROM image"),
    ("FROM\n", "Dockerfile:1: FROM has nothing behind it", ""),
    ("FROM x y\n", "Dockerfile:1: FROM x y cannot be read", "FROM image, or FROM image AS name"),
    ("FROM x of y\n", "Dockerfile:1: FROM x of y cannot be read", "FROM image, or FROM image AS name"),
    ("FROM x AS 1st\n", "Dockerfile:1: a stage cannot be called 1st", "a letter, then letters, digits, and any of -_."),
    ("FROM x AS scratch\n", "Dockerfile:1: a stage cannot be called scratch", None),
    ("FROM x\n\nCOPY a\n", "Dockerfile:3: COPY a has no destination", "COPY source... destination"),
    ("FROM x\nENV a\n", "Dockerfile:2: ENV a has no value", "ENV a=value"),
    ("FROM x\nRUN\n", "Dockerfile:2: RUN has nothing behind it", ""),
    ("FROM x\nCOPY --form=a b c\n", "Dockerfile:2: COPY has no flag --form", "did you mean --from?"),
    ("FROM x\nRUN cat <<EOF\na\n", "Dockerfile:2: the heredoc EOF does not end", "a line with EOF and nothing else"),
    ("FROM $A\n", "Dockerfile:1: FROM $A names no image", None),
    ("ARG A\nFROM $A\n", "Dockerfile:2: FROM $A names no image", None),
    ("FROM x AS deps\nFROM y\nCOPY --from=dep a b\n", "Dockerfile:3: --from=dep: there is no stage dep", None),
    ("FROM x\nCOPY --from=0 a b\n", "Dockerfile:2: --from=0: there is no earlier stage 0", "stages count from 0"),
    ("FROM x\nCOPY --from=last a b\nFROM y AS last\n", "Dockerfile:2: --from=last: that stage comes later", None),
    ("FROM x AS a\nCOPY --from=a b c\n", "Dockerfile:2: --from=a: a stage cannot take from itself", None),
    ("FROM x AS deps\nFROM y\nRUN --mount=from=dep a\n", "Dockerfile:3: from=dep: there is no stage dep", None),
    ("# escape=!\nFROM x\n", "Dockerfile:1: the escape character cannot be '!'", "\\ or `"),
    ("# escape=`\n# escape=`\nFROM x\n", "Dockerfile:2: 'escape' is set twice", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "what", "next"), MISTAKES, ids=[case[1] for case in MISTAKES])
def test_a_mistake_is_named_with_its_line(text: str, what: str, next: str | None) -> None:
    problem = refused(text)
    assert problem.what == what
    if next is not None:
        assert problem.next == next


def test_a_line_that_does_not_go_on() -> None:
    problem = refused("FROM x\nRUN apt-get update \\ # lists\n  && apt-get install curl\n")
    assert problem.what == "Dockerfile:3: unknown instruction &&"
    assert "does not end in \\" in problem.why


def test_a_file_that_is_no_text() -> None:
    with pytest.raises(InvalidArgument, match=r"web\.Dockerfile:2: this is not UTF-8 text"):
        dockerfile.read(b"FROM x\n\xff\n", name="web.Dockerfile")


FINE = [
    "FROM x",
    "from x\nrun a",
    "\ufeffFROM x\r\nRUN a \\\r\n  b\r\nCMD c\r\n",
    "# syntax=docker/dockerfile:1\n# escape=`\nFROM x\nRUN a `\n  b\nCOPY c:\\d e\\\n",
    "FROM x\nRUN a \\\n# a comment inside\n\n  b\nCMD c",
    "FROM x\nRUN a \\   \n  b\nCMD c",
    "FROM x\nRUN echo \\\\\nCMD c",
    "FROM x\nRUN <<EOF\nFORM nothing here is an instruction\nEOF\nCMD c",
    "FROM x\nRUN python3 - <<'PY' && cat <<-\"END\" | sh\nprint(1)\nPY\n\tNONSENSE\n\tEND\nCMD c",
    "FROM x\nCOPY <<one <<two /dir/\nA b\none\nC d\ntwo\nCMD c",
    "FROM x\nRUN echo '<<EOF' && a <<< word && echo $((1<<2))\nCMD c",
    "FROM x\nRUN a \\",
    "FROM x\nCMD\nENTRYPOINT []\nONBUILD RUN a\nHEALTHCHECK NONE\nSTOPSIGNAL 9\nMAINTAINER me\nSHELL [\"sh\"]",
    "# syntax=example.com/my/frontend\nFROM x\nINVENTED a",
    "ARG V=1\nFROM x:${V:-2} AS a\nFROM --platform=$BUILDPLATFORM a AS b\nCOPY --from=A x y\nCOPY --from=0 x y",
    "FROM x\nCOPY --from=nginx:1 a b\nCOPY --from=busybox a b\nCOPY --from=$Y a b",
    "FROM x\nCOPY --some-new-flag a b\nRUN --mount=type=secret,id=k --mount=type=cache,target=/c a",
    "FROM scratch\nCOPY [\"a b\", \"/c d/\"]\nENV A b c\nENV A=1 B=\"2 3\"\nLABEL a=b",
    "FROM node AS node\nFROM node\nCOPY --from=node a b",
    "\n\n# comment\nFROM x",
]  # fmt: skip


@pytest.mark.parametrize("text", FINE)
def test_what_docker_takes_is_taken(text: str) -> None:
    found = plan(text)
    if "CMD c" in text:
        assert found.target.instructions[-1].name == "CMD"
        assert found.target.instructions[-1].rest == "c"
    assert found.doubts == ()


def test_a_continued_line_is_one_instruction() -> None:
    found = dockerfile.read(b"FROM x\nRUN a \\\n    --flag \\\n    b\n\nENV c=d\n")
    assert [(one.name, one.line, one.rest.split()) for one in found.instructions] == [
        ("FROM", 1, ["x"]),
        ("RUN", 2, ["a", "--flag", "b"]),
        ("ENV", 6, ["c=d"]),
    ]


def test_an_instruction_that_is_swallowed_by_the_one_before_is_doubted() -> None:
    (doubt,) = plan("FROM x\nRUN a && \\\nCOPY b c\n").doubts
    assert doubt == "Dockerfile:3: COPY belongs to the instruction of line 2, which goes on with \\ at its end"


def test_a_build_arg_that_nobody_takes_is_doubted() -> None:
    found = plan("ARG A\nFROM x\nARG B=1 C\n", args={"A": "1", "B": "", "C": "", "D": "", "HTTP_PROXY": ""})
    assert found.doubts == ("--build-arg D: Dockerfile has no ARG D",)


def test_args_choose_the_image() -> None:
    text = "ARG V=1\nARG IMAGE=node:$V\nFROM $IMAGE\n"
    assert plan(text).images == ("node:1",)
    assert plan(text, args={"V": "2"}).images == ("node:2",)
    assert plan(text, args={"IMAGE": "deno:1"}).images == ("deno:1",)
    assert plan("FROM x:${A:-1}-${B:+b}${TARGETARCH}\n").images == ("x:1-amd64",)


STAGES = """
FROM one AS deps
FROM two AS test
COPY nowhere .
FROM three AS Build
RUN --mount=type=bind,from=deps,target=/d a
FROM build
COPY --from=four:4 a b
COPY --from=build a b
"""


def test_only_what_the_target_needs_is_asked_for() -> None:
    whole = plan(STAGES)
    assert [stage.name for stage in whole.stages] == ["deps", "build", ""]
    assert whole.images == ("one", "three", "four:4")
    assert plan(STAGES, target="BUILD").images == ("one", "three")
    assert plan(STAGES, target="1").images == ("two",)


def test_a_target_that_is_not_there() -> None:
    problem = refused(STAGES, target="biuld")
    assert problem.what == "Dockerfile has no stage biuld"
    assert problem.why == "its stages are deps, test, build"
    assert problem.next == "did you mean build?"


@pytest.fixture
def folder(tmp_path: Path) -> context.Folder:
    for name in ("package.json", "src/main.js", "secret.env", "a b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("src")
    return context.walk(tmp_path, ignore.rules(["*.env"]))


@pytest.mark.parametrize(
    "line",
    [
        "COPY . .",
        "COPY / /all/",
        "COPY ./src/ /app/src",
        "COPY /package.json ./src/main.js /app/",
        "COPY ../package.json /app/",
        "COPY yarn.lock* $FILE ${DIR}/x /app/",
        'COPY ["a b", "/app/"]',
        "COPY a\\ b 'a b' /app/",
        "COPY link/main.js /app/",
        "COPY --from=nginx /nowhere /app/",
        "COPY --chown=1:1 --chmod=755 src /app",
        "ADD https://example.com/x.tar.gz git@github.com:a/b.git https://github.com/a/b.git#main /app/",
        "COPY <<EOF /app/x\nhello\nEOF",
    ],
)
def test_sources_that_are_there(folder: context.Folder, line: str) -> None:
    plan(f"FROM x\n{line}\n").check_sources(folder)


def test_sources_that_are_not_there(folder: context.Folder) -> None:
    with pytest.raises(InvalidArgument) as caught:
        plan("FROM x\n\nCOPY package.jsn /app/\n").check_sources(folder)
    assert caught.value.what == "Dockerfile:3: COPY package.jsn: there is no such file in the build context"
    assert caught.value.next == "did you mean package.json?"
    with pytest.raises(InvalidArgument) as caught:
        plan("FROM x\nADD a https://x/y secret.env /app/\n").check_sources(folder)
    assert caught.value.what == "Dockerfile:2: ADD a: there is no such file in the build context"
    with pytest.raises(InvalidArgument) as caught:
        plan("FROM x\nCOPY secret.env /app/\n").check_sources(folder)
    assert caught.value.what == "Dockerfile:2: COPY secret.env: it is left out of the build context"
    assert caught.value.why == ".dockerignore ignores it"


def test_a_source_that_is_left_out_by_default(tmp_path: Path) -> None:
    (tmp_path / ".env.example").touch()
    with pytest.raises(InvalidArgument) as caught:
        plan("FROM x\nCOPY .env.example /\n").check_sources(context.walk(tmp_path, ignore.defaults()))
    assert caught.value.why == "it is left out where there is no .dockerignore"
    assert caught.value.next == "write a .dockerignore: then only its rules count"


def test_sources_of_stages_that_are_not_built_do_not_matter(folder: context.Folder) -> None:
    plan(STAGES).check_sources(folder)
    with pytest.raises(InvalidArgument, match="nowhere"):
        plan(STAGES, target="test").check_sources(folder)
