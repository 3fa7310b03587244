#!/usr/bin/env python3
"""The blog on a real host of its own, from nothing to HTTPS; run again, it deploys what changed.

make demo           start the host, deploy examples/blog, show what serves
make demo-clean     remove the host and all files of the demo
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import secrets
import shutil
import socket
import ssl
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import collection
import lab
import steps

HOST = "web1"
IMAGE = "debian12"
APP = "blog"
DOMAIN = "blog.test"

BLOG = steps.ROOT / "examples" / "blog"
LAB = [sys.executable, str(steps.ROOT / "tools" / "lab.py")]
AUTHORITY_ON_HOST = "/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt"

ANSIBLE_CONFIGURATION = """\
# Written by tools/demo.py. Paths are relative to this file.
[defaults]
inventory = inventory
collections_path = collections
callback_result_format = yaml
display_skipped_hosts = false
forks = 20
nocows = true
retry_files_enabled = false

[ssh_connection]
pipelining = true
"""

VARIABLES = f"""\
---
# Written by tools/demo.py: what the demo has otherwise than a repository of your own would.
asgi_app_source:
  path: {json.dumps(str(BLOG))}
# The host trusts what this machine trusts, also an authority of a company's own.
asgi_app_ca_file: {steps.AUTHORITIES}
"""


@dataclass(frozen=True)
class Demo:
    """The demo's host and files; `group` names both, so that tests can have a demo of their own."""

    group: str

    @property
    def directory(self) -> Path:
        """All files of the demo."""
        return steps.CACHE / self.group

    @property
    def inventory(self) -> Path:
        """The inventory, a directory."""
        return self.directory / "inventory"

    @property
    def configuration(self) -> Path:
        """Ansible's configuration."""
        return self.directory / "ansible.cfg"

    @property
    def ssh_configuration(self) -> Path:
        """What `ssh -F` takes to reach the host."""
        return self.directory / "ssh.conf"

    @property
    def authority(self) -> Path:
        """The certificate of the authority of the host's proxy."""
        return self.directory / "ca.crt"

    def log(self, name: str) -> Path:
        """Where the output of a step is kept."""
        return self.directory / f"{name}.log"

    def write_files(self) -> None:
        """Write configuration and variables; those of the example are linked to."""
        variables = self.inventory / "group_vars" / "asgi"
        variables.mkdir(parents=True, exist_ok=True)
        self.configuration.write_text(ANSIBLE_CONFIGURATION)
        # Files of a group are read in the order of their names, the last one wins.
        link = variables / "1_blog.yml"
        link.unlink(missing_ok=True)
        link.symlink_to(BLOG / "deploy" / "inventory" / "group_vars" / "asgi.yml")
        (variables / "2_demo.yml").write_text(VARIABLES)
        write_secret(variables / "3_secrets.yml")

    def start_host(self) -> str:
        """Start the host, or find it running; returns its address."""
        inventory = self.inventory / "hosts.yml"
        command = [*LAB, "up", self.group, f"{HOST}={IMAGE}", f"--inventory={inventory}"]
        steps.demand(command, self.log("host"))
        address = lab.find(self.group, HOST).address
        known_hosts = lab.STATE / self.group / "known_hosts"
        self.ssh_configuration.write_text(ssh_configuration(address, known_hosts))
        return address

    def ansible(self, name: str, program: str, *arguments: str | Path, **changes: str) -> str:
        """Run a program of Ansible with the demo's configuration."""
        changes["ANSIBLE_CONFIG"] = str(self.configuration)
        return steps.demand([steps.BIN / program, *arguments], self.log(name), changes=changes)

    def play(self, name: str, playbook: str | Path) -> int:
        """Run a playbook; returns how many tasks changed something."""
        output = self.ansible(name, "ansible-playbook", playbook)
        return sum(int(number) for number in re.findall(r"\bchanged=(\d+)", output))

    def ask_host(self) -> dict[str, Any]:
        """What the host says of the app."""
        module = ["--become", "--module-name=asgi.deploy.release_info", f"--args=name={APP}"]
        output = self.ansible(
            "status", "ansible", HOST, *module, ANSIBLE_CALLBACK_RESULT_FORMAT="json"
        )
        app: dict[str, Any] = json.loads(output[output.index("{") :])["app"]
        return app

    def fetch_authority(self) -> None:
        """Bring the certificate of the authority here."""
        command = ["ssh", "-F", self.ssh_configuration, HOST, "sudo", "cat", AUTHORITY_ON_HOST]
        self.authority.write_text(steps.demand(command, self.log("authority")))

    def ask_app(self, address: str) -> dict[str, Any]:
        """The app's answer through the proxy, whose certificate must be right."""
        context = ssl.create_default_context(cafile=str(self.authority))
        with contextlib.closing(Connection(address, context)) as connection:
            try:
                connection.request("GET", "/healthz")
                response = connection.getresponse()
                body = response.read().decode(errors="replace")
            except (OSError, http.client.HTTPException) as error:
                raise steps.StepFailed(f"https://{DOMAIN}/ at {address}: {error}") from error
        if response.status != 200:
            raise steps.StepFailed(f"https://{DOMAIN}/healthz answered {response.status}: {body}")
        answer: dict[str, Any] = json.loads(body)
        return answer

    def bring_up(self) -> None:
        """Do everything, and say what there is then."""
        started = time.monotonic()
        self.write_files()
        with steps.timed("tools", "" if steps.BIN.exists() else "packages, Ansible"):
            steps.demand([steps.ROOT / "tools" / "bootstrap.sh", "--lab"], self.log("tools"))
            steps.demand([*LAB, "check"], self.log("host"))
        image = lab.podman("image", "exists", lab.image_name(IMAGE), check=False)
        with steps.timed("host", "" if image.returncode == 0 else "builds its image, a minute"):
            address = self.start_host()
        with steps.timed("collection"):
            collection.install(self.directory / "collections", self.log("collection"))
        with steps.timed("database"):
            changed = self.play("database", BLOG / "deploy" / "prepare.yml")
        with steps.timed("deploy"):
            changed += self.play("deploy", "asgi.deploy.site")
        with steps.timed("proof"):
            self.fetch_authority()
            answer = self.ask_app(address)
            app = self.ask_host()
        told = f"{changed} changes" if changed else "nothing changed"
        print(self.report(address, app, answer))
        print(f"{self.group}: {told}, {time.monotonic() - started:.0f} s")

    def report(self, address: str, app: dict[str, Any], answer: dict[str, Any]) -> str:
        """What the user wants to know now."""
        cafile = steps.shown(self.authority)
        ssh = f"ssh -F {steps.shown(self.ssh_configuration)} {HOST}"
        configuration = f"ANSIBLE_CONFIG={steps.shown(self.configuration)}"
        running, wanted = app["instances_running"], len(app["instances"])
        return f"""
https://{DOMAIN}/ on {address}: {answer["status"]}, its certificate is verified
  app         {APP} {answer["version"]}, here instance {answer["instance"]}
  release     {answer["release"]} in slot {app["slot"]}
  instances   {running} of {wanted} running, {app["restarts"]} restarts
  memory      {app["memory_mebibytes"]} MiB used, {app["memory_max_mebibytes"]} MiB allowed

Look around
  curl --cacert {cafile} --resolve {DOMAIN}:443:{address} https://{DOMAIN}/
  {ssh}
  {ssh} sudo journalctl --unit="'{APP}-*'" --lines=20
Deploy a change: edit a file of examples/blog, such as src/blog/templates/home.html, then
  make demo
Go back to the release before it
  {configuration} .venv/bin/ansible-playbook asgi.deploy.rollback
Remove it all
  make demo-clean
"""

    def remove(self) -> None:
        """Remove the host and all files."""
        if lab.find_program("podman"):
            lab.down(self.group)
        shutil.rmtree(self.directory, ignore_errors=True)


