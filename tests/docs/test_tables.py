"""The tables of variables that tools/docs.py makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import docs

ROOT = Path(__file__).resolve().parents[2]

SPEC = """\
argument_specs:
  main:
    short_description: Serves
    options:
      asgi_x_name:
        description: Name, C(a|b) or <any>.
        type: str
        required: true
      asgi_x_mode:
        description: [One., Two.]
        type: str
        choices: [fast, safe]
        default: safe
      asgi_x_path:
        description: Path.
        type: path
      asgi_x_long:
        description: Long.
        type: str
      asgi_x_list:
        description: List.
        type: list
        elements: dict
        default: []
        options:
          url:
            description: URL.
            type: str
            required: true
  validate:
    short_description: Checks
    options: {}
"""
DEFAULTS = f"""\
asgi_x_mode: safe
asgi_x_path: "/srv/{{{{ asgi_x_name }}}}"
asgi_x_long: "{{{{ '{"x" * 80}' }}}}"
"""
TABLE = r"""| Variable | Type | Default | Choices | Description |
|---|---|---|---|---|
| `asgi_x_name` | str | **required** | | Name, `a\|b` or &lt;any&gt;. |
| `asgi_x_mode` | str | `"safe"` | `fast`, `safe` | One. Two. |
| `asgi_x_path` | path | `/srv/{{ asgi_x_name }}` | | Path. |
| `asgi_x_long` | str | computed: see [defaults](defaults/main.yml) | | Long. |
| `asgi_x_list` | list of dict | `[]` | | List. |
| `asgi_x_list[].url` | str | **required** | | URL. |

| `tasks_from` | What it does |
|---|---|
| `validate` | Checks |"""


@pytest.fixture
def role(tmp_path: Path) -> Path:
    """A role with a bit of everything."""
    made = tmp_path / "x"
    for folder, name, text in (
        ("meta", "argument_specs.yml", SPEC),
        ("defaults", "main.yml", DEFAULTS),
    ):
        (made / folder).mkdir(parents=True)
        (made / folder / name).write_text(text)
    return made


def test_table(role: Path) -> None:
    """Types, defaults, choices, keys of dictionaries, and nothing that Markdown would take."""
    assert docs.table(role) == TABLE


def test_only_what_is_between_the_markers_is_replaced() -> None:
    """And a second time nothing changes."""
    text = f"# Role\n\n{docs.BEGIN}\nold\n{docs.END}\n\nText\n"
    made = docs.filled(text, "new", "README.md")
    assert made == f"# Role\n\n{docs.BEGIN}\n\nnew\n\n{docs.END}\n\nText\n"
    assert docs.filled(made, "new", "README.md") == made


def test_readme_without_markers_is_refused() -> None:
    """It says which lines are missing."""
    with pytest.raises(docs.DocsError, match=r"README\.md has no lines with these two markers"):
        docs.filled("# Role\n", "new", "README.md")


def test_tables_are_up_to_date() -> None:
    """What is in the READMEs now is what would be written."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "docs.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_stale_table_is_shown(
    role: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--check exits with 1, shows the lines, and writes nothing; without it they are written."""
    stale = f"{docs.BEGIN}\n| old |\n{docs.END}\n"
    (role / "README.md").write_text(stale)
    servers = role.parent / "docs" / "servers.md"
    servers.parent.mkdir()
    servers.write_text(docs.filled("\n".join(docs.REFUSED), "| old |", "", docs.REFUSED))
    monkeypatch.setattr(docs, "ROLES", role.parent)
    monkeypatch.setattr(docs, "ROOT", role.parent)
    monkeypatch.setattr(sys, "argv", ["docs.py", "--check"])
    assert docs.main() == 1
    assert "-| old |" in capsys.readouterr().out
    assert (role / "README.md").read_text() == stale
    monkeypatch.setattr(sys, "argv", ["docs.py"])
    assert docs.main() == 0
    assert TABLE in (role / "README.md").read_text()
    assert "| `granian` | `--interface` | set asgi_service_lifespan |" in servers.read_text()


def test_the_proxy_role_says_of_http_3_what_was_seen() -> None:
    """The table in docs/proxies.md is written by a run of the scenarios."""
    lines = (ROOT / "docs" / "proxies.md").read_text(encoding="utf-8").splitlines()
    (row,) = (line for line in lines if line.startswith("| HTTP/3 |"))
    caddy, _upstreams, traefik = (cell.strip() for cell in row.strip("|").split("|")[1:])
    readme = (ROOT / "roles" / "proxy" / "README.md").read_text(encoding="utf-8")
    assert f"| HTTP/3 | {caddy} | {traefik} |" in readme
