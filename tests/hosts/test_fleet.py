"""A small app on two real hosts: hooks that fail or reach no host, and hosts that are lost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lab
import pytest
from sites import (
    FIRST,
    IMAGES,
    ROOT,
    Played,
    Site,
    behind_traefik,
    client,
    collections_config,
)

HELLO = ROOT / "examples" / "hello"
NAMES = ("one", "two")
#: A load balancer that cannot be reached: nothing listens there. Its name comes after those of the
#: hosts, of which the first is locked first.
INVENTORY = {
    "lb": {"hosts": {"virtual": {"ansible_host": "127.0.0.1", "ansible_port": 1}}},
    "empty": {},
}
VARIABLES: dict[str, Any] = {
    "asgi_app_name": "hello",
    "asgi_app_entrypoint": "hello:app",
    "asgi_app_ca_file": "/etc/ssl/certs/ca-certificates.crt",
    "asgi_proxy_domains": ["hello.test"],
    "asgi_proxy_certificate": "internal",
    "asgi_service_health_stable_seconds": 1,
    "asgi_serial": 1,
}
#: Of the second host only.
ASK_THE_BALANCER = """
- name: Ask the load balancer
  ansible.builtin.command: "true"
  changed_when: true
  delegate_to: virtual
  when: inventory_hostname == 'two'
"""
UNREACHED = "a task could not reach its host"


@dataclass
class Pair:
    """The app on two hosts.

    Args:
        all: Both; a playbook runs on them.
        hosts: Each by its name.
        directory: For hooks and sources.
    """

    all: Site
    hosts: dict[str, Site]
    directory: Path

    def source(self, text: str) -> Path:
        """Makes a version of the app that answers with a text."""
        directory = self.directory / f"app-{text}"
        directory.mkdir()
        for path in HELLO.iterdir():
            (directory / path.name).write_text(path.read_text().replace("Hello", text))
        return directory

    def hook(self, tasks: str) -> list[str]:
        """Writes a hook; returns the value for its variable."""
        path = self.directory / "hook.yml"
        path.write_text(tasks)
        return [str(path)]

    def live(self) -> list[str]:
        """The release that each host remembers as live."""
        slots = "test -e /srv/hello/serving/green && echo green || echo blue"
        return [
            site.run(f"basename $(readlink /srv/hello/slots/$({slots}))").strip()
            for site in self.hosts.values()
        ]

    def events(self) -> list[list[str]]:
        """How each rollout of each host has ended, the oldest first."""
        states = [json.loads(site.run("cat /srv/hello/state.json")) for site in self.hosts.values()]
        return [[event["status"] for event in state["history"]] for state in states]

    def locked(self) -> list[str]:
        """The hosts on which the app is locked."""
        locks = {
            name: site.run("ls /srv/hello/lock.json", False) for name, site in self.hosts.items()
        }
        return [name for name, lock in locks.items() if lock]


@pytest.fixture(scope="module")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, collections: Path
) -> Iterator[Pair]:
    """Two hosts with the app."""
    group = f"{request.config.getoption('--group')}-fleet"
    lab.down(group)
    try:
        made = tmp_path_factory.mktemp("fleet")
        inventories = [made / "lab.yml", made / "hosts.yml"]
        inventories[1].write_text(json.dumps(INVENTORY))
        (made / "ansible.cfg").write_text(collections_config(collections))
        found = lab.up(group, dict.fromkeys(NAMES, IMAGES[FIRST]), inventories[0])
        hosts = {host.name: Site(host, made, inventories) for host in found}
        pair = Pair(Site(None, made, inventories, HELLO, VARIABLES), hosts, made)
        pair.all.deploy(HELLO)
        yield pair
    finally:
        lab.down(group)


def assert_reverted(pair: Pair, before: list[str], played: Played) -> None:
    """Both hosts are as they were, nothing is locked, and the report says so."""
    assert pair.live() == before, played.output
    assert pair.locked() == [], played.output
    assert "does not serve; it failed on" in played.unwrapped


@pytest.mark.parametrize("serial", [1, "100%"])
def test_a_host_is_not_rolled_out_when_its_hook_reaches_no_host(
    pair: Pair, serial: int | str
) -> None:
    """The host before it goes back to its previous release."""
    before, events = pair.live(), pair.events()
    played = pair.all.deploy(
        pair.source(f"before-{serial}"),
        expect=2,
        asgi_serial=serial,
        asgi_service_before_rollout=pair.hook(ASK_THE_BALANCER),
    )
    assert_reverted(pair, before, played)
    assert (
        f"asgi_service_before_rollout: {pair.directory}/hook.yml: {UNREACHED}" in played.unwrapped
    )
    one, two = pair.events()
    if serial == 1:
        assert one[len(events[0]) :][:2] == ["good", "failed"]
        assert "it failed on two." in played.unwrapped
    assert "(not moved)" in played.unwrapped.split(" two: ")[1]
    assert "good" not in two[len(events[1]) :]


def test_the_fleet_goes_back_when_a_hook_after_the_rollout_reaches_no_host(pair: Pair) -> None:
    """The host itself, too: its new release is live by then."""
    before = pair.live()
    played = pair.all.deploy(
        pair.source("after"),
        expect=2,
        asgi_service_after_rollout=pair.hook(ASK_THE_BALANCER),
    )
    assert_reverted(pair, before, played)
    assert f"asgi_service_after_rollout: {pair.directory}/hook.yml: {UNREACHED}" in played.unwrapped
    assert "it failed on two." in played.unwrapped
    for name in NAMES:
        line = rf"{name}: \S+ serves in slot \w+ \(after it had moved, taken back\)"
        assert re.search(line, played.unwrapped), played.output


@pytest.mark.parametrize("serial", [1, "100%"])
def test_a_hook_that_fails_is_the_cause(pair: Pair, serial: int | str) -> None:
    """Only on the host on which it failed; a hook on failure that reaches no host is reported."""
    before = pair.live()
    refuse = pair.directory / "refuse.yml"
    refuse.write_text(
        "- ansible.builtin.fail:\n    msg: not at this hour\n  when: inventory_hostname == 'two'\n"
    )
    played = pair.all.deploy(
        pair.source(f"refused-{serial}"),
        expect=2,
        asgi_serial=serial,
        asgi_service_before_rollout=[str(refuse)],
        asgi_service_on_failure=pair.hook(ASK_THE_BALANCER),
    )
    assert_reverted(pair, before, played)
    assert "it failed on two." in played.unwrapped
    assert "refuse.yml: not at this hour" in played.unwrapped
    assert f"asgi_service_on_failure: {pair.directory}/hook.yml: failed" in played.unwrapped


def test_a_batch_stops_together(pair: Pair) -> None:
    """The release fails on one host; the other one of its batch is reverted, and is no cause."""
    before = pair.live()
    version = pair.source("fails-on-two")
    main = version / "hello.py"
    text, start = main.read_text(), '    """Nothing is to be opened'
    assert start in text
    fails = "    if os.uname().nodename == 'two':\n        os._exit(3)\n"
    main.write_text(text.replace(start, fails + start))
    played = pair.all.deploy(
        version,
        expect=2,
        asgi_serial="100%",
        asgi_service_after_rollout=pair.hook("- ansible.builtin.debug: {msg: after it}\n"),
    )
    assert_reverted(pair, before, played)
    assert "it failed on two." in played.unwrapped
    assert "did not stay up" in played.output
    assert "cause on one:" not in played.output
    assert 'after it"' not in played.output


