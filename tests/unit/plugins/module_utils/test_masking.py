"""A secret is masked however a program has written it, and what is no secret is not."""

from __future__ import annotations

import base64
import html
import json
import pprint
import re
import reprlib
import shlex
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.masking import MASK, Mask, mask_of
from ansible_collections.asgi.deploy.plugins.module_utils.proxies.site import Site, write
from ansible_collections.asgi.deploy.plugins.module_utils.units import environment_file

PASSWORD = "S3cr'et\"P@ss w0rd/&é+%\u20ac\\end"
PLAIN = "S3cretPassw0rdX9"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG\n9w0BAQEFAASCBKcwggSj\n-----END KEY-----"

#: How programs write a text.
FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "repr": repr,
    "ascii": ascii,
    "repr of bytes": lambda text: repr(text.encode()),
    "JSON": json.dumps,
    "JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False),
    "JSON of Go": lambda text: json.dumps(text).replace("&", "\\u0026"),
    "JSON with escaped slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "JSON of JSON of repr": lambda text: json.dumps({"message": json.dumps(repr(text))}),
    "URL": quote,
    "URL without slashes": lambda text: quote(text, safe=""),
    "URL in lower case": lambda text: re.sub(
        "%..", lambda match: match[0].lower(), quote(text, safe="")
    ),
    "URL of URL": lambda text: quote(quote(text, safe=""), safe=""),
    "form": quote_plus,
    "HTML": html.escape,
    "HTML of JSON": lambda text: html.escape(json.dumps(text)),
    "HTML with numbers": lambda text: "".join(
        char if char.isalnum() else f"&#{ord(char)};" for char in text
    ),
    "shell": shlex.quote,
    "environment file": lambda text: environment_file({"A": text}),
    "pprint": lambda text: pprint.pformat({"value": text}, width=20),
    "wrapped": lambda text: "\n    ".join(textwrap.wrap(text, 10)),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "base64 in lines": lambda text: base64.encodebytes(text.encode() * 3).decode(),
    "basic auth": lambda text: base64.b64encode(f"user:{text}".encode()).decode(),
    "basic auth of an admin": lambda text: base64.b64encode(f"admin:{text}:".encode()).decode(),
    "hexadecimal": lambda text: text.encode().hex(),
    "hexadecimal in upper case": lambda text: text.encode().hex().upper(),
}
#: What the forms add: names, whom a password is for, and lines of a key that every key has.
ADDED = ("message", "value", "quot", "dXNlcj", "YWRtaW46", "BEGIN PRIVATE KEY", "END KEY")


def left_of(text: str) -> str:
    """Returns the letters and digits that masking has left, without what a form adds."""
    for word in (MASK, *ADDED):
        text = text.replace(word, "")
    return "".join(char for char in text if char.isalnum())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", [PASSWORD, PLAIN, KEY, "tab\tand\nline", "100%41\\x41&amp;"])
def test_a_secret_is_masked_in_every_form(secret: str, form: str) -> None:
    found = Mask([secret]).text(f"[{FORMS[form](secret)}]")
    assert MASK in found
    # part of an escape, and of a character that shares its bits with another one
    assert len(left_of(found)) <= 3, found


@pytest.mark.parametrize("form", FORMS)
def test_the_password_of_a_url_is_masked_as_it_is_written_and_as_it_is_meant(form: str) -> None:
    url = f"postgresql://user:{quote(PASSWORD, safe='')}@db.example.com/app"
    for text in (url, PASSWORD, quote(PASSWORD, safe="")):
        found = Mask([url]).text(f"[{FORMS[form](text)}]")
        assert MASK in found
        assert len(left_of(found)) <= 3, found