class Connection(http.client.HTTPSConnection):
    """HTTPS to the app's domain at a given address, as no name server knows the domain."""

    def __init__(self, address: str, context: ssl.SSLContext) -> None:
        super().__init__(DOMAIN, timeout=10)
        self.address = address
        self.context = context

    def connect(self) -> None:
        """Connect to the address, and take the certificate for the domain only."""
        plain = socket.create_connection((self.address, 443), self.timeout)
        self.sock = self.context.wrap_socket(plain, server_hostname=DOMAIN)


def write_secret(file: Path) -> None:
    """Draw the blog's key once, into a file that only its owner reads."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as opened:
            opened.write(f"---\nvault_blog_secret_key: {secrets.token_hex(32)!r}\n")


def ssh_configuration(address: str, known_hosts: Path) -> str:
    """What `ssh -F` takes to reach the host."""
    return (
        f"Host {HOST}\n"
        f"  HostName {address}\n"
        f"  User {lab.USER}\n"
        f'  IdentityFile "{lab.KEY_FILE}"\n'
        "  IdentitiesOnly yes\n"
        f'  UserKnownHostsFile "{known_hosts}"\n'
        "  StrictHostKeyChecking yes\n"
        "  LogLevel ERROR\n"
    )


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", nargs="?", choices=["up", "clean"], default="up")
    parser.add_argument("--group", type=lab.group_name, default="demo", help="default: demo")
    options = parser.parse_args()
    demo = Demo(options.group)
    try:
        with steps.interruptible():
            if options.command == "up":
                demo.bring_up()
            else:
                demo.remove()
    except (steps.StepFailed, lab.LabError) as error:
        print(f"\n{demo.group}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{demo.group}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
