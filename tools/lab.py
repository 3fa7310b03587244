#!/usr/bin/env python3
"""Real systemd hosts for the tests and the demo: Debian in podman, reached over SSH.

    tools/lab.py up demo web1=debian12 web2=debian13
    .venv/bin/ansible -i .cache/lab/demo/hosts.yml asgi -m ping -b
    tools/lab.py down demo

The hosts of a group share a network of their own, in which they know each other by name. Their
images are made here from Debian's packages, so no image registry is needed. Those with `-prepared`
have what tests need beside the collection, and no sources of apt. What this machine can do (cgroup
version, resource limits, local certificate authorities) is detected, not assumed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import ipaddress
import json
import os
import re
import resource
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STATE = Path(__file__).resolve().parent.parent / ".cache" / "lab"
#: What a command in a host shares with its init, and the environment that it gets.
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
CLEAN = (
    *("env", "--ignore-environment", "container=podman", "HOME=/root", "TERM=xterm"),
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
)
#: The inits that were found, by their containers: id and start.
inits: dict[str, tuple[int, int | None]] = {}
KEY_FILE = STATE / "id_ed25519"
USER = "deploy"
PREFIX = "asgi-lab"
LABEL = "asgi.deploy.lab"
RECIPE_LABEL = "asgi.deploy.lab.recipe"

# What a freshly installed Debian server has. Anything that the collection must install itself
# (python3-venv, git, a proxy, a database) stays out, or a missing step would go unnoticed.
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "libpam-systemd",
    "dbus",
    "python3",
    "python3-apt",
    "openssh-server",
    "ca-certificates",
    "iproute2",
    "sudo",
    "curl",
    "procps",
)

# What is not under test, so that no test waits for it: what an app and its proxy need, its database
# and queue, an ACME authority. What a first deploy on a bare host installs is proven on the images
# without.
PREPARED = (
    "python3-venv",
    "git",
    "caddy",
    "postgresql",
    "redis-server",
    "openssl",
    "pebble",
)
#: The services of these packages: a host starts those that a test or the collection starts.
PREPARED_UNITS = ("caddy", "postgresql", "redis-server")


@dataclass(frozen=True)
class Image:
    """What a host is made from: a suite of Debian, plain or with PREPARED."""

    suite: str
    prepared: bool = False

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages that it has."""
        return PACKAGES + PREPARED if self.prepared else PACKAGES


IMAGES = {
    "debian11": Image("bullseye"),
    "debian12": Image("bookworm"),
    "debian13": Image("trixie"),
    "debian12-prepared": Image("bookworm", prepared=True),
    "debian13-prepared": Image("trixie", prepared=True),
}

# What is mounted for a service must be seen there: systemd makes `/` shared when it boots a
# machine, but not a container, where credentials (`LoadCredential=`) stay empty without it.
INIT = ("/bin/sh", "-c", "mount --make-rshared / && exec /sbin/init")

# A host shares the kernel and the terminals of this machine and must leave them alone; the timers
# would take apt's lock in the middle of a test.
MASKED_UNITS = (
    "systemd-modules-load.service",
    "systemd-sysctl.service",
    "systemd-binfmt.service",
    "dev-hugepages.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "console-getty.service",
    "getty.target",
    "getty@.service",
    "autovt@.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
)

HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
FILES = {
    "/etc/ssh/sshd_config.d/lab.conf": (
        f"HostKey {HOST_KEY}\nPermitRootLogin no\nPasswordAuthentication no\nUseDNS no\n"
    ),
    # The image carries no host key: each host makes its own when it first boots.
    "/etc/systemd/system/ssh.service.d/lab.conf": (
        "[Service]\nExecStartPre=\n"
        f'ExecStartPre=/bin/sh -c "test -s {HOST_KEY} || '
        f"ssh-keygen -q -t ed25519 -N '' -f {HOST_KEY}\"\n"
        "ExecStartPre=/usr/sbin/sshd -t\n"
    ),
    f"/etc/sudoers.d/{USER}": f"{USER} ALL=(ALL) NOPASSWD: ALL\n",
    # The kernel's messages are those of the whole machine: other hosts' kills among them.
    "/etc/systemd/journald.conf.d/lab.conf": "[Journal]\nReadKMsg=no\n",
    "/etc/default/locale": "LANG=C.UTF-8\n",
    # A host lives for minutes: nothing is gained by syncing every file of a package to disk.
    "/etc/dpkg/dpkg.cfg.d/lab": "force-unsafe-io\n",
}


