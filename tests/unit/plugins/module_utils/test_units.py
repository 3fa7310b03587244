"""The syntax of systemd: each value arrives as it was given.

What systemd makes of a line is written down here as its own code does it (extract-word.c with
unquoting and C escapes, specifiers, variables; env-file.c); the tests on hosts ask systemd itself.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import units

ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "s": " "}

ARGUMENTS = [
    "plain",
    "",
    "two words",
    "tab\there",
    "line\nbreak",
    "carriage\rreturn",
    "100%",
    "%h %i %%",
    "$HOME ${HOME} $$",
    'say "hi"',
    "it's",
    "back\\slash",
    "\\n is no line break",
    "trailing\\",
    ";",
    "#no comment",
    "-option=value",
    "*",
    "größe",
    "{json: [1, 2]}",
]


def read_exec_line(line: str) -> list[str]:
    """Splits a line after ExecStart= as systemd does: words, escapes, specifiers, variables."""
    assert not set("\n\r") & set(line), "a line ends there"
    words, word, quote, position = [], None, "", 0
    while position < len(line):
        character = line[position]
        position += 1
        if character == "\\":
            word = (word or "") + ESCAPES[line[position]]
            position += 1
        elif quote:
            if character == quote:
                quote = ""
            else:
                word = (word or "") + character
        elif character in "\"'":
            quote, word = character, word or ""
        elif character in " \t":
            if word is not None:
                words.append(word)
            word = None
        else:
            assert not (character == ";" and word is None), "a second command would begin there"
            word = (word or "") + character
    assert not quote, "the quotes are not closed"
    if word is not None:
        words.append(word)
    return [read_doubled(read_doubled(word, "%"), "$") for word in words]


def read_doubled(word: str, sign: str) -> str:
    """Undoubles a sign; a single one would be expanded."""
    parts = word.split(sign * 2)
    assert not any(sign in part for part in parts), f"{sign} would be expanded"
    return sign.join(parts)


def test_every_argument_arrives_as_it_is() -> None:
    assert read_exec_line(units.exec_line(ARGUMENTS)) == ARGUMENTS


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_an_argument_alone_arrives_as_it_is(argument: str) -> None:
    assert read_exec_line(units.exec_word(argument)) == [argument]


def test_what_needs_no_quotes_has_none() -> None:
    line = units.exec_line(["-m", "uvicorn", "blog.main:app", "--root-path", "/a,b=c@d"])
    assert line == "-m uvicorn blog.main:app --root-path /a,b=c@d"


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("alembic upgrade head", ["alembic", "upgrade", "head"]),
        ("python -c 'print(\"a b\")'", ["python", "-c", 'print("a b")']),
        ('x --rate 50% "$HOME"', ["x", "--rate", "50%", "$HOME"]),
        ("", []),
    ],
)
def test_a_command_is_split_as_a_person_means_it(command: str, arguments: list[str]) -> None:
    assert read_exec_line(units.command_line(command)) == arguments


def test_a_command_with_open_quotes_is_refused() -> None:
    with pytest.raises(ValueError, match="quotation"):
        units.command_line("alembic 'upgrade head")


# --- environment files ----------------------------------------------------------------------------

VALUES = {
    "PLAIN": "value",
    "EMPTY": "",
    "SPACES": "  two  words  ",
    "QUOTES": "say \"hi\" and 'ho'",
    "DOLLAR": "$HOME ${HOME} `id`",
    "PERCENT": "50% %h %%",
    "BACKSLASH": "a\\b \\n \\",
    "HASH": "# no comment ; none",
    "LINES": "one\ntwo\n\n  three\n",
    "KEY": "-----BEGIN PRIVATE KEY-----\nMIIE+/=\n-----END PRIVATE KEY-----\n",
    "CARRIAGE": "a\r\nb",
    "UNICODE": "größe 日本",
    "EQUALS": "a=b=c",
    "JSON": '{"a": "b\\"c"}',
    "NUMBER": 8000,
}


def read_environment_file(text: str) -> dict[str, str]:
    """Reads double-quoted values as env-file.c does: a backslash escapes `"`, `\\`, `$`, "`"."""
    found, position = {}, 0
    while position < len(text):
        equals = text.index("=", position)
        key, position = text[position:equals], equals + 1
        assert text[position] == '"'
        position += 1
        value = ""
        while text[position] != '"':
            if text[position] == "\\":
                if text[position + 1] in '"\\$`':
                    value += text[position + 1]
                elif text[position + 1] != "\n":
                    value += text[position : position + 2]
                position += 2
            else:
                value += text[position]
                position += 1
        assert text[position + 1] == "\n"
        found[key] = value
        position += 2
    return found


def test_every_value_arrives_as_it_is() -> None:
    text = units.environment_file(VALUES)
    assert read_environment_file(text) == {key: str(value) for key, value in VALUES.items()}


def test_a_posix_shell_reads_the_same_values(tmp_path: Path) -> None:
    """The syntax is that of the shell too, so a second reader agrees on all of it."""
    path = tmp_path / "environment"
    path.write_text(units.environment_file(VALUES), encoding="utf-8", newline="")
    script = ". $0; " + " ".join(f"printf '%s\\0' \"${key}\";" for key in VALUES)
    shell = shutil.which("sh")
    assert shell is not None
    done = subprocess.run([shell, "-c", script, path], capture_output=True, check=True, env={})
    assert done.stdout.decode().split("\0")[:-1] == [str(value) for value in VALUES.values()]


def test_the_same_variables_give_the_same_file() -> None:
    reversed_values = dict(reversed(VALUES.items()))
    assert units.environment_file(reversed_values) == units.environment_file(VALUES)
    assert units.environment_file({}) == ""


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "mebibytes"),
    [("512M", 512), ("2G", 2048), ("1T", 2**20), ("2048K", 2), ("1048576", 1), (1048576, 1)],
)
def test_mebibytes(size: str | int, mebibytes: int) -> None:
    assert units.mebibytes(size) == mebibytes  # type: ignore[arg-type]


@pytest.mark.parametrize("size", ["512MB", "half", "", "-1M", "1.5G", "infinity", "50%", "512 M"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        units.mebibytes(size)


# --- which variables change -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["plain", "", 'a "quoted" one', "two\nlines", '\nB="2"\n', "\\", "$HOME `x`", "größe"]
)
def test_a_variable_is_found_by_its_name_whatever_its_value_is(value: str) -> None:
    text = units.environment_file({"A": value, "Z_9": "last"})
    assert list(units.environment_values(text)) == ["A", "Z_9"]
    other = units.environment_file({"A": f"{value}!", "Z_9": "last"})
    assert units.changed_keys(text, text) == {"added": [], "changed": [], "removed": []}
    assert units.changed_keys(text, other) == {"added": [], "changed": ["A"], "removed": []}


def test_names_that_come_and_go() -> None:
    before = units.environment_file({"KEPT": 1, "B_GONE": 2, "A_GONE": 3})
    after = units.environment_file({"KEPT": 1, "NEW": "s3cret"})
    told = units.changed_keys(before, after)
    assert told == {"added": ["NEW"], "changed": [], "removed": ["A_GONE", "B_GONE"]}
    assert units.changed_keys("", before)["added"] == ["A_GONE", "B_GONE", "KEPT"]