def test_a_hook_that_is_not_there_fails_its_step(pair: Pair) -> None:
    """One file is missing after the rollout of the first host; the run goes on to its end."""
    before = pair.live()
    missing = str(pair.directory / "missing.yml")
    played = pair.all.deploy(pair.source("missing"), expect=2, asgi_service_after_rollout=[missing])
    assert_reverted(pair, before, played)
    assert "it failed on one." in played.unwrapped
    assert f"asgi_service_after_rollout: {missing}" in played.unwrapped


def test_a_host_that_is_lost_early_ends_the_run(pair: Pair) -> None:
    """Of every playbook, before anything is changed; the table of status has the other hosts."""
    before = pair.live()
    for playbook in ("site", "rollback", "restart", "maintenance", "remove", "status"):
        played = pair.all.play(
            f"asgi.deploy.{playbook}",
            expect=2,
            asgi_hosts="asgi,virtual",
            asgi_app_source={"path": str(HELLO)},
            asgi_proxy_maintenance=False,
        )
        assert pair.live() == before, played.output
        assert pair.locked() == [], played.output
    for line in (r'"one +0-', r'"two +0-', r'"virtual +not reached"'):
        assert re.search(line, played.output), played.output


def test_a_hook_may_rescue_its_own_failure(pair: Pair) -> None:
    """Also that it reaches no host; all hosts are rolled out, and the plays after it are played."""
    before = pair.live()
    rescued = (
        "- block:\n"
        f"    {ASK_THE_BALANCER.strip().replace(chr(10), chr(10) + '    ')}\n"
        "  rescue:\n"
        "    - ansible.builtin.debug:\n        msg: the balancer was left alone\n"
    )
    played = pair.all.play(
        two_plays(pair),
        asgi_app_source={"path": str(pair.source("rescued"))},
        asgi_serial="100%",
        asgi_service_before_rollout=pair.hook(rescued),
    )
    assert "the next play" in played.output
    assert not set(before) & set(pair.live())
    assert pair.locked() == []


