# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Masks secrets in texts, in whichever way a program has quoted, escaped, encoded or cut them.

Text and secrets are both reduced to what all ways of writing a text have in common, and compared as
that. So there is no list of quoted forms that has to be complete.
"""

from __future__ import annotations

import base64
import html
import json
import re
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .layout import SLOTS, Layout
from .units import environment_file_values

MASK = "********"
#: Shorter secrets would mask parts of words.
SHORTEST = 6
#: A line of a secret that has several.
SHORTEST_LINE = 8
#: What is left of a secret at a place where a text was cut.
SHORTEST_REST = 4
LARGEST_FILE_BYTES = 64 * 2**10

#: What stands for other characters, or for none: escapes of any depth, and what quotes and wraps.
WRITTEN = re.compile(
    r"""(?P<cut>['"]\+(?=[0-9]))
    |\\+u(?P<high>[dD][89abAB]HH)\\+u(?P<low>[dD][c-fC-F]HH)
    |\\+(?:u(?P<short>HHHH)|U(?P<long>HHHHHHHH)|x(?P<byte>HH)|(?P<octal>[0-3][0-7]{2}))
    |(?:%|&\#37;|&\#x25;)\s*(?:25)*(?P<percent>H\s*H)
    |&(?:amp;)*(?P<entity>\#[0-9]{1,7};|\#[xX]H{1,6};|(?:quot|amp|lt|gt|apos);)
    |\\+(?P<control>[nrtbf])?
    |[\s+'"`]+
    |(?P<other>[^\x00-\x7f]+)""".replace("H", "[0-9a-fA-F]"),
    re.VERBOSE,
)
#: They are in no reduced text: quotes and line breaks come and go, `+` may be a space.
WITHOUT = re.compile(r"[\s+'\"`\\]+")
#: Where a program has left out the rest, in a reduced text; an escape may be cut too.
CUT = re.compile(
    r"(?P<escape>(?:[%ux]|&\#?x?)[0-9a-fA-F]{0,4})?(?P<gap>\[?(?:\.{2,}|\xe2\x80\xa6)\]?)"
    r"(?P<rest>[0-9a-fA-F]{0,4};?)"
)

#: What is secret in a text that says more: passwords of URLs, which may hold a `/` by mistake, a
#: user that is a token, and values with a name that says so.
PARTS = (
    re.compile(r"://[^/?#@:\s]*:([^/?#\s]+)@"),
    re.compile(r"://[^/?#@:\s]*:(?![^/?#\s]+@)(\S+)@"),
    re.compile(r"://([^/?#@:\s]{16,})@"),
    re.compile(
        r"""(?:password|passwd|pwd|pass|secret|token|key|signature|sig)["']?\s*[=:]\s*
        (?:"((?:\\.|[^"\\])+)"|'((?:\\.|[^'\\])+)'|([^\s&;,"'{}\[\]]+))""",
        re.VERBOSE | re.IGNORECASE,
    ),
)
ARMOR = "-----"
BASE64 = (base64.b64encode, base64.urlsafe_b64encode)
CREDENTIAL = re.compile(r"^LoadCredential=[^:\n]+:(/.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Reduced:
    """A text as all ways of writing it have it, and where its pieces come from.

    Args:
        text: Its bytes in UTF-8, each as one character.
        pieces: Of each piece the start in `text`, and start and end in what was reduced.
    """

    text: str
    pieces: list[tuple[int, int, int]]

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Returns where a part of the text comes from."""
        return self.place(start)[0], self.place(end - 1)[1]

    def place(self, index: int) -> tuple[int, int]:
        """Returns where a character of the text comes from."""
        number = bisect_right(self.pieces, (index, sys.maxsize, 0)) - 1
        begins, start, end = self.pieces[number]
        following = self.pieces[number + 1][0] if number + 1 < len(self.pieces) else len(self.text)
        if following - begins != end - start:
            return start, end
        return start + index - begins, start + index - begins + 1


def in_bytes(text: str) -> str:
    """Returns a text with one character for each byte that it has in UTF-8."""
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


def meaning(match: re.Match[str]) -> str:
    """Returns what something that is written in another way stands for."""
    kind, text = match.lastgroup, match[match.lastgroup or 0]
    if kind == "cut":
        return "..."
    if kind == "low":
        pair = bytes.fromhex(match["high"] + text)
        return in_bytes(pair.decode("utf-16-be"))
    if kind in ("short", "long"):
        number = int(text, 16)
        found = in_bytes(chr(number)) if number <= 0x10FFFF else ""
    elif kind in ("byte", "percent"):
        found = chr(int("".join(text.split()), 16))
    elif kind == "octal":
        found = chr(int(text, 8))
    elif kind == "entity":
        found = in_bytes(html.unescape(f"&{text}"))
    elif kind == "control":
        found = {"b": "\b", "f": "\f"}.get(text, "")
    else:
        found = in_bytes(text) if kind == "other" else ""
    return WITHOUT.sub("", found)


def reduce(text: str) -> Reduced:
    """Reduces a text to what all ways of writing it have in common."""
    parts: list[str] = []
    pieces: list[tuple[int, int, int]] = []
    length = at = 0
    for match in [*WRITTEN.finditer(text), None]:
        start = match.start() if match else len(text)
        end = match.end() if match else len(text)
        for part, begin, stop in (
            (text[at:start], at, start),
            (meaning(match) if match else "", start, end),
        ):
            if part:
                parts.append(part)
                pieces.append((length, begin, stop))
                length += len(part)
        at = end
    return Reduced("".join(parts), pieces)


def readings(text: str) -> set[str]:
    """Returns the reduced forms of a secret, as some of it can be read in two ways.

    A backslash or an ampersand may begin an escape or be meant as it is, and in an escape a
    character may be a code point or a byte.
    """
    meant = (
        text,
        text.replace("\\", ""),
        text.replace("&", "%26"),
        text.replace("\\", "").replace("&", "%26"),
        re.sub("[\x80-\xff]", lambda match: f"\\x{ord(match[0]):x}", text),
    )
    return {reduce(one).text for one in meant}


@dataclass(frozen=True)
class Secret:
    """A reduced text to mask.

    Args:
        text: The text.
        start: Where what is secret in it begins; a URL may be shown up to its password.
        end: Where it ends.
    """

    text: str
    start: int
    end: int

    def beginning(self, text: str, cut: int) -> int | None:
        """Returns from where on a text has the beginning of the secret, up to a cut."""
        seed = self.text[:SHORTEST_REST]
        at = text.find(seed, max(0, cut - len(self.text)), cut)
        while at >= 0 and cut - at > self.start:
            if self.text.startswith(text[at:cut]):
                return at
            at = text.find(seed, at + 1, cut)
        return None

    def ending(self, text: str, cut: int) -> int | None:
        """Returns up to where a text has the end of the secret, from a cut on."""
        seed, shown = self.text[-SHORTEST_REST:], len(self.text) - self.end
        end = text.rfind(seed, cut, cut + len(self.text)) + len(seed)
        while end - len(seed) >= cut and end - cut > shown:
            if self.text.endswith(text[cut:end]):
                return end
            end = text.rfind(seed, cut, end - 1) + len(seed)
        return None


def parts_of(value: str) -> Iterator[tuple[int, int]]:
    """Yields where the parts of a value are that are secret by themselves."""
    for pattern in PARTS:
        for match in pattern.finditer(value):
            yield match.span(match.lastindex or 0)


def in_base64(content: bytes) -> Iterator[str]:
    """Yields what any base64 of something with the content in it has, wherever it begins there."""
    yield from (encode(content).decode().rstrip("=") for encode in BASE64)
    for before in range(3):
        # without the characters at both ends that depend on other content too
        inner = slice(-(-before * 8 // 6), (before + len(content)) * 8 // 6)
        yield from (encode(b"\0" * before + content).decode()[inner] for encode in BASE64)


def encoded(value: str) -> set[str]:
    """Returns the reduced encodings of a value that do not show its characters."""
    content = value.encode("utf-8", "surrogatepass")
    texts = {*in_base64(content), content.hex(), content.hex().upper()}
    return {reduced for text in texts for reduced in readings(text)}


def secrets_in(value: str) -> Iterator[Secret]:
    """Yields all that is to be masked for one value."""
    parts = [(start, end) for start, end in parts_of(value) if end > start]
    for start, end in parts or [(0, len(value))]:
        for reduced in readings(value):
            shown = len(reduce(value[:start]).text), len(reduce(value[end:]).text)
            yield Secret(reduced, shown[0], len(reduced) - shown[1])
    alone = {value[start:end] for start, end in parts}
    lines = {line.strip() for line in value.splitlines() if not line.startswith(ARMOR)}
    texts = {value.strip(), *alone, *(unquote(text) for text in alone)}
    for text in texts:
        if len(text) >= SHORTEST:
            for reduced in readings(text) - readings(value) | encoded(text):
                yield Secret(reduced, 0, len(reduced))
    for line in lines - texts:
        if len(line) >= SHORTEST_LINE:
            for reduced in readings(line):
                yield Secret(reduced, 0, len(reduced))


class Mask:
    """Masks secrets in texts.

    Args:
        values: The secrets.
        public: Texts that are shown anyhow, such as the name of the app; what is part of one of
            them is no secret, and masking it would hide what is not.
    """

    def __init__(self, values: Iterable[str], public: Iterable[str] = ()) -> None:
        shown = [reduce(text).text for text in public]
        self.secrets = sorted(
            {
                secret
                for value in set(values)
                if len(value) >= SHORTEST
                for secret in secrets_in(value)
                if len(secret.text) >= SHORTEST_REST
                and not any(secret.text in text for text in shown)
            },
            key=lambda secret: (secret.text, secret.start),
        )

    def text(self, text: str) -> str:
        """Returns a text without secrets."""
        if not self.secrets:
            return text
        reduced = reduce(text)
        spans = sorted(reduced.origin(*span) for span in self.spans(reduced.text))
        parts, at = [], 0
        for start, end in spans:
            if start >= at:
                parts += [text[at:start], MASK]
            at = max(at, end)
        return "".join([*parts, text[at:]])

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yields where a reduced text has secrets, or what is left of them at a cut."""
        for found in {secret.text for secret in self.secrets}:
            at = text.find(found)
            while at >= 0:
                yield at, at + len(found)
                at = text.find(found, at + 1)
        for cut in CUT.finditer(text):
            before = {cut.start(), cut.start("gap")}
            after = range(cut.start("rest"), cut.end() + 1)
            for secret in self.secrets:
                for place in before:
                    start = secret.beginning(text, place)
                    if start is not None:
                        yield start, place
                for place in after:
                    end = secret.ending(text, place)
                    if end is not None:
                        yield place, end

    def all(self, value: Any) -> Any:
        """Returns a value with all texts in it masked; keys are names of this collection."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.all(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.all(one) for one in value]
        return value


def public_names(layout: Layout) -> list[str]:
    """Returns the ids of an app: what paths and units are named by, and other tasks go by."""
    paths = [str(layout.root), str(layout.configuration)]
    return [layout.name, *paths, *layout.staged_releases()]


def secret_values(
    layout: Layout, units: Iterable[str] = (), credentials: Iterable[str] = ()
) -> list[str]:
    """Returns the secrets of an app on this host, as far as this process can read them.

    Args:
        layout: The app.
        units: Texts of unit files that may not be on the host yet; they name credentials.
        credentials: Paths of more credentials.
    """
    directories = [layout.configuration, *map(layout.slot_configuration, SLOTS)]
    files = [layout.unit_file(slot, "service") for slot in SLOTS] + [layout.migrate_unit_file]
    texts = [*units, *map(content, files)]
    paths = {*credentials, *(path for text in texts for path in CREDENTIAL.findall(text))}
    sites = [layout.staged_site, *map(layout.slot_site, SLOTS)]
    return [
        *(secret for path in sites for secret in site_secrets(path)),
        *(
            value
            for directory in directories
            for value in environment_file_values(content(directory / "secrets")).values()
        ),
        *(content(Path(path)) for path in sorted(paths)),
    ]


def site_secrets(path: Path) -> list[str]:
    """Returns the secrets of the proxy that a kept site names (`proxies.site.Site`)."""
    try:
        return list(map(str, json.loads(path.read_bytes()).get("secrets", [])))
    except (OSError, ValueError, AttributeError):
        return []


def content(path: Path) -> str:
    """Returns the text of a file of secrets; empty where there is none that can be compared."""
    try:
        with path.open("rb") as file:
            found = file.read(LARGEST_FILE_BYTES + 1)
        return found.decode() if len(found) <= LARGEST_FILE_BYTES else ""
    except (OSError, UnicodeDecodeError):
        return ""


def mask_of(layout: Layout, units: Iterable[str] = (), credentials: Iterable[str] = ()) -> Mask:
    """Returns the mask for the secrets that an app has on this host now (see `secret_values`)."""
    return Mask(secret_values(layout, units, credentials), public_names(layout))