class LabError(Exception):
    """Something about the lab that the user can act on."""


# --- this machine ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """The facts about this machine that decide how a host is started."""

    cgroup_v2: bool
    open_files_limit: int
    process_limit: int

    @classmethod
    def detect(cls) -> Machine:
        """Read the facts from the kernel."""
        return cls(
            cgroup_v2=Path("/sys/fs/cgroup/cgroup.controllers").exists(),
            open_files_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
            process_limit=resource.getrlimit(resource.RLIMIT_NPROC)[1],
        )


def lowest_limit(wanted: int, hard_limit: int) -> int:
    """The wanted limit, or this machine's hard limit if that is lower (-1 is no limit)."""
    return wanted if hard_limit == resource.RLIM_INFINITY else min(wanted, hard_limit)


def runtime_arguments(machine: Machine) -> list[str]:
    """Options of podman that come before its command."""
    # crun refuses machines where v1 controllers and a v2 mount stand side by side.
    return [] if machine.cgroup_v2 else ["--runtime", "runc"]


def start_arguments(machine: Machine) -> list[str]:
    """Options of `podman run` that let systemd be the init of a container."""
    # Only with a cgroup namespace of its own and write access to it does systemd enforce MemoryMax.
    arguments = ["--privileged", "--cgroupns=private", "--stop-timeout=30"]
    # podman's own defaults are higher than some machines allow, and then nothing starts.
    for name, wanted, hard_limit in (
        ("nofile", 524288, machine.open_files_limit),
        ("nproc", 16384, machine.process_limit),
    ):
        limit = lowest_limit(wanted, hard_limit)
        arguments.append(f"--ulimit={name}={limit}:{limit}")
    # What podman's systemd mode would do. That mode itself is no choice: on cgroup v1 it gives each
    # container the whole machine's systemd hierarchy, where hosts remove each other's cgroups; and
    # it throws the journal away on reboot.
    arguments += [
        "--systemd=false",
        "--stop-signal=SIGRTMIN+3",
        "--env=container=podman",
        "--tmpfs=/run:rw,nosuid,nodev,noexec,mode=0755",
        "--tmpfs=/run/lock:rw,nosuid,nodev,noexec,mode=1777",
    ]
    if not machine.cgroup_v2:
        # systemd since 256 does not boot on cgroup v1 without being told to.
        arguments.append("--env=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1")
    return arguments


def find_program(name: str) -> str | None:
    """Find a program of root's, too, which need not be in a user's PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def missing_parts(
    cgroup_v2: bool,
    find_program: Callable[[str], object] = find_program,
    is_root: bool | None = None,
) -> list[str]:
    """What keeps this machine from running hosts, each with the way to get it."""
    root = os.geteuid() == 0 if is_root is None else is_root
    programs = ["podman", "conmon", "mmdebstrap", "ssh", "ssh-keygen"]
    if not cgroup_v2:
        programs.append("runc")
    missing = [
        f"{program} is missing: run tools/bootstrap.sh --lab"
        for program in programs
        if not find_program(program)
    ]
    # podman's network program calls the one or the other, depending on its version.
    if not find_program("iptables") and not find_program("nft"):
        missing.append("iptables is missing: run tools/bootstrap.sh --lab")
    if not root and not find_program("sudo"):
        missing.append("hosts need root: run this as root, or install sudo")
    return missing


def as_root(command: Sequence[str]) -> list[str]:
    """The command, through sudo if we are not root; files of ours stay the user's own that way."""
    return list(command) if os.geteuid() == 0 else ["sudo", *command]


