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
BUILT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
"""


def main(*routes: str) -> str:
    """The module of an app with more routes."""
    return MAIN.replace("*ROUTES", ", ".join(routes))


def where(module: str) -> str:
    """The module of an app that says where another one was installed."""
    return f"import {module} as other\n" + main(
        'Route("/where", lambda request: JSONResponse(other.__file__))'
    )


#: A route with the versions of what is installed.
VERSION_ROUTE = [
    'Route("/version", lambda request: JSONResponse({one.name: one.version for one in'
    ' __import__("importlib.metadata").metadata.distributions()}))'
]
CORE = f"""
[project]
name = "core"
version = "1.0"
{BUILT}"""
#: A package in src.
SRC = {
    "src/shop/__init__.py": "",
    "src/shop/main.py": where("shop"),
    "pyproject.toml": f"""
[project]
name = "shop"
version = "1.0"
requires-python = ">=3.11"
dependencies = ["starlette", "uvicorn"]
{BUILT}""",
}
#: A workspace of uv.
WORKSPACE = {
    "pyproject.toml": '[tool.uv.workspace]\nmembers = ["apps/*", "packages/*"]\n',
    "packages/core/pyproject.toml": CORE,
    "packages/core/src/core/__init__.py": "X = 1",
    "apps/api/pyproject.toml": f"""
[project]
name = "api"
version = "1.0"
requires-python = ">=3.11"
dependencies = ["core", "starlette", "uvicorn"]
[tool.uv.sources]
core = {{ workspace = true }}
{BUILT}""",
    "apps/api/src/api/__init__.py": "",
    "apps/api/src/api/main.py": where("core"),
}


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
    # an app of a monorepo, with a package beside it
    "workspace": Repository(
        variables="""
asgi_app_name: workspace
asgi_app_directory: apps/api
asgi_app_entrypoint: api.main:app
asgi_proxy_domains: [workspace.test]
asgi_service_health_path: /healthz
""",
        files=WORKSPACE,
        commands=["uv lock --quiet"],
        answers={"/where": "/venv/lib/python"},
    ),
    # the same from its root, by the name of the package
    "package": Repository(
        variables="""
asgi_app_name: package
asgi_app_package: api
asgi_app_entrypoint: api.main:app
asgi_proxy_domains: [package.test]
asgi_service_health_path: /healthz
""",
        files=WORKSPACE,
        commands=["uv lock --quiet"],
        answers={"/where": "/venv/lib/python"},
    ),
    # requirements files in a folder, and a pyproject.toml for tools only
    "production": Repository(
        variables="""
asgi_app_name: production
asgi_app_requirements_files: [requirements/production.txt]
asgi_app_entrypoint: config.asgi:app
asgi_proxy_domains: [production.test]
asgi_service_health_path: /healthz
""",
        files={
            "config/__init__.py": "",
            "config/asgi.py": main(),
            "shop/__init__.py": "",
            "requirements/base.txt": "starlette\n",
            "requirements/production.txt": "-r base.txt\nuvicorn\n",
            "requirements/local.txt": "-r base.txt\nno-such-package-of-ours\n",
            "pyproject.toml": "[tool.ruff]\nline-length = 100\n",
        },
    ),
    # no package: setuptools finds three top-level packages and builds none
    "plain": Repository(
        variables="""
asgi_app_name: plain
asgi_app_extras: [server]
asgi_app_entrypoint: app.main:app
asgi_proxy_domains: [plain.test]
asgi_service_health_path: /healthz
""",
        files={
            "app/main.py": main('Mount("/static", StaticFiles(directory="static"))'),
            "alembic/env.py": "",
            "static/x.css": "body {}",
            "pyproject.toml": """
[project]
name = "plain"
version = "1.0"
dependencies = ["starlette"]
[project.optional-dependencies]
server = ["uvicorn"]
""",
        },
        answers={"/static/x.css": "body {}"},
    ),
    "poetry": Repository(
        variables="""
asgi_app_name: poetry
asgi_app_entrypoint: app.main:app
asgi_app_extras: [server]
asgi_proxy_domains: [poetry.test]
asgi_service_health_path: /healthz
""",
        files={
            "app/__init__.py": "",
            "app/main.py": main(*VERSION_ROUTE),
            "pyproject.toml": """
