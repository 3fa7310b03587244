import compileall
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, alembic, environment, serving
from sqlalchemy import create_engine, inspect

sys.path.insert(0, str(ROOT))
from variants import KINDS, NOT_COPIED, make_variant


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def code_of(variant: Path) -> dict[str, str]:
    """Environment in which the variant's code is found before the installed one."""
    return {"PYTHONPATH": str(variant / "src"), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def migrated(migrated_url: str) -> Iterator[str]:
    yield migrated_url
    engine = create_engine(migrated_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE posts, alembic_version")
    engine.dispose()
    alembic(migrated_url, "upgrade", "head")


def column_names(url: str) -> set[str]:
    engine = create_engine(url)
    try:
        return {column["name"] for column in inspect(engine).get_columns("posts")}
    finally:
        engine.dispose()


def test_all_compile_and_differ(tmp_path: Path) -> None:
    contents = []
    for kind in KINDS:
        variant = make_variant(kind, ROOT, tmp_path / kind)
        contents.append(content(variant))
        assert compileall.compile_dir(variant, quiet=1)
    contents.append(content(make_variant("same", ROOT, tmp_path / "v3", marker="v3")))
    contents.append(content(make_variant("v2", ROOT, tmp_path / "v4", marker="v4")))
    assert all(one != other for n, one in enumerate(contents) for other in contents[:n])


def test_a_copy_is_the_app_and_nothing_else(tmp_path: Path) -> None:
    source = make_variant("same", ROOT, tmp_path / "source")
    clean = content(source)
    for name in (".venv", ".pytest_cache", "src/blog/__pycache__"):
        (source / name).mkdir()
        (source / name / "file").touch()
    assert content(make_variant("same", source, tmp_path / "copy")) == clean
    assert {"pyproject.toml", "uv.lock", "alembic.ini", "src/blog/main.py"} <= clean.keys()
    assert not any(Path(name).match(pattern) for name in clean for pattern in NOT_COPIED)


def test_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    variant = make_variant("v2", ROOT, tmp_path / "v2")
    with pytest.raises(FileExistsError):
        make_variant("v2", ROOT, variant)
    with pytest.raises(ValueError, match="inside"):
        make_variant("v2", variant, variant / "copy")
    with pytest.raises(ValueError, match="exactly once"):
        make_variant("v2", variant, tmp_path / "v3")
    with pytest.raises(ValueError, match="no variant 'v9'"):
        make_variant("v9", ROOT, tmp_path / "v9")


def test_columns_can_be_added_one_after_another(tmp_path: Path) -> None:
    first = make_variant("column", ROOT, tmp_path / "first")
    second = make_variant("column", first, tmp_path / "second")
    newest = sorted(path.name for path in (second / "migrations/versions").glob("[0-9]*.py"))[-2:]
    assert newest == ["0003_unused_3.py", "0004_unused_4.py"]
    text = (second / "migrations/versions" / newest[1]).read_text()
    assert 'down_revision = "0003"' in text


def test_import_error_cannot_be_imported(tmp_path: Path) -> None:
    variant = make_variant("import_error", ROOT, tmp_path / "app")
    result = subprocess.run(
        [sys.executable, "-c", "import blog.main"],
        env=environment("postgresql+psycopg://blog@/blog", **code_of(variant)),
        capture_output=True,
        text=True,
    )
    assert "ImportError: cannot import name 'a_name_that_is_missing'" in result.stderr
    assert result.returncode != 0


def test_startup_error_ends_the_server(tmp_path: Path) -> None:
    variant = make_variant("startup_error", ROOT, tmp_path / "app")
    url = "postgresql+psycopg://blog@/blog"
    start = serving(url, tmp_path, **code_of(variant))
    with pytest.raises(RuntimeError, match="this variant fails at startup"), start:
        pass


def test_health_error(tmp_path: Path, migrated_url: str) -> None:
    variant = make_variant("health_error", ROOT, tmp_path / "app")
    start = serving(migrated_url, tmp_path, **code_of(variant))
    with start as server, server.client() as client:
        assert client.get("/healthz").status_code == 500
        assert client.get("/api/posts").status_code == 200


def test_dies_after_healthy(tmp_path: Path, migrated_url: str) -> None:
    variant = make_variant("dies_after_healthy", ROOT, tmp_path / "app", seconds=0.2)
    with serving(migrated_url, tmp_path, **code_of(variant)) as server:
        with server.client() as client:
            assert client.get("/healthz").status_code == 200
        assert server.process.wait(timeout=5) == 70


def test_slow_start(tmp_path: Path) -> None:
    variant = make_variant("slow_start", ROOT, tmp_path / "app")
    assert "    await asyncio.sleep(20)\n" in (variant / "src/blog/main.py").read_text()


def test_old_code_works_after_the_migration_of_v2(tmp_path: Path, migrated: str) -> None:
    variant = make_variant("v2", ROOT, tmp_path / "app")
    post = {"title": "Title", "body": "Body", "author": "Ada"}
    old_folder, new_folder = tmp_path / "old", tmp_path / "new"
    old_folder.mkdir()
    new_folder.mkdir()
    with serving(migrated, old_folder) as old, old.client() as old_client:
        # More often than a driver needs to prepare the statements.
        for _ in range(10):
            assert old_client.post("/api/posts", json=post).status_code == 201
            assert old_client.get("/api/posts/1").status_code == 200

        alembic(migrated, "upgrade", "head", folder=variant)
        assert "author" in column_names(migrated)

        with serving(migrated, new_folder, **code_of(variant)) as new, new.client() as new_client:
            number = new_client.post("/api/posts", json=post).json()["id"]
            assert new_client.get(f"/api/posts/{number}").json()["author"] == "Ada"
            assert "by Ada" in new_client.get("/").text
            for _ in range(10):
                assert old_client.post("/api/posts", json=post).status_code == 201
                assert "author" not in old_client.get(f"/api/posts/{number}").json()


def test_migration_error_changes_nothing(tmp_path: Path, migrated: str) -> None:
    variant = make_variant("migration_error", ROOT, tmp_path / "app")
    result = alembic(migrated, "upgrade", "head", folder=variant, check=False)
    assert result.returncode != 0
    assert 'relation "a_table_that_is_missing" does not exist' in result.stderr
    assert "note" not in column_names(migrated)
    assert "0002 (head)" in alembic(migrated, "current").stdout


def test_command_line(tmp_path: Path) -> None:
    target = str(tmp_path / "v3")
    command = [sys.executable, str(ROOT / "variants.py"), "same", target, "--marker", "v3"]
    result = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert result.stdout == f"{target}\n"
    assert "BUILD = 'v3'\n" in (tmp_path / "v3/src/blog/__init__.py").read_text()