def test_what_of_a_url_is_no_secret_is_shown() -> None:
    text = "postgresql://user:...: cannot reach db.example.com/app as user (postgresql://)"
    assert Mask([f"postgresql://user:{PLAIN}@db.example.com/app"]).text(text) == text


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("redis://:a-pass-word@cache/0", "a-pass-word"),
        ("postgresql://u:a/pass@word@db/blog", "a/pass@word"),
        ("mongodb://u:a-pass-word@db1,db2/blog", "a-pass-word"),
        ("amqp://u:first-pass@a//;amqp://u:a-pass-word@b//", "a-pass-word"),
        ("postgresql://db/blog?user=u&password=a-pass-word&sslmode=require", "a-pass-word"),
        ("host=db user=u password='a pass word' dbname=blog", "a pass word"),
        ('{"type": "service", "private_key": "a-pass\\nword"}', "a-pass\nword"),
        ("https://0123456789abcdef0123@errors.example.com/7", "0123456789abcdef0123"),
        ("Endpoint=sb://bus/;SharedAccessKey=YS1wYXNzLXdvcmQ=", "YS1wYXNzLXdvcmQ="),
    ],
)
def test_what_of_a_value_is_secret_by_itself_is_masked_alone(value: str, part: str) -> None:
    mask = Mask([value])
    assert mask.text(f"got {value}!") in (f"got {MASK}!", f"got {MASK}'!")
    assert mask.text(f"got {part!r}!") == f"got '{MASK}'!"


def cut_by_pydantic(text: str) -> str:
    """Returns a value as errors of pydantic show it: 25 characters, dots, 24 characters."""
    shown = repr(text)
    return shown if len(shown) <= 50 else f"{shown[:25]}...{shown[-24:]}"


