"""Names of images, in every form that people write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caddisfly.host.images.reference import Reference
from caddisfly.model.errors import InvalidArgument

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("nginx", "registry-1.docker.io", "library/nginx", "latest", ""),
        ("nginx:1.27", "registry-1.docker.io", "library/nginx", "1.27", ""),
        ("docker.io/nginx", "registry-1.docker.io", "library/nginx", "latest", ""),
        ("index.docker.io/library/nginx", "registry-1.docker.io", "library/nginx", "latest", ""),
        ("acme/web", "registry-1.docker.io", "acme/web", "latest", ""),
        (f"nginx@{DIGEST}", "registry-1.docker.io", "library/nginx", "", DIGEST),
        (f"nginx:1@{DIGEST}", "registry-1.docker.io", "library/nginx", "1", DIGEST),
        ("localhost/x", "localhost", "x", "latest", ""),
        ("localhost:5000/a/b:t", "localhost:5000", "a/b", "t", ""),
        ("127.0.0.1:5000/x", "127.0.0.1:5000", "x", "latest", ""),
        ("[::1]:5000/x", "[::1]:5000", "x", "latest", ""),
        ("registry.fly.io/my-app:deployment-01H", "registry.fly.io", "my-app", "deployment-01H", ""),
        ("ghcr.io/a/b__c.d/e", "ghcr.io", "a/b__c.d/e", "latest", ""),
    ],
)
def test_a_name_is_expanded(text: str, registry: str, repository: str, tag: str, digest: str) -> None:
    reference = Reference.parse(text)
    assert (reference.registry, reference.repository, reference.tag, reference.digest) == (
        registry,
        repository,
        tag,
        digest,
    )


def test_the_canonical_form_means_the_same() -> None:
    assert str(Reference.parse("nginx")) == "registry-1.docker.io/library/nginx:latest"
    for text in ("nginx", f"ghcr.io/a/b:1@{DIGEST}", f"x@{DIGEST}", "localhost:5000/x"):
        assert Reference.parse(str(Reference.parse(text))) == Reference.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Nginx",
        "nginx:",
        "nginx:-x",
        "nginx@sha256:abc",
        "nginx@md5:" + "a" * 32,
        "a//b",
        "/nginx",
        "nginx/",
        "../etc/passwd",
        "ghcr.io/../x",
        "host:99999999/x",
        "a b",
        "nginx\n",
        "nginx:t\n",
        f"nginx@{DIGEST}\n",
        "x" * 600,
        "https://nginx.org/x",
        "é",
    ],
)
def test_a_bad_name_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Reference.parse(text)
    assert caught.value.why
    assert caught.value.next


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_a_named_error(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidArgument:
        return
    assert Reference.parse(str(reference)) == reference
