"""An app that shows its secrets in every way shows them to its host only."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from sites import ROOT, Played, Site

HELLO = ROOT / "examples" / "hello"
NAME = "talker"
PASSWORD = "Tr0ub4dor/&é'\"3-Zq7vXk"
URL = f"postgresql://talker_db:{quote(PASSWORD, safe='')}@db.example.com/talker"
CREDENTIAL = "/etc/talker.key"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\n-----END PRIVATE KEY-----"
#: All that the app knows, in the ways in which programs write it; the last one is of pydantic.
SHOW = """
import base64, html, json, os, shlex
from pathlib import Path
from urllib.parse import quote, unquote

def show(place):
    url = os.environ["DATABASE_URL"]
    password = unquote(url.split("@")[0].rpartition(":")[2])
    key = Path(os.environ["CREDENTIALS_DIRECTORY"], "signing.key").read_text()
    for text in (url, password, key):
        print(text, repr(text), ascii(text), json.dumps(text), json.dumps(repr(text)))
        print(quote(text), quote(text, safe=""), html.escape(text), shlex.quote(text))
        print(base64.b64encode(text.encode()), text.encode().hex())
    print("Basic", base64.b64encode(f"talker_db:{password}".encode()).decode(), flush=True)
    shown = repr({"DATABASE_URL": url, "PASSWORD": password})
    text = f"input_value={shown[:25]}...{shown[-24:]}, {url!r}, {json.dumps(password)}, {key!r}"
    if os.environ["FAILS_AT"] == place:
        raise ValueError(f"1 validation error for Settings\\n{text}")
    return text
"""
MIGRATE = "from show import show\nshow('migration')\n"
APP = """
import os
import traceback
import show

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        try:
            show.show("start")
        except ValueError:
            # without it the server goes on without lifespan
            message = traceback.format_exc()
            return await send({"type": "lifespan.startup.failed", "message": message})
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "http":
        status = 500 if os.environ["FAILS_AT"] == "health" else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": show.show("answer").encode()})

show.show("import")
"""


def fragments() -> Iterator[str]:
    """Yields what each way of writing the secrets has, or what is left of one that was cut."""
    yield from ("Tr0ub4", "Zq7vXk", "vXk", "MIIEvQIBADAN", "kqhkiG9w0B")
    for secret in (URL, PASSWORD, KEY):
        content = secret.encode()
        yield content.hex()[:40]
        for before in range(3):
            yield base64.b64encode(b"\0" * before + content)[4:20].decode()


@pytest.fixture(scope="module")
def talker(one_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """An app beside the blog that was never deployed."""
    directory = tmp_path_factory.mktemp(NAME)
    source = directory / "source"
    shutil.copytree(HELLO, source)
    for name, text in {"show.py": SHOW, "migrate.py": MIGRATE, "hello.py": APP}.items():
        (source / name).write_text(text)
    one_site.host.run(f"cat > {CREDENTIAL} && chmod 600 {CREDENTIAL}", stdin=KEY)
    return one_site.another_app(
        directory,
        source,
        {
            "asgi_app_name": NAME,
            "asgi_app_entrypoint": "hello:app",
            "asgi_app_source": {"path": str(source)},
            "asgi_app_secrets": {"DATABASE_URL": URL},
            "asgi_app_credentials": {"signing.key": CREDENTIAL},
            "asgi_app_ca_file": "/etc/ssl/certs/ca-certificates.crt",
            "asgi_service_instances": 1,
            "asgi_service_health_timeout_seconds": 20,
            "asgi_migrate_command": "python migrate.py",
            "asgi_proxy_domains": ["talker.test"],
        },
    )


def play(site: Site, playbook: str, fails_at: str = "never", **options: Any) -> Played:
    """Plays with all that Ansible can show."""
    environment = {"FAILS_AT": fails_at}
    return site.play(playbook, "-vvv", "--diff", asgi_app_environment=environment, **options)


def assert_hidden(text: str) -> None:
    """Nothing of a secret is in a text."""
    assert [part for part in fragments() if part in text] == []


def readable_files(site: Site) -> str:
    """The content of all files of the app that any user can read."""
    places = f"/srv/{NAME} /etc/asgi /run/asgi-deploy /etc/systemd/system"
    readable = "-type f -perm -o=r ! -path '*/venv/*' ! -path '*/source/*'"
    return site.run(f"find {places} {readable} -exec cat {{}} +; cat /srv/{NAME}/state.json")


@pytest.mark.parametrize(
    ("fails_at", "text"),
    [
        ("import", "cannot be imported"),
        ("migration", "the migration of release"),
        ("start", "did not stay up"),
        ("health", "status 500"),
    ],
)
def test_what_an_app_shows_when_it_fails_is_masked(talker: Site, fails_at: str, text: str) -> None:
    played = play(talker, "asgi.deploy.site", fails_at, expect=2)
    assert text in played.unwrapped
    # so the app has shown them
    assert "********" in played.output
    assert "input_value=" in played.output, played.output
    assert_hidden(played.output)
    if "state.json" in talker.run(f"ls /srv/{NAME}"):
        assert_hidden(readable_files(talker))


def test_a_deploy_that_is_good_shows_none_either(talker: Site) -> None:
    """And nothing else than a secret is masked that the next run needs."""
    assert_hidden(play(talker, "asgi.deploy.site").output)
    again = play(talker, "asgi.deploy.site")
    assert again.changed == 0
    assert_hidden(again.output)
    assert_hidden(play(talker, "asgi.deploy.site", "health", expect=2).output)
    assert_hidden(readable_files(talker))
    assert_hidden(play(talker, "asgi.deploy.status").output)