def run(
    command: Sequence[str],
    *,
    check: bool = True,
    timeout_seconds: float = 300,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command and keep its output; a failure becomes a LabError that shows it."""
    try:
        result = subprocess.run(
            command,
            input="" if stdin is None else stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is missing: run tools/bootstrap.sh --lab") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"no end after {timeout_seconds} s: {shlex.join(command)}") from error
    if check and result.returncode != 0:
        output = (result.stderr.strip() or result.stdout.strip())[-4000:]
        raise LabError(f"exit {result.returncode}: {shlex.join(command)}\n{output}")
    return result


def podman(
    *arguments: str, check: bool = True, timeout_seconds: float = 300, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run podman."""
    command = as_root(["podman", *runtime_arguments(Machine.detect()), *arguments])
    return run(command, check=check, timeout_seconds=timeout_seconds, stdin=stdin)


@contextlib.contextmanager
def locked(*, wait: bool = True) -> Iterator[None]:
    """Keep two runs of this tool from building one image or choosing one address twice.

    Raises:
        BlockingIOError: Another one has the lock, and we are not to wait.
    """
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / "lock").open("w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def say(text: str) -> None:
    """Tell the user what is going on, at once."""
    print(text, file=sys.stderr, flush=True)


# --- images ---------------------------------------------------------------------------------------

CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


def local_authorities(trusted: Iterable[str], packaged: Iterable[str]) -> list[str]:
    """The certificates in `trusted` that no package brought; both are texts of PEM files."""
    known = {"".join(pem.split()) for text in packaged for pem in CERTIFICATE.findall(text)}
    extra: dict[str, str] = {}
    for text in trusted:
        for pem in CERTIFICATE.findall(text):
            key = "".join(pem.split())
            if key not in known:
                extra[key] = pem + "\n"
    return [extra[key] for key in sorted(extra)]


def machine_authorities() -> list[str]:
    """Authorities that this machine's administrator added, as behind a company's proxy."""
    packaged = Path("/usr/share/ca-certificates")
    if packaged.is_dir():
        trusted = [Path("/etc/ssl/certs/ca-certificates.crt")]
        return local_authorities(read_all(trusted), read_all(packaged.rglob("*.crt")))
    return local_authorities(read_all(Path("/etc/pki/ca-trust/source/anchors").glob("*")), [])


def read_all(paths: Iterable[Path]) -> list[str]:
    """The texts of those paths that are files."""
    return [path.read_text(errors="replace") for path in sorted(paths) if path.is_file()]


def image_name(image: str) -> str:
    """The name of a lab image in podman's storage."""
    return f"localhost/{PREFIX}-{image}"


def image_script(authorities: Sequence[str], *, prepared: bool = False) -> str:
    """The shell script that turns a minimal Debian below $1 into a lab image."""
    files = dict(FILES)
    for number, pem in enumerate(authorities):
        files[f"/usr/local/share/ca-certificates/lab-{number}.crt"] = pem
    lines = ["#!/bin/sh", "set -eu", 'root="$1"']
    for path, text in files.items():
        lines += [
            f'mkdir -p "$root{Path(path).parent}"',
            f'printf %s {shlex.quote(text)} > "$root{path}"',
        ]
    lines += [f'ln -sf /dev/null "$root/etc/systemd/system/{unit}"' for unit in MASKED_UNITS]
    lines += [
        f'chmod 0440 "$root/etc/sudoers.d/{USER}"',
        f'chroot "$root" useradd --create-home --shell /bin/bash {USER}',
        f'install -d -m 0700 -o 0 -g 0 "$root/home/{USER}/.ssh"',
        f'chroot "$root" chown {USER}:{USER} /home/{USER}/.ssh',
        # The locale of whoever runs the tests has no business on the hosts.
        r"""sed -i '/^AcceptEnv/d' "$root/etc/ssh/sshd_config" """.rstrip(),
        # Each host makes its own identity when it boots.
        'rm -f "$root"/etc/ssh/ssh_host_*',
        ': > "$root/etc/machine-id"',
        'rm -f "$root/etc/hostname" "$root/etc/resolv.conf"',
    ]
    if authorities:
        lines.append('chroot "$root" update-ca-certificates')
    if prepared:
        lines += [
            *(f'systemctl --root="$root" disable {unit}.service' for unit in PREPARED_UNITS),
            # Without sources apt updates its lists in no time, and has what a test needs or fails.
            'rm -rf "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/*',
        ]
    return "\n".join(lines) + "\n"


def recipe_hash(image: Image, script: str) -> str:
    """What an image is made of, as a short hash: another recipe needs another image."""
    recipe = json.dumps([image.suite, image.packages, script])
    return hashlib.sha256(recipe.encode()).hexdigest()[:16]


def build_directory(image: str) -> Path:
    """Where this checkout builds an image: mmdebstrap changes to a user who must get there."""
    checkout = hashlib.sha256(str(STATE).encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"{PREFIX}-{checkout}-{image}"


def remove_builds(*images: str) -> None:
    """Remove the files of builds, also of those that were interrupted; only under the lock."""
    directories = [str(build_directory(image)) for image in images]
    run(as_root(["rm", "--recursive", "--force", "--one-file-system", *directories]))


def remove_interrupted_builds() -> None:
    """Remove what a build left that was interrupted, unless another run builds now."""
    with contextlib.suppress(BlockingIOError), locked(wait=False):
        remove_builds(*IMAGES)


def build_image(name: str, recipe: str, script: str) -> None:
    """Make a root directory of Debian's packages and import it."""
    image = IMAGES[name]
    directory = build_directory(name)
    directory.mkdir(mode=0o755)
    hook = directory / "customize"
    hook.write_text(script)
    hook.chmod(0o755)
    archive = directory / "root.tar"
    # What is mounted while an image is built ends with this program, however it ends.
    run(
        as_root(
            [
                *("unshare", "--mount", "env", f"TMPDIR={directory}", "mmdebstrap"),
                *("--variant=minbase", f"--include={','.join(image.packages)}"),
                *(f"--customize-hook={hook}", "--format=tar", image.suite, str(archive)),
            ]
        ),
        timeout_seconds=900,
    )
    changes = ["CMD /sbin/init", "STOPSIGNAL SIGRTMIN+3", f"LABEL {RECIPE_LABEL}={recipe}"]
    podman(
        "import",
        *(f"--change={change}" for change in changes),
        str(archive),
        f"{image_name(name)}:latest",
        timeout_seconds=300,
    )


def ensure_image(name: str) -> None:
    """Build the image unless podman has it in this very recipe."""
    image = IMAGES[name]
    script = image_script(machine_authorities(), prepared=image.prepared)
    recipe = recipe_hash(image, script)
    label = podman(
        "image",
        "inspect",
        "--format",
        f'{{{{ index .Labels "{RECIPE_LABEL}" }}}}',
        image_name(name),
        check=False,
    )
    if label.returncode == 0 and label.stdout.strip() == recipe:
        return
    started = time.monotonic()
    say(f"{name}: building the image, about a minute")
    remove_builds(name)
    try:
        build_image(name, recipe, script)
    finally:
        remove_builds(name)
    podman("image", "prune", "--force", f"--filter=label={RECIPE_LABEL}", check=False)
    say(f"{name}: image built in {time.monotonic() - started:.0f} s")


# --- hosts ----------------------------------------------------------------------------------------


def network_name(group: str) -> str:
    """The network of a group of hosts."""
    return f"{PREFIX}-{group}"


def started_ticks(pid: int) -> int | None:
    """When a process was started, in ticks since the machine's boot; None if there is none.

    With it an id tells one process from a later one that was given the same.
    """
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # the second field is a name in brackets, which may have anything in it: proc_pid_stat(5)
    return int(told.rpartition(")")[2].split()[19])


def init_of(container: str) -> int | None:
    """The id that a host's init has on this machine; None where the host does not run."""
    pid, started = inits.get(container, (0, None))
    if started is None or started_ticks(pid) != started:
        told = podman("inspect", "--format={{.State.Pid}}", container, check=False).stdout
        pid = int(told.strip() or 0)
        started = started_ticks(pid) if pid else None
        inits[container] = (pid, started)
    return pid if started is not None else None


@dataclass(frozen=True)
class Host:
    """One running (or stopped) host of the lab."""

    group: str
    name: str
    image: str
    address: str
    state: str = "unknown"

    @property
    def container(self) -> str:
        """The name of the host's container."""
        return f"{PREFIX}-{self.group}-{self.name}"

    def run(
        self,
        command: Sequence[str] | str,
        *,
        check: bool = True,
        timeout_seconds: float = 300,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root inside the host, without SSH; a string goes through the shell."""
        arguments = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        pid = init_of(self.container)
        if pid is None:
            if check:
                raise LabError(f"{self.name} does not run: {shlex.join(arguments)}")
            return subprocess.CompletedProcess(arguments, 125, "", f"{self.name} does not run")
        # `podman exec` would take half a second of a busy machine, and tests ask often.
        words = as_root(["nsenter", f"--target={pid}", *NAMESPACES, "--", *CLEAN, *arguments])
        return run(words, check=check, timeout_seconds=timeout_seconds, stdin=stdin)

    def reboot(self, *, timeout_seconds: float = 180, degraded_ok: bool = False) -> None:
        """Shut down in order, start again, and wait until the host is up."""
        podman("restart", self.container, timeout_seconds=timeout_seconds)
        self.wait_until_running(timeout_seconds=timeout_seconds, degraded_ok=degraded_ok)

    def kill(self) -> None:
        """Cut the power: no process gets to clean up."""
        podman("kill", "--signal=KILL", self.container)

    def start(self, *, timeout_seconds: float = 180, degraded_ok: bool = False) -> None:
        """Switch a stopped or killed host on, and wait until it is up."""
        # A container that was just killed may still be on its way to "exited".
        podman("wait", "--condition=exited", "--condition=created", self.container)
        podman("start", self.container)
        self.wait_until_running(timeout_seconds=timeout_seconds, degraded_ok=degraded_ok)

    def disconnect(self) -> None:
        """Pull the network cable."""
        podman("network", "disconnect", network_name(self.group), self.container)

    def connect(self) -> None:
        """Put the network cable back; the address stays the same."""
        podman(
            "network",
            "connect",
            f"--ip={self.address}",
            f"--mac-address={hardware_address(self.address)}",
            f"--alias={self.name}",
            network_name(self.group),
            self.container,
        )

    def wait_until_running(
        self, *, timeout_seconds: float = 180, degraded_ok: bool = False
    ) -> None:
        """Wait until systemd has started everything and SSH answers.

        A unit that failed is an error, unless `degraded_ok`.
        """
        deadline = time.monotonic() + timeout_seconds
        state = ""
        while time.monotonic() < deadline:
            # Before systemd listens, this fails at once and with another text.
            state = self.run(["systemctl", "is-system-running"], check=False).stdout.strip()
            booted = state == "running" or (degraded_ok and state == "degraded")
            if booted and answers_ssh(self.address):
                return
            if state == "degraded" and not degraded_ok:
                failed = self.run(["systemctl", "--failed", "--plain", "--no-legend"]).stdout
                raise LabError(f"{self.name}: units failed:\n{failed}")
            if not state and self._is_stopped():
                logs = podman("logs", "--tail=20", self.container, check=False)
                raise LabError(f"{self.name}: stopped while booting:\n{logs.stdout}{logs.stderr}")
            time.sleep(0.2)
        raise LabError(f"{self.name}: not up after {timeout_seconds} s, systemd says {state!r}")

    def _is_stopped(self) -> bool:
        """Whether the container has ended."""
        state = podman("inspect", "--format={{.State.Status}}", self.container, check=False)
        return state.stdout.strip() in ("exited", "stopped")


def answers_ssh(address: str) -> bool:
    """Whether an SSH server greets us."""
    try:
        with socket.create_connection((address, 22), timeout=1) as connection:
            return connection.recv(64).startswith(b"SSH-")
    except OSError:
        return False


def hosts_of(group: str | None = None) -> list[Host]:
    """The hosts of a group, or all hosts of the lab."""
    label = LABEL if group is None else f"{LABEL}={group}"
    listed = podman("ps", "--all", f"--filter=label={label}", "--format=json").stdout
    hosts = [host_from(container) for container in json.loads(listed or "[]")]
    return sorted(hosts, key=lambda host: (host.group, host.name))


def host_from(container: Mapping[str, Any]) -> Host:
    """A host from an entry of podman's list."""
    labels: dict[str, str] = container["Labels"]
    return Host(
        group=labels[LABEL],
        name=labels[f"{LABEL}.host"],
        image=labels[f"{LABEL}.image"],
        address=labels[f"{LABEL}.address"],
        state=str(container["State"]),
    )


def find(group: str, name: str) -> Host:
    """One host of a group."""
    for host in hosts_of(group):
        if host.name == name:
            return host
    raise LabError(f"group {group} has no host {name}: see tools/lab.py list")


def free_address(subnet: str, taken: Iterable[str]) -> str:
    """An address that no host of the network has.

    It is drawn by lot: an SSH connection that Ansible still holds open to a host that is gone must
    not be mistaken for one to a new host with the same address.
    """
    # Addresses at the start of the network belong to the gateway and to podman's own choices.
    candidates = [str(address) for address in list(ipaddress.ip_network(subnet).hosts())[15:]]
    return secrets.choice(sorted(set(candidates) - set(taken)))


def hardware_address(address: str) -> str:
    """The hardware address that goes with an address.

    With another one after each boot, neighbours would send to the former one for half a minute.
    """
    return ":".join(f"{byte:02x}" for byte in (2, 0, *ipaddress.IPv4Address(address).packed))


def ensure_network(group: str) -> str:
    """Make the group's network unless it is there; returns its subnet."""
    name = network_name(group)
    if podman("network", "exists", name, check=False).returncode != 0:
        podman("network", "create", f"--label={LABEL}={group}", name)
    details = json.loads(podman("network", "inspect", name).stdout)
    return str(details[0]["subnets"][0]["subnet"])


def create(host: Host, machine: Machine) -> None:
    """Start the container of a new host."""
    labels = {
        LABEL: host.group,
        f"{LABEL}.host": host.name,
        f"{LABEL}.image": host.image,
        f"{LABEL}.address": host.address,
    }
    podman(
        "run",
        "--detach",
        f"--name={host.container}",
        f"--hostname={host.name}",
        f"--network={network_name(host.group)}",
        f"--network-alias={host.name}",
        f"--ip={host.address}",
        f"--mac-address={hardware_address(host.address)}",
        *(f"--label={key}={value}" for key, value in labels.items()),
        *start_arguments(machine),
        "--pull=never",
        image_name(host.image),
        *INIT,
    )


def ensure_key() -> str:
    """Make the lab's SSH key pair once; returns the public key."""
    if not KEY_FILE.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", PREFIX, "-f", str(KEY_FILE)])
    return KEY_FILE.with_suffix(".pub").read_text()


def allow_key(host: Host, public_key: str) -> str:
    """Let the key in as the ordinary user; returns the host's own key, read without the network."""
    file = f"/home/{USER}/.ssh/authorized_keys"
    script = f"umask 077; cat > {file} && chown {USER}: {file} && cat {HOST_KEY}.pub"
    kind, key = host.run(script, stdin=public_key).stdout.split()[:2]
    return f"{kind} {key}"


def inventory(hosts: Iterable[Host], key_file: Path, known_hosts_file: Path) -> str:
    """An Ansible inventory of the hosts, in YAML."""
    options = ["StrictHostKeyChecking=yes", f'UserKnownHostsFile="{known_hosts_file}"']
    variables = {
        "ansible_user": USER,
        "ansible_ssh_private_key_file": str(key_file),
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_common_args": " ".join(f"-o {shlex.quote(option)}" for option in options),
    }
    lines = ["---", "# Written by tools/lab.py.", "asgi:", "  vars:"]
    lines += [f"    {name}: {json.dumps(value)}" for name, value in variables.items()]
    lines.append("  hosts:")
    for host in hosts:
        lines += [f"    {host.name}:", f"      ansible_host: {host.address}"]
    return "\n".join(lines) + "\n"


def in_parallel(action: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Do the action for all items at once; the first error is raised when all are done."""
    if not items:
        return []
    with ThreadPoolExecutor(max_workers=len(items)) as pool:
        return list(pool.map(action, items))


# --- commands -------------------------------------------------------------------------------------


def up(group: str, wanted: Mapping[str, str], inventory_file: Path | None = None) -> list[Host]:
    """Bring up hosts (name: image) and write the inventory of the whole group."""
    problems = missing_parts(Machine.detect().cgroup_v2)
    if problems:
        raise LabError("\n".join(problems))
    machine = Machine.detect()
    started = time.monotonic()
    with locked():
        in_parallel(ensure_image, sorted(set(wanted.values())))
        subnet = ensure_network(group)
        present = {host.name: host for host in hosts_of(group)}
        taken = [host.address for host in present.values()]
        for name, image in wanted.items():
            if name in present:
                if present[name].image != image:
                    raise LabError(
                        f"{name} is {present[name].image} already: tools/lab.py down {group} first"
                    )
                if present[name].state == "running":
                    say(f"{name}: is up already")
                else:
                    podman("start", present[name].container)
                continue
            host = Host(group, name, image, free_address(subnet, taken))
            taken.append(host.address)
            create(host, machine)
            present[name] = host
        public_key = ensure_key()
    hosts = [present[name] for name in sorted(present)]

    def finish(host: Host) -> str:
        # What a test did to a host that was up before is no business of ours.
        host.wait_until_running(degraded_ok=host.state == "running")
        return f"{host.address} {allow_key(host, public_key)}\n"

    known_hosts = in_parallel(finish, hosts)
    directory = STATE / group
    directory.mkdir(exist_ok=True)
    known_hosts_file = directory / "known_hosts"
    known_hosts_file.write_text("".join(known_hosts))
    file = inventory_file or directory / "hosts.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(inventory(hosts, KEY_FILE, known_hosts_file))
    names = " ".join(host.name for host in hosts)
    say(f"{group}: {names} up in {time.monotonic() - started:.1f} s, inventory {file}")
    return hosts


def down(*groups: str) -> None:
    """Remove the hosts of groups, their networks and their files."""
    hosts = [host for host in hosts_of() if host.group in groups]
    if hosts:
        podman("rm", "--force", "--time=0", "--volumes", *(host.container for host in hosts))
    if groups:
        podman("network", "rm", "--force", *map(network_name, groups), check=False)
    for group in groups:
        shutil.rmtree(STATE / group, ignore_errors=True)
        say(f"{group}: {sum(host.group == group for host in hosts)} hosts removed")


def all_groups() -> list[str]:
    """The groups that have a host or a network."""
    listed = podman("network", "ls", f"--filter=label={LABEL}", "--format=json").stdout
    networks = [network["labels"][LABEL] for network in json.loads(listed or "[]")]
    return sorted({host.group for host in hosts_of()} | set(networks))


def check() -> None:
    """Say whether hosts can be started here, by starting nothing."""
    machine = Machine.detect()
    version = "v2" if machine.cgroup_v2 else "v1"
    problems = missing_parts(machine.cgroup_v2)
    if not problems:
        result = podman("info", "--format={{.Host.OCIRuntime.Name}}", check=False)
        if result.returncode != 0:
            problems.append(f"podman does not work here: {result.stderr.strip()}")
    if problems:
        raise LabError("\n".join(problems))
    arguments = shlex.join([*runtime_arguments(machine), *start_arguments(machine)])
    print(f"hosts can be started: cgroup {version}, podman {arguments}")


HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?")


def host_and_image(text: str) -> tuple[str, str]:
    """Read HOST=IMAGE."""
    name, _, image = text.partition("=")
    if not HOST_NAME.fullmatch(name) or image not in IMAGES:
        raise argparse.ArgumentTypeError(
            f"{text!r}: wanted HOST=IMAGE, IMAGE one of {', '.join(IMAGES)}"
        )
    return name, image


def group_name(text: str) -> str:
    """Read the name of a group."""
    if not HOST_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}: wanted lower-case letters, digits and dashes")
    return text


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="tools/lab.py", description=(__doc__ or "").splitlines()[0])
    commands = root.add_subparsers(dest="command", required=True)
    command = commands.add_parser("up", help="start hosts and write their inventory")
    command.add_argument("group", type=group_name)
    command.add_argument("hosts", nargs="+", type=host_and_image, metavar="HOST=IMAGE")
    command.add_argument("--inventory", type=Path, help="default: .cache/lab/GROUP/hosts.yml")
    command = commands.add_parser("down", help="remove the hosts of a group")
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("group", nargs="?", type=group_name)
    which.add_argument("--all", action="store_true", help="all groups")
    commands.add_parser("list", help="list all hosts")
    command = commands.add_parser("restart", help="reboot a host")
    command.add_argument("group", type=group_name)
    command.add_argument("host")
    command = commands.add_parser("exec", help="run a command as root in a host, without SSH")
    command.add_argument("group", type=group_name)
    command.add_argument("host")
    command.add_argument("arguments", nargs="+", metavar="-- COMMAND")
    commands.add_parser("check", help="say whether this machine can run hosts, and what is missing")
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "up":
            up(options.group, dict(options.hosts), options.inventory)
        elif options.command == "down":
            down(*(all_groups() if options.all else [options.group]))
        elif options.command == "list":
            for host in hosts_of():
                print(f"{host.group}\t{host.name}\t{host.image}\t{host.address}\t{host.state}")
        elif options.command == "restart":
            find(options.group, options.host).reboot()
        elif options.command == "exec":
            container = find(options.group, options.host).container
            terminal = ["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []
            command = ["podman", "exec", "--interactive", *terminal, container, *options.arguments]
            return subprocess.call(as_root(command))
        elif options.command == "check":
            check()
    except LabError as error:
        say(f"lab: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