def two_plays(pair: Pair) -> str:
    """A playbook that goes on after the deploy, as that with balancers does."""
    path = pair.directory / "two.yml"
    path.write_text(
        "- import_playbook: asgi.deploy.site\n"
        "- hosts: asgi\n  gather_facts: false\n"
        "  tasks: [{ansible.builtin.debug: {msg: the next play}}]\n"
    )
    return str(path)


def test_a_host_that_is_lost_at_the_end_keeps_its_lock_only(pair: Pair) -> None:
    """All hosts have the release by then, and the plays after it are played."""
    two = pair.hosts["two"].host
    cut = (
        "- ansible.builtin.command: podman network disconnect"
        f" {lab.network_name(two.group)} {two.container}\n"
        "  delegate_to: localhost\n  become: false\n  changed_when: true\n"
        "  when: inventory_hostname == 'two'\n"
    )
    try:
        played = pair.all.play(
            two_plays(pair),
            asgi_app_source={"path": str(pair.source("lost"))},
            asgi_service_after_rollout=pair.hook(cut),
        )
    finally:
        two.connect()
    assert "the lock could not be given back on every host" in played.unwrapped
    assert "the next play" in played.output
    assert len(set(pair.live())) == 1
    # the next run takes it over
    pair.all.deploy(pair.directory / "app-lost")
    assert pair.locked() == []


# --- what the proxy is configured with ------------------------------------------------------------

DIRECTORY = "/etc/ssl/hello"
#: Of a host, for a name: each has an authority of its own, which is itself.
CERTIFY = """
mkdir -p {directory} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes
-days 2 -subj /CN={name}.test -addext subjectAltName=DNS:{name}.test
-keyout {directory}/{name}.key -out {directory}/{name}.pem
&& for user in caddy traefik; do id --user $user > /dev/null 2>&1 ||
useradd --system --home-dir /var/lib/$user --shell /usr/sbin/nologin $user &&
install -m 640 -g $user {directory}/{name}.key {directory}/{name}-$user.key || exit 1; done
"""
#: The files of a proxy, but for the number of instances of a slot, which its next rollout sets.
FILES = (
    "for file in $(find /etc/caddy /etc/traefik -type f 2>/dev/null | sort); do echo $file;"
    " grep -v 'reverse_proxy\\|fail_duration\\|another one is asked' $file; done"
)


def at(name: str, provider: str) -> dict[str, Any]:
    """The variables of the app at a domain."""
    return {
        **(behind_traefik() if provider == "traefik" else {}),
        "asgi_proxy_domains": [f"{name}.test"],
        "asgi_proxy_certificate": "files",
        "asgi_proxy_certificate_file": f"{DIRECTORY}/{name}.pem",
        "asgi_proxy_certificate_key_file": f"{DIRECTORY}/{name}-{provider}.key",
        "asgi_proxy_trusted_ca_file": f"{DIRECTORY}/{name}.pem",
    }


def moved(provider: str) -> dict[str, Any]:
    """Another domain and certificate of another authority, and one instance more."""
    return {**at("moved", provider), "asgi_service_instances": 2}


def answer(site: Site, name: str, port: int = 443) -> str:
    """The release that answers at a domain; empty where nothing does."""
    domain = f"{name}.test"
    body = site.run(
        f"curl -s --max-time 10 --cacert {DIRECTORY}/{name}.pem"
        f" --resolve {domain}:{port}:127.0.0.1 https://{domain}:{port}/",
        check=False,
    )
    found = re.search(r"from (\S+), instance", body)
    return found[1] if found else ""


def answers(pair: Pair, name: str) -> list[str]:
    """The release that each host answers with at a domain."""
    return [answer(site, name) for site in pair.hosts.values()]


def files_of(pair: Pair) -> list[str]:
    """The files of the proxy of each host."""
    return [site.run(FILES) for site in pair.hosts.values()]


def load_on(pair: Pair, site: Site, name: str) -> Any:
    """A load on a domain of a host, by a client that never retries."""
    ca_file = pair.directory / f"{name}.pem"
    ca_file.write_text(site.run(f"cat {DIRECTORY}/{name}.pem"))
    return client.Load(
        address=site.host.address,
        domain=f"{name}.test",
        ca_file=ca_file,
        rate_per_second=20,
        keepalive_get=2,
        new_get=1,
        get_path="/",
    )


