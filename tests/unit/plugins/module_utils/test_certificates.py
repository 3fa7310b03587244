"""Certificates from OpenSSL itself, right and wrong in every way that is told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils.certificates import file_problems

NAMES = ("blog.test", "www.blog.test")


def openssl(*arguments: str | Path) -> None:
    """Runs OpenSSL."""
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def make(
    directory: Path, names: tuple[str, ...] = NAMES, begin: str = "", end: str = ""
) -> tuple[Path, Path]:
    """Makes a self-signed certificate and its key.

    Args:
        directory: Where.
        names: What it is for.
        begin: When it begins to be good, YYYYMMDDHHMMSSZ.
        end: When it ends to be good.
    """
    certificate, key = directory / "cert.pem", directory / "key.pem"
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
    key.chmod(0o640)
    request = directory / "request.pem"
    openssl("req", "-new", "-key", key, "-subj", "/CN=test", "-out", request)
    extensions = directory / "extensions"
    extensions.write_text(f"subjectAltName={','.join(f'DNS:{name}' for name in names)}\n")
    # x509 has no option for the begin, ca wants a small authority of its own
    (directory / "index").touch()
    configuration = directory / "ca.cnf"
    configuration.write_text(
        "[ca]\ndefault_ca=here\n[here]\n"
        f"database={directory}/index\nnew_certs_dir={directory}\nrand_serial=yes\n"
        "default_md=sha256\npolicy=any\nunique_subject=no\n[any]\ncommonName=supplied\n"
    )
    openssl(
        "ca",
        "-batch",
        "-config",
        configuration,
        "-selfsign",
        "-keyfile",
        key,
        "-in",
        request,
        "-out",
        certificate,
        "-extfile",
        extensions,
        "-startdate",
        begin or "20200101000000Z",
        "-enddate",
        end or "21000101000000Z",
    )
    return certificate, key


def test_a_right_certificate(tmp_path: Path) -> None:
    certificate, key = make(tmp_path)
    assert file_problems(certificate, key, NAMES) == []


def test_a_wildcard_is_for_what_it_stands_for(tmp_path: Path) -> None:
    certificate, key = make(tmp_path, ("*.blog.test",))
    assert file_problems(certificate, key, ["*.blog.test", "a.blog.test"]) == []
    (problem,) = file_problems(certificate, key, ["blog.test"])
    assert "is not for blog.test" in problem
    assert "it is for *.blog.test" in problem


def test_another_name(tmp_path: Path) -> None:
    certificate, key = make(tmp_path)
    (problem,) = file_problems(certificate, key, ["blog.test", "shop.test"])
    assert problem.startswith("asgi_proxy_certificate_file: ")
    assert "is not for shop.test (asgi_proxy_domains)" in problem
    assert "it is for blog.test, www.blog.test" in problem


@pytest.mark.parametrize(
    ("begin", "end", "text"),
    [
        ("20200101000000Z", "20210101000000Z", "has expired on Jan  1 00:00:00 2021 GMT"),
        ("20990101000000Z", "21000101000000Z", "is good from Jan  1 00:00:00 2099 GMT on"),
    ],
)
def test_another_time(tmp_path: Path, begin: str, end: str, text: str) -> None:
    certificate, key = make(tmp_path, begin=begin, end=end)
    (problem,) = file_problems(certificate, key, NAMES)
    assert text in problem


def test_another_key(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    certificate, _key = make(tmp_path / "one")
    _certificate, key = make(tmp_path / "two")
    (problem,) = file_problems(certificate, key, NAMES)
    assert problem.startswith("asgi_proxy_certificate_key_file: ")
    assert "is not the key of the certificate" in problem


def test_a_key_with_a_password(tmp_path: Path) -> None:
    certificate, key = make(tmp_path)
    locked = tmp_path / "locked.pem"
    openssl("pkey", "-in", key, "-aes256", "-passout", "pass:hidden", "-out", locked)
    locked.chmod(0o640)
    (problem,) = file_problems(certificate, locked, NAMES)
    assert "no key that can be read without a password" in problem


def test_a_key_that_everybody_can_read(tmp_path: Path) -> None:
    certificate, key = make(tmp_path)
    key.chmod(0o644)
    (problem,) = file_problems(certificate, key, NAMES)
    assert "every user of this host can read" in problem


def test_no_certificate_and_no_file(tmp_path: Path) -> None:
    certificate, key = make(tmp_path)
    (problem,) = file_problems(key, key, NAMES)
    assert "holds no certificate that can be read" in problem
    problems = file_problems(tmp_path / "no", tmp_path / "none", NAMES)
    assert len(problems) == 2
    assert all("is not a file on this host" in problem for problem in problems)
    certificate.write_text("nothing\n")
    assert len(file_problems(certificate, key, NAMES)) == 1
