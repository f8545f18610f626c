"""Files served by nginx as somebody who is not root: on a high port, its pid and buffers where it may write."""

from __future__ import annotations

from caddisfly.launch.detect import script

PORT = 8080
IMAGE = "nginx:stable-alpine"


def serving(source: str, *, single_page: bool = False) -> list[str | None]:
    """The last stage. `source` is what COPY takes. With `single_page`, an address without a file is the page's."""
    otherwise = "/index.html" if single_page else "=404"
    config = [
        "server {",
        f"  listen {PORT};",
        "  root /usr/share/nginx/html;",
        "  gzip on;",
        "  gzip_types text/css application/javascript application/json image/svg+xml;",
        f"  location / {{ try_files $uri $uri/index.html $uri.html {otherwise}; }}",
        "}",
    ]
    written = " \\\n      ".join(f"'{line}'" for line in config)
    return [
        f"FROM {IMAGE}",
        script.run(
            f"printf '%s\\n' \\\n      {written} > /etc/nginx/conf.d/default.conf",
            "sed -i -e '/^user /d' -e 's,^pid .*,pid /tmp/nginx.pid;,' /etc/nginx/nginx.conf",
            "chown -R nginx:nginx /var/cache/nginx",
        ),
        "RUN rm -rf /usr/share/nginx/html/*",
        f"COPY {source} /usr/share/nginx/html",
        "",
        "USER nginx",
        f"EXPOSE {PORT}",
        script.cmd(["nginx", "-g", "daemon off;"]),
    ]