CUTS: dict[str, Callable[[str], str]] = {
    "pydantic": cut_by_pydantic,
    "pydantic, in a dictionary": lambda text: cut_by_pydantic(f"A': '{text}', 'B': '1")[1:-1],
    "pydantic, a long dictionary": lambda text: (
        f"{{'DATABASE_URL': 'postgre...{text[-14:]}', 'A'}}"
    ),
    "reprlib": reprlib.repr,
    "shorten": lambda text: textwrap.shorten(f"url {text} is bad", 40, placeholder=" [...]"),
    "rich": lambda text: f"{text[:36]!r}+{len(text) - 36}",
    "one character": lambda text: f"{text[:36]}\u2026",
    "the end": lambda text: f"...{text[-30:]}",
    "in JSON": lambda text: json.dumps(cut_by_pydantic(text)),
    "in an escape": lambda text: f"{quote(text, safe='')[:47]}...",
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("password", [PLAIN, quote("S3cret Passw0rd/X9", safe="")])
def test_what_is_left_of_a_secret_at_a_cut_is_masked(password: str, cut: str) -> None:
    url = f"postgresql://blogger:{password}@db.example.com/app"
    for value in (url, f"{password}-{password}-{password}"):
        found = Mask([value]).text(CUTS[cut](value))
        for part in ("S3c", "cret", "Pass", "w0rd", "rdX9", "X9@"):
            assert part not in found, found


def test_a_value_with_a_cut_that_is_no_secret_is_shown() -> None:
    text = "waiting... postgresql://blogger... see ../releases/1.0.0-abc and db.example.com/app"
    assert Mask([f"postgresql://blogger:{PLAIN}@db.example.com/app"]).text(text) == text


def test_each_line_of_a_key_is_masked_and_what_every_key_has_is_shown() -> None:
    text = "line 2 is MIIEvQIBADANBgkqhkiG after -----BEGIN PRIVATE KEY-----"
    assert Mask([KEY]).text(text) == f"line 2 is {MASK} after -----BEGIN PRIVATE KEY-----"


@pytest.mark.parametrize("value", ["", "1", "true", "blog", "12345"])
def test_a_value_that_is_too_short_to_be_secret_masks_nothing(value: str) -> None:
    text = f"{value} is true, 1 of 12345 blogs"
    assert Mask([value]).text(text) == text


def test_the_name_of_the_app_is_no_secret_and_a_url_with_it_is() -> None:
    """A password that is the name would mask all paths."""
    url = "postgresql://journal:journal@db/journal"
    mask = Mask([url], ["/srv/journal"])
    assert mask.text("/srv/journal/releases, journal-blue@1.service") == (
        "/srv/journal/releases, journal-blue@1.service"
    )
    assert mask.text(f"cannot reach {url}") == f"cannot reach {MASK}"


def test_secrets_that_contain_each_other_leave_nothing() -> None:
    mask = Mask(["a-secret", "a-secret-with-more", "more-of-it"])
    assert mask.text("a-secret a-secret-with-more a-secret-with-more-of-it") == (
        f"{MASK} {MASK} {MASK}"
    )


def test_all_texts_of_a_result_are_masked_and_nothing_else_is_changed() -> None:
    value = {
        "msg": f"bad {PLAIN}",
        "lines": [PLAIN, {"more": (f"{PLAIN}!", None)}],
        "port": 1234567,
        "changed": False,
    }
    assert Mask([PLAIN, "1234567"]).all(value) == {
        "msg": f"bad {MASK}",
        "lines": [MASK, {"more": [f"{MASK}!", None]}],
        "port": 1234567,
        "changed": False,
    }


def test_a_long_journal_is_masked_quickly() -> None:
    """There may be fifty secrets, and a result has a history."""
    mask = Mask([f"postgresql://user:{number}-{PLAIN}@db/app" for number in range(50)])
    started = time.process_time()
    mask.text('INFO: 127.0.0.1 - "GET /posts/1?a=%20b HTTP/1.1" 200 ...\n' * 2000)
    assert time.process_time() - started < 10


# --- on a host ------------------------------------------------------------------------------------


def test_the_secrets_of_an_app_are_those_of_all_its_slots(app: Layout, tmp_path: Path) -> None:
    for directory, value in (
        (app.configuration, 'next "secret"'),
        (app.slot_configuration("blue"), "secret-of-blue"),
        (app.slot_configuration("green"), "secret-of-green"),
    ):
        directory.mkdir(exist_ok=True)
        (directory / "secrets").write_text(environment_file({"A": value}), encoding="utf-8")
        text = environment_file({"TITLE": "shown-anyhow"})
        (directory / "environment").write_text(text, encoding="utf-8")
    for name in ("installed", "migration", "coming", "given"):
        (tmp_path / name).write_text(f"credential-{name}\n", encoding="utf-8")
    for path, name in (
        (app.unit_file("blue", "service"), "installed"),
        (app.migrate_unit_file, "migration"),
    ):
        path.write_text(f"[Service]\nLoadCredential=key:{tmp_path / name}\n", encoding="utf-8")
    coming = f"[Service]\nLoadCredential=key:{tmp_path / 'coming'}\n"
    mask = mask_of(app, [coming], [str(tmp_path / "given")])
    for secret in (
        *('next "secret"', "secret-of-blue", "secret-of-green"),
        *(f"credential-{name}" for name in ("installed", "migration", "coming", "given")),
    ):
        assert mask.text(f"<{secret}>") in (f"<{MASK}>", f'<{MASK}">')
    assert mask.text("shown-anyhow") == "shown-anyhow"


def test_the_secrets_of_the_proxy_are_masked_in_what_a_rollout_tells(app: Layout) -> None:
    """A key of an ACME account, which Caddy may repeat where it rejects its file."""
    for path, secret in ((app.staged_site, "next-mac-key"), (app.slot_site("blue"), "mac-key-one")):
        kept = Site("caddy", {"/etc/caddy/sites/blog.caddy": secret}, [], "/usr/bin/caddy")
        write(path, replace(kept, secrets=[secret]))
    damaged = app.slot_site("green")
    damaged.parent.mkdir()
    damaged.write_text("{")
    assert mask_of(app).text("<next-mac-key> <mac-key-one>") == f"<{MASK}> <{MASK}>"


def test_a_file_that_cannot_be_compared_is_left_out(app: Layout, tmp_path: Path) -> None:
    (tmp_path / "large").write_text("x" * 70_000)
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    paths = [str(tmp_path / name) for name in ("large", "binary", "none", ".")]
    assert mask_of(app, credentials=paths).secrets == []