[tool.poetry]
name = "app"
version = "1.0"
package-mode = false
[tool.poetry.dependencies]
python = ">=3.11"
starlette = "<0.40"
uvicorn = { version = "*", optional = true }
[tool.poetry.extras]
server = ["uvicorn"]
[tool.poetry.group.dev.dependencies]
iniconfig = "*"
[[tool.poetry.source]]
name = "simple"
url = "https://pypi.org/simple"
[build-system]
requires = ["poetry-core"]
build-backend = "poetry.core.masonry.api"
""",
        },
        # the project may have a newer version by now than its lock
        commands=["uv tool run --quiet poetry==2.5.1 lock --quiet"],
        answers={"/version": '"starlette":"0.39.2"'},
    ),
    "pdm": Repository(
        variables="""
asgi_app_name: pdm
asgi_app_entrypoint: shop.main:app
asgi_proxy_domains: [pdm.test]
asgi_service_health_path: /healthz
""",
        files={
            "src/shop/__init__.py": "",
            "src/shop/main.py": where("shop"),
            "pyproject.toml": f"""
[project]
name = "shop"
version = "1.0"
requires-python = ">=3.11"
dependencies = ["starlette", "uvicorn"]
[dependency-groups]
dev = ["iniconfig"]
[tool.pdm]
distribution = true
{BUILT}""",
        },
        commands=["uv tool run --quiet --with 'hishel<2' pdm==2.29.4 lock --quiet"],
        answers={"/where": "/venv/lib/python"},
    ),
    # the standard lock, as uv, pip and PDM write it
    "pylock": Repository(
        variables="""
asgi_app_name: pylock
asgi_app_entrypoint: main:app
asgi_app_requirements_files: [pylock.production.toml]
asgi_proxy_domains: [pylock.test]
asgi_service_health_path: /healthz
""",
        files={"main.py": main(), "requirements.in": REQUIREMENTS},
        commands=[
            "uv pip compile --quiet --python-version 3.11 requirements.in"
            " --output-file pylock.production.toml"
        ],
    ),
    # as on the laptop of its users, where it stays editable
    "editable": Repository(
        variables="""
asgi_app_name: editable
asgi_app_entrypoint: shop.main:app
asgi_proxy_domains: [editable.test]
asgi_service_health_path: /healthz
""",
        files={
            **SRC,
            "requirements.txt": "-e .\n-e ./libs/core\nuvicorn\n",
            "libs/core/src/core/__init__.py": "X = 1",
            "libs/core/pyproject.toml": CORE,
            "src/shop/main.py": where("core"),
        },
        answers={"/where": "/venv/lib/python"},
    ),
    # what uv export writes: the project is editable, and all else has hashes
    "exported": Repository(
        variables="""
asgi_app_name: exported
asgi_app_entrypoint: shop.main:app
asgi_proxy_domains: [exported.test]
asgi_service_health_path: /healthz
""",
        files=SRC,
        commands=["uv export --quiet --output-file requirements.txt && rm uv.lock"],
        answers={"/where": "/venv/lib/python"},
    ),
    # what pip-compile writes: the project itself is not in it
    "compiled": Repository(
        variables="""
asgi_app_name: compiled
asgi_app_entrypoint: shop.main:app
asgi_proxy_domains: [compiled.test]
asgi_service_health_path: /healthz
""",
        files=SRC,
        commands=[
            "uv pip compile --quiet --generate-hashes pyproject.toml --output-file requirements.txt"
        ],
        answers={"/where": "/venv/lib/python"},
    ),
    # no package either: it runs in src, what it needs is above
    "above": Repository(
        variables="""
asgi_app_name: above
asgi_app_directory: src
asgi_app_entrypoint: shop.main:app
asgi_proxy_domains: [above.test]
asgi_service_health_path: /healthz
""",
        files={"requirements.txt": REQUIREMENTS, "src/shop/main.py": main()},
    ),
    # its version is in the tags of its repository, which a release has not got
    "tagged": Repository(
        variables="""
asgi_app_name: tagged
asgi_app_source: {git: "file://SOURCE", version: main}
asgi_app_entrypoint: shop.main:app
asgi_proxy_domains: [tagged.test]
asgi_service_health_path: /healthz
""",
        files={
            **SRC,
            "pyproject.toml": """
[build-system]
requires = ["setuptools", "setuptools-scm"]
build-backend = "setuptools.build_meta"
[project]
name = "shop"
dynamic = ["version"]
dependencies = ["starlette", "uvicorn"]
[tool.setuptools_scm]
""",
            "src/shop/main.py": main(*VERSION_ROUTE),
        },
        commands=[
            "git init --quiet --initial-branch=main && git add .",
            "git -c user.name=x -c user.email=x@example.com commit --quiet --message=first",
            "git tag v1.4.2",
        ],
        answers={"/version": '"shop":"1.4.2"'},
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
