"""Small repositories as teams have them, each with the variables that deploy it as it is.

They come from public reports of what did not deploy. Each is asked for what its users would see.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

UV = Path(__file__).resolve().parents[2] / ".cache/uv/bin"
#: More would be no repository that is deployed as it is.
MOST_LINES = 14

MAIN = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

async def healthz(request):
    return JSONResponse({"ok": True})

app = Starlette(routes=[Route("/healthz", healthz), *ROUTES])
"""
REQUIREMENTS = "starlette\nuvicorn\n"


def main(*routes: str) -> str:
    """The module of an app with more routes."""
    return MAIN.replace("*ROUTES", ", ".join(routes))


@dataclass(frozen=True)
class Repository:
    """A repository, how it is deployed, and what it answers.

    Args:
        variables: What its users write, as YAML; without the source, which is a directory.
        files: Its files; a link is written as `-> target`.
        answers: Texts that the answers have, by the paths that are asked.
        missing: Paths that are not there.
        commands: What is run in it on the controller before the deploy, as its users do.
    """

    variables: str
    files: Mapping[str, str]
    answers: Mapping[str, str] = field(default_factory=lambda: {"/healthz": '"ok":true'})
    missing: Sequence[str] = ()
    commands: Sequence[str] = ()

    def given(self, directory: Path) -> dict[str, Any]:
        """Its variables, with the source where there is none among them."""
        given = yaml.safe_load(self.variables.replace("SOURCE", str(directory)))
        return {"asgi_app_source": {"path": str(directory)}, **given}

    def write(self, directory: Path) -> None:
        """Writes it into a directory of the controller."""
        for name, text in self.files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self.run(directory, *self.commands)

    @staticmethod
    def run(directory: Path, *commands: str) -> None:
        """Runs commands in it, as its users do."""
        given = {**os.environ, "PATH": f"{UV}:{os.environ['PATH']}"}
        for command in commands:
            subprocess.run(["sh", "-ec", command], cwd=directory, check=True, env=given)


#: One that is asked after a second release, too.
STATIC = Repository(
    variables="""
asgi_app_name: static
asgi_app_entrypoint: main:app
asgi_proxy_domains: [static.test]
asgi_service_health_path: /healthz
""",
    files={
        "main.py": main('Mount("/static", StaticFiles(directory="static"))'),
        "requirements.txt": REQUIREMENTS,
        "static/changed.css": "body { color: #111 }",
        "static/same.css": "body { margin: 0 }",
    },
)

#: One whose lock gets out of date.
LOCKED = Repository(
    variables="""
asgi_app_name: locked
asgi_app_entrypoint: main:app
asgi_proxy_domains: [locked.test]
asgi_service_health_path: /healthz
""",
    files={
        "main.py": main(),
        "pyproject.toml": """
[project]
name = "locked"
version = "1.0"
requires-python = ">=3.11"
dependencies = ["starlette >=0.40, <2", "uvicorn[standard]"]
[project.optional-dependencies]
more = ["idna; python_version < '3.20'", "locked[most]"]
most = ["h11 == 0.*"]
[dependency-groups]
dev = ["iniconfig"]
""",
    },
    commands=["uv lock --quiet"],
)

REPOSITORIES = {
    # on a unix socket there is no address of a client but in the headers of the proxy
    "client": Repository(
        variables="""
asgi_app_name: client
asgi_app_entrypoint: main:app
asgi_proxy_domains: [client.test]
asgi_service_health_path: /healthz
asgi_service_devices: [/dev/asgi-test]
""",
        files={
            "main.py": """
import os
import resource
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Route

class Log(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        print(request.client.host, request.url.path)
        return await call_next(request)

async def healthz(request):
    return JSONResponse({"ok": True})

def opens(device):
    try:
        os.close(os.open(device, os.O_WRONLY))
    except OSError as error:
        return error.strerror
    return True

async def limits(request):
    # what the host allows at most may be less than the unit asks for
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return JSONResponse(
        {
            "client": request.client.host,
            "device": opens("/dev/asgi-test"),
            "other": opens("/dev/asgi-other"),
            "files": files == most,
        }
    )

app = Starlette(routes=[Route("/healthz", healthz), Route("/limits", limits)])
app.add_middleware(Log)
""",
            "requirements.txt": REQUIREMENTS,
        },
        answers={
            "/limits": '{"client":"127.0.0.1","device":true,'
            '"other":"Operation not permitted","files":true}'
        },
    ),
    # a front end that is built and git-ignored, and data that does not belong on a host
    "patterns": Repository(
        variables="""
asgi_app_name: patterns
asgi_app_source:
  path: SOURCE
  include: [dist/]
  exclude: [data, tests/, "docs/**"]
asgi_app_entrypoint: main:app
asgi_proxy_domains: [patterns.test]
asgi_service_health_path: /healthz
""",
        files={
            "main.py": main(
                'Mount("/all", StaticFiles(directory="."))',
                'Mount("/", StaticFiles(directory="dist", html=True))',
            ),
            "requirements.txt": REQUIREMENTS,
            ".gitignore": "dist/\n.env\n",
            ".env": "SECRET=x",
            "dist/index.html": "<h1>built</h1>",
            "data/a.csv": "1",
            "data/sub/b.csv": "2",
            "tests/test_a.py": "",
            "docs/a/b.rst": "",
        },
        commands=["git init --quiet", "git add ."],
        answers={"/": "<h1>built</h1>", "/all/main.py": "Starlette"},
        missing=[
            *("/all/data/a.csv", "/all/data/sub/b.csv", "/all/tests/test_a.py"),
            *("/all/docs/a/b.rst", "/all/.env"),
        ],
    ),
    # its back end makes a ZIP archive, which knows no time before 1980
    "flit": Repository(
        variables="""
asgi_app_name: flit
asgi_app_entrypoint: shop.main:app
asgi_proxy_domains: [flit.test]
asgi_service_health_path: /healthz
""",
        files={
            "pyproject.toml": """
[build-system]
requires = ["flit_core>=3.2"]
build-backend = "flit_core.buildapi"
[project]
name = "shop"
version = "1.0"
description = "A shop"
dependencies = ["starlette", "uvicorn"]
""",
            "src/shop/__init__.py": "",
            "src/shop/main.py": main(),
        },
    ),
}