@pytest.fixture(scope="module", params=["caddy", "traefik"])
def provider(request: pytest.FixtureRequest, pair: Pair) -> str:
    """The app is at hello.test behind this proxy on both hosts."""
    name = str(request.param)
    for site in pair.hosts.values():
        for domain in ("hello", "moved"):
            lines = CERTIFY.format(directory=DIRECTORY, name=domain).strip().splitlines()
            if not site.run(f"ls {DIRECTORY}/{domain}.pem", check=False):
                site.run(" ".join(lines))
    pair.all.deploy(pair.source(f"behind-{name}"), **at("hello", name), asgi_serial="100%")
    return name


def test_a_failed_deploy_restores_the_proxy_of_every_host(pair: Pair, provider: str) -> None:
    """The first host was good with another domain, authority and number of instances."""
    before, files = pair.live(), files_of(pair)
    assert answers(pair, "hello") == before
    one = pair.hosts["one"]
    seen = pair.directory / f"seen-{provider}"
    look = (
        f"- ansible.builtin.shell: curl -s --cacert {DIRECTORY}/{{{{ item }}}}.pem --resolve"
        " {{ item }}.test:443:127.0.0.1 https://{{ item }}.test/ | head -1\n"
        "  become: true\n  changed_when: false\n  loop: [hello, moved]\n  register: seen\n"
        f"- ansible.builtin.copy:\n    content: \"{{{{ seen.results | map(attribute='stdout')"
        f' | join(\' \') }}}}"\n    dest: {seen}\n    mode: "0644"\n'
        "  delegate_to: localhost\n  become: false\n  when: inventory_hostname == 'one'\n"
        "- ansible.builtin.fail:\n    msg: not at this hour\n  when: inventory_hostname == 'two'\n"
    )
    with load_on(pair, one, "hello") as load:
        played = pair.all.deploy(
            pair.source(f"moves-{provider}"),
            expect=2,
            **moved(provider),
            asgi_service_after_rollout=pair.hook(look),
        )
        result = load.stop()
    assert "not at this hour" in played.unwrapped
    assert_reverted(pair, before, played)
    # after its rollout the host had both domains, and it is the old one that nobody lost
    assert seen.read_text().count("instance") == 2, seen.read_text()
    assert result.failed == 0, result.report()
    assert answers(pair, "hello") == before
    assert answers(pair, "moved") == ["", ""]
    assert files_of(pair) == files


def test_the_former_domain_goes_with_a_good_run_and_comes_back_with_a_rollback(
    pair: Pair, provider: str
) -> None:
    """A rollback brings the domain, the authority and the number of instances of its release."""
    before, files = pair.live(), files_of(pair)
    pair.all.deploy(pair.source(f"moved-{provider}"), **moved(provider), asgi_serial="100%")
    after = pair.live()
    assert not set(before) & set(after)
    assert answers(pair, "moved") == after
    assert answers(pair, "hello") == ["", ""]
    pair.all.play("asgi.deploy.rollback")
    assert pair.live() == before
    assert answers(pair, "hello") == before
    assert answers(pair, "moved") == ["", ""]
    assert files_of(pair) == files


def test_a_site_alone_is_rolled_out_and_a_failure_leaves_it(pair: Pair, provider: str) -> None:
    """On one host: an authority that did not sign the certificate, and another port."""
    only = {"asgi_hosts": "one", **at("hello", provider)}
    source = {"path": str(pair.all.source)}
    one = pair.hosts["one"]
    pair.all.play("asgi.deploy.site", asgi_app_source=source, **only)
    before, files = answer(one, "hello"), one.run(FILES)
    wrong = {
        "asgi_proxy_https_port": 8443,
        "asgi_proxy_trusted_ca_file": f"{DIRECTORY}/moved.pem",
        "asgi_proxy_timeout_seconds": 4,
    }
    played = pair.all.play(
        "asgi.deploy.site", expect=2, asgi_app_source=source, **{**only, **wrong}
    )
    assert "and the proxy is configured as before" in played.unwrapped
    assert answer(one, "hello") == before
    assert answer(one, "hello", 8443) == ""
    assert one.run(FILES) == files
    del wrong["asgi_proxy_trusted_ca_file"]
    played = pair.all.play("asgi.deploy.site", asgi_app_source=source, **{**only, **wrong})
    assert "(site)" in played.unwrapped
    assert answer(one, "hello", 8443) == before
    again = pair.all.play("asgi.deploy.site", asgi_app_source=source, **{**only, **wrong})
    assert again.changed == 0
    pair.all.play("asgi.deploy.site", asgi_app_source=source, **only)
    assert answer(one, "hello") == before
    assert one.run(FILES) == files
