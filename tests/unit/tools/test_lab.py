"""The parts of tools/lab.py that need no host."""

from __future__ import annotations

import resource
import shlex
import tempfile
from pathlib import Path

import lab
import pytest
import yaml

ORDINARY = lab.Machine(
    cgroup_v2=True, open_files_limit=1048576, process_limit=resource.RLIM_INFINITY
)
CONFINED = lab.Machine(cgroup_v2=False, open_files_limit=20000, process_limit=4096)
PEM = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"


def test_an_ordinary_machine_uses_podmans_own_runtime() -> None:
    assert lab.runtime_arguments(ORDINARY) == []
    arguments = lab.start_arguments(ORDINARY)
    assert "--ulimit=nofile=524288:524288" in arguments
    assert "--ulimit=nproc=16384:16384" in arguments
    assert not [argument for argument in arguments if "LEGACY" in argument]


def test_a_machine_with_cgroup_v1_uses_runc_within_its_limits() -> None:
    assert lab.runtime_arguments(CONFINED) == ["--runtime", "runc"]
    arguments = lab.start_arguments(CONFINED)
    assert "--ulimit=nofile=20000:20000" in arguments
    assert "--ulimit=nproc=4096:4096" in arguments
    assert "--env=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1" in arguments


@pytest.mark.parametrize("machine", [ORDINARY, CONFINED])
def test_systemd_gets_a_cgroup_namespace_it_may_write_to(machine: lab.Machine) -> None:
    arguments = lab.start_arguments(machine)
    assert {"--privileged", "--cgroupns=private"} <= set(arguments)


@pytest.mark.parametrize("machine", [ORDINARY, CONFINED])
def test_no_host_sees_the_cgroups_of_another(machine: lab.Machine) -> None:
    # podman's systemd mode mounts the whole machine's systemd hierarchy on cgroup v1.
    assert "--systemd=false" in lab.start_arguments(machine)


def test_a_hardware_address_is_local_and_follows_the_address() -> None:
    assert lab.hardware_address("192.0.2.7") == "02:00:c0:00:02:07"


def test_missing_parts_name_the_program_and_the_cure() -> None:
    present = {"conmon", "mmdebstrap", "ssh", "ssh-keygen", "runc", "nft"}
    missing = lab.missing_parts(
        cgroup_v2=True, find_program=lambda name: name in present, is_root=False
    )
    assert len(missing) == 2
    assert "podman" in missing[0]
    assert "tools/bootstrap.sh --lab" in missing[0]
    assert "root" in missing[1]


def test_runc_is_needed_on_cgroup_v1_only() -> None:
    def has_all_but_runc(name: str) -> bool:
        return name != "runc"

    assert lab.missing_parts(cgroup_v2=True, find_program=has_all_but_runc, is_root=True) == []
    (problem,) = lab.missing_parts(cgroup_v2=False, find_program=has_all_but_runc, is_root=True)
    assert "runc" in problem


def test_inventory_is_what_ansible_reads(tmp_path: Path) -> None:
    hosts = [
        lab.Host("demo", "web1", "debian12", "192.0.2.7"),
        lab.Host("demo", "web2", "debian13", "192.0.2.8"),
    ]
    known_hosts = tmp_path / "a place" / "known_hosts"
    text = lab.inventory(hosts, tmp_path / "key", known_hosts)
    group = yaml.safe_load(text)["asgi"]
    assert group["hosts"] == {
        "web1": {"ansible_host": "192.0.2.7"},
        "web2": {"ansible_host": "192.0.2.8"},
    }
    variables = group["vars"]
    assert variables["ansible_user"] == "deploy"
    assert variables["ansible_ssh_private_key_file"] == str(tmp_path / "key")
    assert variables["ansible_python_interpreter"] == "/usr/bin/python3"
    assert shlex.split(variables["ansible_ssh_common_args"]) == [
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        f'UserKnownHostsFile="{known_hosts}"',
    ]


def test_another_recipe_is_another_image() -> None:
    script = lab.image_script([])
    first = lab.recipe_hash(lab.IMAGES["debian12"], script)
    assert first == lab.recipe_hash(lab.IMAGES["debian12"], lab.image_script([]))
    assert first != lab.recipe_hash(lab.IMAGES["debian13"], script)
    assert first != lab.recipe_hash(lab.IMAGES["debian12"], lab.image_script([PEM.format("abcd")]))


def test_image_has_no_identity_and_no_part_the_collection_must_install() -> None:
    script = lab.image_script([])
    assert 'rm -f "$root"/etc/ssh/ssh_host_*' in script
    assert ': > "$root/etc/machine-id"' in script
    assert not {"python3-venv", "git", "caddy", "postgresql"} & set(lab.PACKAGES)


@pytest.mark.parametrize("name", lab.IMAGES)
def test_only_a_prepared_image_has_what_is_not_under_test(name: str) -> None:
    image = lab.IMAGES[name]
    script = lab.image_script([], prepared=image.prepared)
    prepared = name.endswith("-prepared")
    assert image.prepared is prepared
    assert ({"caddy", "postgresql"} <= set(image.packages)) is prepared
    # a host starts what a test starts, and asks apt for nothing
    assert ("disable postgresql.service" in script) is prepared
    assert ("sources.list" in script) is prepared


def test_local_authorities_are_those_that_no_package_brought() -> None:
    packaged = [PEM.format("aaaa"), PEM.format("bbbb")]
    bundle = PEM.format("bbbb\r") + PEM.format("cccc") + PEM.format("aaaa") + PEM.format("cccc")
    assert lab.local_authorities([bundle], packaged) == [PEM.format("cccc")]


def test_free_address_leaves_out_the_taken_ones() -> None:
    # A network of 30 hosts, the first 15 of which are left to podman.
    everyone = {f"192.0.2.{number}" for number in range(16, 31)}
    taken = everyone - {"192.0.2.20"}
    assert lab.free_address("192.0.2.0/27", taken) == "192.0.2.20"


def test_host_is_read_from_podmans_list() -> None:
    labels = {
        lab.LABEL: "demo",
        f"{lab.LABEL}.host": "web1",
        f"{lab.LABEL}.image": "debian12",
        f"{lab.LABEL}.address": "192.0.2.7",
    }
    host = lab.host_from({"Labels": labels, "State": "running"})
    assert host == lab.Host("demo", "web1", "debian12", "192.0.2.7", "running")
    assert host.container == "asgi-lab-demo-web1"


@pytest.mark.parametrize(
    "text", ["web1", "web1=ubuntu", "=debian12", "Web 1=debian12", "a_b=debian12"]
)
def test_a_host_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(SystemExit):
        lab.parser().parse_args(["up", "demo", text])


def test_an_interrupted_build_is_removed_unless_another_run_builds_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab, "STATE", tmp_path / "lab")
    monkeypatch.setattr(lab, "as_root", list)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    directory = lab.build_directory("debian12")
    assert directory.parent == tmp_path
    (directory / "root" / "etc").mkdir(parents=True)
    with lab.locked():
        lab.remove_interrupted_builds()
        assert directory.is_dir()
    lab.remove_interrupted_builds()
    assert not directory.exists()
    # nothing is left to remove
    lab.remove_interrupted_builds()
