"""Certificates on a real host: obtained from a real ACME authority, renewed under load, refused.

The authority is Let's Encrypt's own test server, Pebble, in its strict mode. There are three, each
can ask in one way only, so that a certificate proves by which challenge it was obtained.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import collection
import lab
import programs
import pytest
from sites import ROOT, SECRET, Site, answered, client, collections_config

HELLO = ROOT / "examples" / "hello"
DOMAINS = {"http-01": "http.test", "tls-alpn-01": "tls.test", "dns-01": "wild.test"}
#: Where the authorities are, and the app.
HOST = "certified"
#: A port that nobody has.
CLOSED = 1
AUTHORITIES = {
    "http-01": {"door": 14000, "management": 15000, "httpPort": 80, "tlsPort": CLOSED},
    "tls-alpn-01": {"door": 14001, "management": 15001, "httpPort": CLOSED, "tlsPort": 443},
    "dns-01": {"door": 14002, "management": 15002, "httpPort": CLOSED, "tlsPort": CLOSED},
}
#: The name server of a zone that changes, and who tells it what a provider `httpreq` is asked to:
#: Traefik has one, for Caddy we build one in. The balancers ask them over the network.
NAME_SERVER = "127.0.0.1:53"
NAMED = f"""
options {{
    directory "/var/cache/bind";
    listen-on {{ any; }};
    listen-on-v6 {{ ::1; }};
    recursion no;
}};
zone "{DOMAINS["dns-01"]}" {{ type primary; file "/var/lib/bind/zone"; update-policy local; }};
"""
ZONE = """
$TTL 1
@ SOA ns hostmaster 1 3600 600 86400 1
@ NS ns
ns A 127.0.0.1
"""
RECORDS_PORT = 8056
RECORDS = """
import http.server, json, subprocess
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        # two may prove the same name at once: each has its own value
        verb = {"/present": "add {fqdn} 1 TXT", "/cleanup": "del {fqdn} TXT"}[self.path]
        update = (verb + ' "{value}"\\nsend\\n').format(**asked)
        done = subprocess.run(["nsupdate", "-l"], input=update.encode())
        known = self.headers["Authorization"] and done.returncode == 0
        self.send_response(200 if known else 401)
        self.end_headers()
