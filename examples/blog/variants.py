"""Makes changed copies of this app: newer versions, and ones that fail in a known way.

$ python variants.py v2 /tmp/blog-v2
$ python variants.py slow_start /tmp/blog-slow --seconds 40
$ python variants.py same /tmp/blog-v3 --source /tmp/blog-v2 --marker v3
"""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

HERE = Path(__file__).resolve().parent
NOT_COPIED = (
    ".env",
    ".git",
    ".venv",
    ".*_cache",
    ".cache",
    ".uv-*",
    "__pycache__",
    "*.egg-info",
    "build",
    "dist",
)
BUILD_FILE = "src/blog/__init__.py"
LIFESPAN = "async def lifespan(app: FastAPI) -> AsyncIterator[None]:\n"

MIGRATION = '''"""{message}"""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{down_revision}"


def upgrade() -> None:
{upgrade}

def downgrade() -> None:
    op.drop_column("posts", "{column}")
'''


def make_variant(
    kind: str,
    source_dir: Path | str,
    target_dir: Path | str,
    *,
    marker: str | None = None,
    seconds: float | None = None,
) -> Path:
    """Copy the app at `source_dir` to `target_dir`, which must not exist, and change it.

    The same kind with another `marker` is another release that behaves the same.
    `seconds` is how long slow_start and dies_after_healthy take.
    """
    if kind not in KINDS:
        raise ValueError(f"no variant {kind!r}; there are: {', '.join(KINDS)}")
    change, default_seconds = KINDS[kind]
    source, target = Path(source_dir).resolve(), Path(target_dir).resolve()
    if target.is_relative_to(source):
        raise ValueError(f"{target} is inside {source}: the copy would hold itself")
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*NOT_COPIED))
    change(target, default_seconds if seconds is None else seconds)
    if marker is not None or kind != "same":
        _mark(target, marker or kind)
    return target


def _same(app: Path, seconds: float) -> None:
    pass


def _v2(app: Path, seconds: float) -> None:
    """Version 1.1.0: posts have an author. 1.0.0 runs on the new table too."""
    _replace(app / "pyproject.toml", 'version = "1.0.0"', 'version = "1.1.0"')
    _replace(
        app / "uv.lock", 'name = "blog"\nversion = "1.0.0"', 'name = "blog"\nversion = "1.1.0"'
    )
    _replace(
        app / "src/blog/tables.py",
        '    Column("request_id", Text),\n',
        '    Column("request_id", Text),\n    Column("author", Text),\n',
    )
    _replace(
        app / "src/blog/schemas.py",
        "max_length=64)\n",
        "max_length=64)\n    author: str | None = Field(default=None, max_length=100)\n",
    )
    _replace(
        app / "src/blog/schemas.py",
        "    request_id: str | None\n",
        "    request_id: str | None\n    author: str | None\n",
    )
    page = app / "src/blog/templates/home.html"
    _replace(
        page, "</time>\n", "</time>\n    {% if post.author %}by {{ post.author }}{% endif %}\n"
    )
    _replace(page, "Served with care.", "Served with care, now with authors.")
    _add_migration(app, "author", "Who wrote the post.")


def _column(app: Path, seconds: float) -> None:
    """A migration more: one more column, which no code uses."""
    number = len(list((app / "migrations/versions").glob("[0-9]*.py"))) + 1
    _add_migration(app, f"unused_{number}", "One more column.")


def _import_error(app: Path, seconds: float) -> None:
    _append(app / "src/blog/main.py", "from blog.settings import a_name_that_is_missing\n")


def _startup_error(app: Path, seconds: float) -> None:
    message = "this variant fails at startup"
    _insert_after(app / "src/blog/main.py", LIFESPAN, f'    raise RuntimeError("{message}")\n')


def _slow_start(app: Path, seconds: float) -> None:
    _insert_after(app / "src/blog/main.py", LIFESPAN, f"    await asyncio.sleep({seconds})\n")


def _health_error(app: Path, seconds: float) -> None:
    _replace(
        app / "src/blog/health.py",
        "    return JSONResponse(answer)\n",
        '    return JSONResponse(answer | {"status": "error", "problem": "variant"}, 500)\n',
    )


def _dies_after_healthy(app: Path, seconds: float) -> None:
    _replace(
        app / "src/blog/health.py",
        "    return JSONResponse(answer)\n",
        f"    asyncio.get_running_loop().call_later({seconds}, os._exit, 70)\n"
        "    return JSONResponse(answer)\n",
    )


def _migration_error(app: Path, seconds: float) -> None:
    """Fails in its second statement, so the first one must be undone."""
    failing = '    op.execute("ALTER TABLE a_table_that_is_missing ADD COLUMN note text")\n'
    _add_migration(app, "note", "Fails.", failing)


def _add_migration(app: Path, column: str, message: str, more: str = "") -> None:
    folder = app / "migrations/versions"
    newest = max(path.name for path in folder.glob("[0-9]*.py")).partition("_")[0]
    revision = f"{int(newest) + 1:04}"
    text = MIGRATION.format(
        message=message,
        revision=revision,
        down_revision=newest,
        upgrade=f'    op.add_column("posts", sa.Column("{column}", sa.Text))\n{more}',
        column=column,
    )
    (folder / f"{revision}_{column}.py").write_text(text)


def _mark(app: Path, marker: str) -> None:
    path = app / BUILD_FILE
    lines = path.read_text().splitlines()
    marked = [f"BUILD = {marker!r}" if line.startswith("BUILD = ") else line for line in lines]
    path.write_text("\n".join(marked) + "\n")


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    # A changed app must break this loudly, not make a variant that is none.
    if text.count(old) != 1:
        raise ValueError(f"{path}: expected exactly once: {old!r}")
    path.write_text(text.replace(old, new))


def _insert_after(path: Path, line: str, more: str) -> None:
    _replace(path, line, line + more)


def _append(path: Path, more: str) -> None:
    path.write_text(path.read_text() + more)


# What each does to a copy, and its usual number of seconds.
KINDS: MappingProxyType[str, tuple[Callable[[Path, float], None], float]] = MappingProxyType(
    {
        "same": (_same, 0),
        "v2": (_v2, 0),
        "column": (_column, 0),
        "import_error": (_import_error, 0),
        "startup_error": (_startup_error, 0),
        "slow_start": (_slow_start, 20),
        "health_error": (_health_error, 0),
        "dies_after_healthy": (_dies_after_healthy, 2),
        "migration_error": (_migration_error, 0),
    }
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a changed copy of the blog.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("target", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--source", type=Path, default=HERE, help="default: this app")
    parser.add_argument("--marker", help="text that makes this copy a release of its own")
    parser.add_argument("--seconds", type=float, help="for slow_start and dies_after_healthy")
    options = parser.parse_args()
    try:
        target = make_variant(
            options.kind,
            options.source,
            options.target,
            marker=options.marker,
            seconds=options.seconds,
        )
    except (FileExistsError, ValueError) as error:
        parser.error(str(error))
    print(target)


if __name__ == "__main__":
    main()