http.server.ThreadingHTTPServer(("", 8056), Handler).serve_forever()
"""
#: Debian's Caddy once more, with that provider; its own build is without what Debian lacks.
BUILD = """set -e
cd /root/caddy-*
mkdir vendor
cp -r debian/missing-sources/* vendor
cp debian/missing-sources/caddy/fileserver/browse.html modules/caddyhttp/fileserver
cp /root/httpreq.go cmd/caddy
export HOME=/root GO111MODULE=off GOPATH=/root/go:/usr/share/gocode
mkdir -p /root/go/src/github.com/caddyserver/caddy
ln -sfn "$PWD" /root/go/src/github.com/caddyserver/caddy/v2
cd /root/go/src/github.com/caddyserver/caddy/v2/cmd/caddy
go build -o /usr/bin/caddy.custom .
"""
BUILT_CADDY = "/usr/bin/caddy.custom"
BUILD_SECONDS = 1800
#: Caddy begins to renew 40 s before the end, Traefik at its next look, once a minute.
LIFETIME_MINUTES = 2
RENEWAL_SECONDS = 300
FIRST_SECONDS = 180
ROOTS = "/etc/pebble/roots.pem"
UNIT = """
[Service]
# no waiting before a challenge; each certificate is asked for with a challenge of its own
Environment=PEBBLE_VA_NOSLEEP=1 PEBBLE_AUTHZREUSE=0
EnvironmentFile=-/etc/pebble/%i.env
ExecStart=/usr/bin/pebble -strict -config /etc/pebble/%i.json $OPTIONS
"""
CERTIFICATE = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"


@dataclass
class Certified(Site):
    """An app whose certificates Pebble gives out."""

    def ca_file(self) -> Path:
        """The roots of both authorities, copied here."""
        path = self.directory / "roots.pem"
        path.write_text(self.run(f"cat {ROOTS}"))
        return path

    def certificate(self, domain: str, context: ssl.SSLContext | None = None) -> dict[str, Any]:
        """What the proxy shows to a client that verifies it."""
        context = context or ssl.create_default_context(cafile=str(self.ca_file()))
        with (
            socket.create_connection((self.host.address, 443), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname=domain) as wrapped,
        ):
            return dict(wrapped.getpeercert() or {})

    def wait_for_certificate(self, domain: str, limit_seconds: float, former: str = "") -> str:
        """Waits for a good certificate with another serial number; returns that."""
        deadline = time.monotonic() + limit_seconds
        while True:
            try:
                serial = str(self.certificate(domain)["serialNumber"])
                assert serial != former, "still the former certificate"
                return serial
            except (AssertionError, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def wait_until_served(self, domain: str) -> None:
        """Waits until the proxy has somebody to ask."""
        context = ssl.create_default_context(cafile=str(self.ca_file()))
        deadline = time.monotonic() + FIRST_SECONDS
        while True:
            with (
                socket.create_connection((self.host.address, 443), timeout=20) as plain,
                context.wrap_socket(plain, server_hostname=domain) as wrapped,
            ):
                wrapped.sendall(f"GET / HTTP/1.0\r\nHost: {domain}\r\n\r\n".encode())
                answer = wrapped.makefile("rb").readline()
            if b" 200 " in answer:
                return
            assert time.monotonic() < deadline, answer
            time.sleep(0.5)

    def visitors(self, domain: str) -> Any:
        """A load that verifies each certificate; start it with `with`."""
        return client.Load(
            address=self.host.address,
            domain=domain,
            ca_file=self.ca_file(),
            rate_per_second=30,
            keepalive_get=2,
            new_get=2,
        )


def start_authorities(site: Site) -> None:
    """Starts Pebble, for each challenge one, and collects what is to be trusted."""
    site.run(
        "apt-get update -q && apt-get install -q -y --no-install-recommends"
        " pebble openssl bind9 bind9-dnsutils"
        " && mkdir -p /etc/pebble && cd /etc/pebble"
        f" && {CERTIFICATE} -days 2 -subj /CN=localhost"
        f" -addext subjectAltName=DNS:localhost,DNS:{HOST}"
        " -keyout door.key -out door.pem"
    )
    write(site, "/etc/systemd/system/pebble@.service", UNIT)
    write(site, "/etc/pebble/dns-01.env", f"OPTIONS=-dnsserver {NAME_SERVER}\n")
    write(site, "/etc/pebble/records.py", RECORDS)
    write(site, "/etc/bind/named.conf", NAMED)
    write(site, "/var/lib/bind/zone", ZONE)
    site.run(
        f"echo '127.0.0.1 ns.{DOMAINS['dns-01']}' >> /etc/hosts && systemctl restart named"
        " && systemd-run --quiet --unit=records python3 /etc/pebble/records.py"
    )
    for name, ports in AUTHORITIES.items():
        config = {
            "listenAddress": f":{ports['door']}",
            "managementListenAddress": f"127.0.0.1:{ports['management']}",
            "certificate": "/etc/pebble/door.pem",
            "privateKey": "/etc/pebble/door.key",
            "httpPort": ports["httpPort"],
            "tlsPort": ports["tlsPort"],
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
            "certificateValidityPeriod": LIFETIME_MINUTES * 60,
        }
        write(site, f"/etc/pebble/{name}.json", json.dumps({"pebble": config}))
        # it asks a name's own addresses, as a public authority does; the file is a mount in the lab
        site.run(
            f"systemctl daemon-reload && systemctl start pebble@{name}"
            f" && echo '{site.host.address} {DOMAINS[name]}' >> /etc/hosts"
            " && curl --silent --fail --retry 20 --retry-connrefused --retry-delay 1"
            f" --cacert /etc/pebble/door.pem https://localhost:{ports['management']}/roots/0"
            f" >> {ROOTS}"
        )


def build_caddy(site: Site) -> None:
    """Begins to build a Caddy with a DNS provider, at the priority of what can wait."""
    site.run(
        # of the release, not of its updates: a mirror need not have the sources of those
        "sed -En 's/^deb (\\S+ [a-z]+ )/deb-src \\1/p' /etc/apt/sources.list"
        " > /etc/apt/sources.list.d/source.list"
        " && cd /root && apt-get update -q"
        " && apt-get install -q -y --no-install-recommends dpkg-dev && apt-get source -q caddy"
        " && DEBIAN_FRONTEND=noninteractive apt-get build-dep -q -y --no-install-recommends caddy"
    )
    write(site, "/root/httpreq.go", Path(__file__).with_name("httpreq.go").read_text())
    write(site, "/root/build.sh", BUILD)
    site.run("systemd-run --quiet --unit=build-caddy --nice=19 sh /root/build.sh")


def take_built_caddy(site: Site) -> None:
    """Puts it in the place of the package's, as Caddy's documents tell."""
    deadline = time.monotonic() + BUILD_SECONDS
    while site.run("systemctl is-active build-caddy", check=False).strip() == "active":
        assert time.monotonic() < deadline, site.run("systemctl status build-caddy", check=False)
        time.sleep(1)
    site.run(
        "dpkg-divert --quiet --divert /usr/bin/caddy.default --rename /usr/bin/caddy"
        " && ln -s caddy.custom /usr/bin/caddy && caddy list-modules | grep dns.providers.httpreq"
    )


def write(site: Site, path: str, text: str) -> None:
    """Writes a file on the host."""
    site.host.run(["tee", path], stdin=text)


@pytest.fixture(scope="module")
def hello(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Certified]:
    """A host with the authorities; the app comes with the first test."""
    target = ROOT / ".cache" / "tests"
    collection.install(target / "collections", target / "collection.log")
    directory = tmp_path_factory.mktemp("certificates")
    (directory / "ansible.cfg").write_text(collections_config(target / "collections"))
    group = f"{request.config.getoption('--group')}-certificates"
    lab.down(group)
    try:
        inventory = directory / "hosts.yml"
        variables = {
            "asgi_app_name": "hello",
            "asgi_app_entrypoint": "hello:app",
            "asgi_app_ca_file": "/etc/ssl/certs/ca-certificates.crt",
            "asgi_service_health_stable_seconds": 1,
            "asgi_proxy_certificate": "acme",
            "asgi_proxy_acme_ca_file": "/etc/pebble/door.pem",
            "asgi_proxy_acme_lifetime_minutes": LIFETIME_MINUTES,
            "asgi_proxy_trusted_ca_file": ROOTS,
        }
        site = Certified(None, directory, [inventory], source=HELLO, variables=variables)
        (site.host,) = lab.up(group, {HOST: "debian12"}, inventory)
        start_authorities(site)
        build_caddy(site)
        yield site
    finally:
        lab.down(group)


@pytest.fixture(scope="module", params=["caddy", "traefik"])
def provider(request: pytest.FixtureRequest, hello: Certified) -> str:
    """The proxy; all tests of one come before those of the next."""
    name = str(request.param)
    hello.variables["asgi_proxy_provider"] = name
    if name == "traefik":
        hello.variables.update(programs.variables("traefik"))
    return name


#: What is alike with both.
CADDY_FIRST = pytest.mark.parametrize("provider", ["caddy", "traefik"], indirect=True)


def ask_by(hello: Certified, challenge: str, deploy: Callable[[], Any]) -> str:
    """Deploys for the name and the authority of a challenge; returns the serial number."""
    hello.variables.update(
        asgi_proxy_domains=[DOMAINS[challenge]],
        asgi_proxy_acme_challenge=challenge,
        asgi_proxy_acme_directory_url=f"https://localhost:{AUTHORITIES[challenge]['door']}/dir",
    )
    deploy()
    return hello.wait_for_certificate(DOMAINS[challenge], FIRST_SECONDS)


def assert_nothing_failed(result: Any, name: str) -> None:
    """No request failed, none with a certificate that the client does not trust."""
    print(f"measured: {name}: {result.report().splitlines()[0]}")
    assert result.failed == 0, result.report()
    assert result.ok, result.report()


def test_a_certificate_by_http_01(hello: Certified, provider: str) -> None:
    """Its authority can ask on port 80 only; the client trusts nobody but that."""
    # the other proxy gets the ports in a rollout
    ask_by(hello, "http-01", hello.deploy)
    assert hello.deploy().changed == 0, provider


def other_program(provider: str, directory: Path) -> dict[str, str]:
    """The variables of another program of the proxy than the one that runs."""
    if provider == "caddy":
        return programs.variables("caddy")
    found = programs.variables("traefik")
    # the same one with another checksum: what stands behind the program it does not read
    copy = directory / "traefik"
    copy.write_bytes(Path(found["asgi_proxy_traefik_source"]).read_bytes() + b"another one")
    checksum = hashlib.sha256(copy.read_bytes()).hexdigest()
    return {
        "asgi_proxy_traefik_source": str(copy),
        "asgi_proxy_traefik_checksum": f"sha256:{checksum}",
    }


def test_another_program_and_back_cost_a_restart(
    hello: Certified, provider: str, tmp_path: Path
) -> None:
    """What that costs is counted; then the site is up, with the certificate that it had."""
    (domain,) = hello.variables["asgi_proxy_domains"]
    pid = f"systemctl show --value --property=MainPID {provider}"
    first = hello.run(f"readlink /proc/$({pid})/exe")
    for name, variables in (("another", other_program(provider, tmp_path)), ("back", {})):
        with hello.visitors(domain) as load:
            hello.role("proxy", **variables)
            # the program that came serves for a while too
            assert answered(load)
            result = load.stop()
        print(f"measured: {provider}, {name}: {result.report().splitlines()[0]} {result.causes}")
        assert result.failed < result.ok, result.report()
        serving = hello.run(f"readlink /proc/$({pid})/exe")
        assert (serving == first) is (name == "back")


def test_a_certificate_by_tls_alpn_01_is_renewed_under_load(
    hello: Certified, provider: str
) -> None:
    """Its authority can ask on port 443 only, also for the renewal."""
    domain = DOMAINS["tls-alpn-01"]
    first = ask_by(hello, "tls-alpn-01", lambda: hello.role("proxy"))
    with hello.visitors(domain) as load:
        hello.wait_for_certificate(domain, RENEWAL_SECONDS, former=first)
        # the new one serves for a while too
        assert answered(load)
        result = load.stop()
    assert_nothing_failed(result, f"renewal with {provider}")


def test_tls_1_2_and_1_3_and_nothing_older(hello: Certified, provider: str) -> None:
    """A client that speaks one version only is served, or told that it is too old."""
    domain = DOMAINS["tls-alpn-01"]

    def only(version: ssl.TLSVersion) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(hello.ca_file()))
        # OpenSSL itself would not even offer the old ones
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.minimum_version = context.maximum_version = version
        return context

    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        assert hello.certificate(domain, only(version)), provider
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        with pytest.raises(ssl.SSLError, match="protocol version"):
            hello.certificate(domain, only(version))


def broken_file(hello: Certified, provider: str) -> tuple[dict[str, Any], list[str]]:
    """Somebody's own site file beside ours, which the proxy cannot read."""
    path = {"caddy": "/etc/caddy/sites/theirs.caddy", "traefik": "/etc/traefik/dynamic/theirs.yml"}
    write(hello, path[provider], "shop.test {\n\tno_such_directive\n")
    # what the refusal would have changed
    return {"asgi_proxy_hsts_max_age_seconds": 5}, [Path(path[provider]).name]


def bad_domain(_hello: Certified, _provider: str) -> tuple[dict[str, Any], list[str]]:
    """Names that no host can have, or that no authority can ask."""
    domains = ["no_host_name.test", "*.tls.test"]
    return {"asgi_proxy_domains": domains}, [
        "'no_host_name.test' is not a host name",
        "a wildcard needs a DNS challenge",
    ]


def unfit_certificate(hello: Certified, _provider: str) -> tuple[dict[str, Any], list[str]]:
    """Another's key, for another name, over since yesterday, and all may read the key."""
    hello.run(
        "mkdir -p /etc/hello && cd /etc/hello"
        f" && {CERTIFICATE} -subj /CN=shop.test -addext subjectAltName=DNS:shop.test"
        " -days 1 -keyout own.key -out chain.pem"
        " && openssl x509 -in chain.pem -signkey own.key -days -1 -copy_extensions copyall"
        " -out expired.pem"
        " && openssl ecparam -name prime256v1 -genkey -noout -out other.key && chmod 644 other.key"
    )
    return given("/etc/hello/expired.pem", "/etc/hello/other.key"), [
        "other.key is not the key of the certificate",
        "expired.pem is not for tls.test",
        "has expired on",
        "every user of this host can read",
    ]


def unreadable_key(hello: Certified, provider: str) -> tuple[dict[str, Any], list[str]]:
    """It fits, but only root can read the key."""
    hello.run(
        f"mkdir -p /etc/hello && cd /etc/hello && {CERTIFICATE} -days 2 -subj /CN=tls.test"
        " -addext subjectAltName=DNS:tls.test -keyout hidden.key -out good.pem"
        " && chmod 600 hidden.key"
    )
    name = provider.capitalize()
    return given("/etc/hello/good.pem", "/etc/hello/hidden.key"), [
        f"{name} refuses the new configuration; nothing was changed",
        "/etc/hello/hidden.key: permission denied",
    ]


def occupied_port(hello: Certified, _provider: str) -> tuple[dict[str, Any], list[str]]:
    """Another program listens there."""
    hello.run(
        "systemctl start occupier 2>/dev/null || systemd-run --quiet --unit=occupier"
        " --property=Type=exec python3 -m http.server 8444"
        " && until curl --silent --output /dev/null http://127.0.0.1:8444/; do sleep 0.1; done"
    )
    return {"asgi_proxy_https_port": 8444}, ["8444", "address already in use"]


def given(certificate: str, key: str) -> dict[str, Any]:
    """The variables of a certificate that is given as files."""
    return {
        "asgi_proxy_certificate": "files",
        "asgi_proxy_certificate_file": certificate,
        "asgi_proxy_certificate_key_file": key,
    }


@CADDY_FIRST
@pytest.mark.parametrize(
    "mistake", [broken_file, bad_domain, unfit_certificate, unreadable_key, occupied_port]
)
def test_a_mistake_is_refused_and_the_site_not_touched(
    hello: Certified, provider: str, mistake: Any
) -> None:
    """With its cause; asked all the while, the site goes on as it was."""
    variables, causes = mistake(hello, provider)
    before = installed(hello, provider)
    try:
        with hello.visitors(DOMAINS["tls-alpn-01"]) as load:
            played = hello.role("proxy", expect=2, **variables)
            result = load.stop()
    finally:
        hello.run(
            "rm -f /etc/caddy/sites/theirs.caddy /etc/traefik/dynamic/theirs.yml;"
            " systemctl stop occupier 2>/dev/null || true"
        )
    told = re.sub(r"\s+", " ", played.output.replace("\\n", " "))
    for cause in causes:
        assert cause in told, played.output
    assert_nothing_failed(result, f"{mistake.__name__} with {provider}")
    assert installed(hello, provider) == before


@CADDY_FIRST
def test_after_all_mistakes_nothing_is_to_be_mended(hello: Certified, provider: str) -> None:
    """The deploy that was good before finds everything as it left it."""
    assert hello.role("proxy").changed == 0, provider


def installed(site: Site, provider: str) -> str:
    """What the proxy reads at its start, but for what others have put there."""
    return site.run(
        f"cd /etc/{provider} && find . -type f ! -name 'theirs.*' -exec sha256sum {{}} + | sort"
        f" && cat /etc/systemd/system/{provider}*"
    )


def by_dns(provider: str, host: str, name_server: str) -> dict[str, Any]:
    """The variables for a proof by DNS, with the authority and the name server of a host."""
    endpoint = f"http://{host}:{RECORDS_PORT}"
    told: dict[str, dict[str, Any]] = {
        "caddy": {
            "asgi_proxy_acme_dns_options": {
                "endpoint": endpoint,
                "username": "caddy",
                "password": SECRET,
            }
        },
        "traefik": {
            "asgi_proxy_acme_dns_environment": {
                "HTTPREQ_ENDPOINT": endpoint,
                "HTTPREQ_USERNAME": "traefik",
                "HTTPREQ_PASSWORD": SECRET,
            }
        },
    }
    return {
        "asgi_proxy_acme_challenge": "dns-01",
        "asgi_proxy_acme_directory_url": f"https://{host}:{AUTHORITIES['dns-01']['door']}/dir",
        "asgi_proxy_acme_dns_provider": "httpreq",
        "asgi_proxy_acme_dns_resolvers": [name_server],
        **told[provider],
    }


@CADDY_FIRST
def test_a_wildcard_by_dns_01(hello: Certified, provider: str) -> None:
    """A record is written in the DNS; a Caddy that has nobody who could is refused."""
    domain = DOMAINS["dns-01"]
    variables = {
        "asgi_proxy_domains": [domain, f"*.{domain}"],
        **by_dns(provider, "localhost", NAME_SERVER),
    }
    if provider == "caddy":
        before = installed(hello, provider)
        refused = hello.role("proxy", expect=2, **variables)
        assert "/usr/bin/caddy list-modules tells which providers" in refused.output
        assert installed(hello, provider) == before
        take_built_caddy(hello)
    hello.role("proxy", **variables)
    assert hello.wait_for_certificate(f"any.{domain}", FIRST_SECONDS)
    assert hello.role("proxy", **variables).changed == 0
    keeps = {"caddy": "sites/hello.caddy", "traefik": "environment"}[provider]
    mode = hello.run(f"stat --format '%a %U %G' /etc/{provider}/{keeps}").strip()
    assert mode == f"640 root {provider}"


#: The variables of two balancers, beside those by which each proves the name.
BALANCER = {
    "asgi_app_name": "hello",
    "asgi_proxy_certificate": "acme",
    "asgi_proxy_acme_ca_file": "/etc/pebble/door.pem",
    "asgi_proxy_trusted_ca_file": ROOTS,
    "asgi_proxy_upstreams": [HOST],
    "asgi_proxy_upstream_ca_file": ROOTS,
}
PLAYBOOK = """
- hosts: balancers
  gather_facts: false
  roles: [asgi.deploy.proxy]
"""


@pytest.fixture
def balancers(hello: Certified, tmp_path: Path) -> dict[str, Certified]:
    """Two more hosts, with a Caddy that has the DNS provider and with Traefik."""
    (lab_inventory, ours) = inventories = [tmp_path / "lab.yml", tmp_path / "hosts.yml"]
    images = dict.fromkeys(("caddy", "traefik"), hello.host.image)
    hosts = {host.name: host for host in lab.up(hello.host.group, images, lab_inventory)}
    checksum = hello.run(f"sha256sum {BUILT_CADDY}").split()[0]
    built = tmp_path / "caddy"
    lab.podman("cp", f"{hello.host.container}:{BUILT_CADDY}", str(built))
    program = {
        "caddy": {
            "asgi_proxy_caddy_install": "binary",
            "asgi_proxy_caddy_source": str(built),
            "asgi_proxy_caddy_checksum": f"sha256:{checksum}",
        },
        "traefik": {"asgi_proxy_provider": "traefik", **programs.variables("traefik")},
    }
    name_server = f"{hello.host.address}:53"
    variables = {name: {**program[name], **by_dns(name, HOST, name_server)} for name in images}
    ours.write_text(json.dumps({"balancers": {"hosts": variables, "vars": BALANCER}}))
    (tmp_path / "ansible.cfg").write_text((hello.directory / "ansible.cfg").read_text())
    (tmp_path / "balancers.yml").write_text(PLAYBOOK)
    trusted = {path: hello.run(f"cat {path}") for path in ("/etc/pebble/door.pem", ROOTS)}
    found = {}
    for name in images:
        site = Certified(hosts[name], tmp_path, inventories)
        site.run(
            f"mkdir -p /etc/pebble && echo '{hello.host.address} ns.{DOMAINS['dns-01']}'"
            " >> /etc/hosts"
        )
        for path, text in trusted.items():
            write(site, path, text)
        found[name] = site
    return found


@pytest.mark.parametrize("provider", ["traefik"], indirect=True)
def test_two_balancers_have_a_certificate_each_of_one_name_by_dns(
    hello: Certified, balancers: dict[str, Certified], provider: str
) -> None:
    """They prove it at the same time, wherever the name leads; clients trust both."""
    domain = f"both.{DOMAINS['dns-01']}"
    first = next(iter(balancers.values()))
    everywhere = Certified(None, first.directory, first.inventories)
    playbook = str(first.directory / "balancers.yml")
    everywhere.play(playbook, asgi_proxy_domains=[domain])
    serials = {
        name: site.wait_for_certificate(domain, FIRST_SECONDS) for name, site in balancers.items()
    }
    assert len(set(serials.values())) == len(balancers), serials
    for name, site in balancers.items():
        site.wait_until_served(domain)
        with site.visitors(domain) as load:
            assert all(answered(load) for _number in range(10))
            result = load.stop()
        assert_nothing_failed(result, f"balancer {name} with a certificate by DNS")
    assert everywhere.play(playbook, asgi_proxy_domains=[domain]).changed == 0
