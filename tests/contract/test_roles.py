"""Rules that every role keeps, so that knowing one is knowing all."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import git_source, rollout, systemd
from ansible_collections.asgi.deploy.plugins.module_utils.proxies import caddy
from contract.collection import (
    PLAYBOOKS,
    REPOSITORY,
    ROLES,
    flatten,
    is_template,
    load,
    module_of,
    playbook_tasks,
    role_files,
    role_tasks,
)

#: Modules that run a program, and say "changed" only if they are told when.
COMMANDS = {"ansible.builtin.command", "ansible.builtin.script", "ansible.builtin.expect"}
#: Modules that only the controller runs, or that only include others.
WITHOUT_HOST = {
    "ansible.builtin.assert",
    "ansible.builtin.debug",
    "ansible.builtin.fail",
    "ansible.builtin.import_role",
    "ansible.builtin.import_tasks",
    "ansible.builtin.include_role",
    "ansible.builtin.include_tasks",
    "ansible.builtin.include_vars",
    "ansible.builtin.meta",
    "ansible.builtin.set_fact",
}
INCLUDES = {"ansible.builtin.import_role", "ansible.builtin.include_role"}
#: A public name in a text; not a part of a longer one.
VARIABLE = re.compile(r"(?<![A-Za-z0-9_])(?:__)?asgi_[a-z0-9_]+")
#: Of no role: what a user gives to a playbook.
OF_PLAYBOOKS = {
    "asgi_hosts",
    "asgi_balancers",
    "asgi_serial",
    "asgi_proxy_maintenance",
    "asgi_release",
    "asgi_rollback_across_migration",
    "asgi_remove_data",
    "asgi_status_json",
}


def defaults(role: str) -> dict[str, Any]:
    """Returns the defaults of a role."""
    found: dict[str, Any] = load(f"roles/{role}/defaults/main.yml")
    return found


def specs(role: str) -> dict[str, Any]:
    """Returns the entry points in the specification of a role."""
    found = load(f"roles/{role}/meta/argument_specs.yml")
    if found is None:
        pytest.fail(f"roles/{role}/meta/argument_specs.yml is missing")
    return dict(found["argument_specs"])


def options(role: str) -> dict[str, Any]:
    """Returns the options of the main entry point that are the role's own."""
    return {
        name: option
        for name, option in specs(role)["main"]["options"].items()
        if name.startswith(f"asgi_{role}_")
    }


def every_option(role: str) -> list[tuple[str, dict[str, Any]]]:
    """Returns all options of a role, those inside of others too, by their whole names."""

    def walk(prefix: str, found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        pairs = []
        for name, option in found.items():
            pairs.append((f"{prefix}.{name}", option))
            pairs += walk(f"{prefix}.{name}", option.get("options", {}))
        return pairs

    return [
        pair for entry, spec in specs(role).items() for pair in walk(entry, spec.get("options", {}))
    ]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "defaults/main.yml",
        "meta/argument_specs.yml",
        "meta/main.yml",
        "tasks/main.yml",
    ],
)
def test_a_role_is_whole(role: str, name: str) -> None:
    assert (REPOSITORY / "roles" / role / name).is_file()


# --- what a user may set --------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_the_specification_has_exactly_the_variables_of_the_role(role: str) -> None:
    required = {name for name, option in options(role).items() if option.get("required")}
    assert set(options(role)) - required == set(defaults(role))
    assert required & set(defaults(role)) == set()


@pytest.mark.parametrize("role", ROLES)
def test_both_name_the_same_default(role: str) -> None:
    """The truth is in defaults/main.yml; a specification cannot hold what is computed."""
    fixed = {name: value for name, value in defaults(role).items() if not is_template(value)}
    told = {
        name: option["default"] for name, option in options(role).items() if "default" in option
    }
    assert told == fixed
    # 1 and 1.0 and true are equal to Python, and not to a reader
    kinds = {name: type(value) for name, value in fixed.items() if not isinstance(value, float)}
    assert {name: type(told[name]) for name in kinds} == kinds


@pytest.mark.parametrize("role", ROLES)
def test_a_default_is_of_the_type_that_is_asked_for(role: str) -> None:
    python = {
        "str": str,
        "int": int,
        "bool": bool,
        "list": list,
        "dict": dict,
        "float": (int, float),
        "raw": object,
    }
    wrong = [
        name
        for name, option in options(role).items()
        if name in defaults(role)
        and not is_template(defaults(role)[name])
        and not isinstance(defaults(role)[name], python[option["type"]])
    ]
    assert wrong == []


@pytest.mark.parametrize("role", ROLES)
def test_every_option_is_described(role: str) -> None:
    found = every_option(role)
    assert found
    assert [name for name, option in found if not option.get("description")] == []
    assert [name for name, option in found if "type" not in option] == []
    entries = specs(role).items()
    assert [name for name, spec in entries if not spec.get("short_description")] == []


@pytest.mark.parametrize("role", ROLES)
def test_secrets_are_marked(role: str) -> None:
    word = re.compile(r"(?:^|[._])(?:password|token|mac_key)$")
    secret = [(name, option) for name, option in every_option(role) if word.search(name)]
    assert [name for name, option in secret if option.get("no_log") is not True] == []


@pytest.mark.parametrize("role", ROLES)
def test_every_default_has_a_line_that_says_what_it_is_for(role: str) -> None:
    lines = (REPOSITORY / "roles" / role / "defaults" / "main.yml").read_text().splitlines()
    told = [
        line.split(":")[0]
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r"asgi_", line) and before.startswith("# ")
    ]
    assert told == list(defaults(role))


@pytest.mark.parametrize("role", ROLES)
def test_the_readme_names_every_variable_and_no_other(role: str) -> None:
    path = REPOSITORY / "roles" / role / "README.md"
    assert path.is_file(), f"roles/{role}/README.md is missing"
    # `asgi_service_*` in a text stands for several
    found = VARIABLE.findall(path.read_text(encoding="utf-8"))
    named = {name for name in found if not name.endswith("_")}
    assert set(options(role)) - named == set()
    known = {name for one in ROLES for name in specs(one)["main"]["options"]} | OF_PLAYBOOKS
    known |= {name for one in ROLES for name in set_by(one)}
    assert named - known == set()


def set_by(role: str) -> set[str]:
    """Returns the variables that tasks of a role set."""
    found = set()
    for _path, task in role_tasks(role):
        found |= {task["register"]} if "register" in task else set()
        facts = task.get("ansible.builtin.set_fact", {})
        found |= {name for name in facts if name != "cacheable"}
    return found


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_variables_carry_the_name_of_their_role(role: str) -> None:
    private = set()
    for path in role_files(role, "vars"):
        private |= set(load(path))
    inner = {name for _path, task in role_tasks(role) for name in task.get("vars", {})}
    loops = {
        task["loop_control"]["loop_var"]
        for _path, task in role_tasks(role)
        if "loop_var" in task.get("loop_control", {})
    }
    assert [name for name in defaults(role) if not name.startswith(f"asgi_{role}_")] == []
    wrong = [name for name in private if not name.startswith(f"__asgi_{role}_")]
    names = re.compile(rf"(?:__)?asgi_{role}_[a-z0-9_]+")
    wrong += [name for name in inner | loops | set_by(role) if not names.fullmatch(name)]
    assert wrong == []
    # an input is never overwritten
    assert set_by(role) & {*defaults(role), *options(role)} == set()


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_variables_of_a_playbook_carry_the_name_of_a_role(name: str) -> None:
    for path, task in playbook_tasks(name):
        for variable in [task.get("register"), *task.get("ansible.builtin.set_fact", {})]:
            assert variable is None or re.match(rf"(__)?asgi_({'|'.join(ROLES)})_", variable), path


def test_every_variable_that_is_used_is_one_that_somebody_sets() -> None:
    known = set(OF_PLAYBOOKS)
    for role in ROLES:
        known |= {*defaults(role), *options(role), *set_by(role)}
        known |= {name for entry in specs(role).values() for name in entry["options"]}
        known |= {name for path in role_files(role, "vars") for name in load(path)}
        known |= {name for _path, task in role_tasks(role) for name in task.get("vars", {})}
        known |= {
            task["loop_control"]["loop_var"]
            for _path, task in role_tasks(role)
            if "loop_var" in task.get("loop_control", {})
        }
    for name in PLAYBOOKS:
        for _path, task in playbook_tasks(name):
            known |= {task.get("register"), *task.get("ansible.builtin.set_fact", {})}
            known |= {*task.get("vars", {})}
    unknown = {}
    paths = [*REPOSITORY.glob("roles/**/*.yml"), *REPOSITORY.glob("roles/**/*.j2")]
    for path in [*paths, *REPOSITORY.glob("playbooks/*.yml")]:
        lines = path.read_text(encoding="utf-8").splitlines()
        text = "\n".join(line.split(" # ")[0] for line in lines if line.strip()[:1] != "#")
        # `asgi_service_*` in a text stands for several
        used = {name for name in VARIABLE.findall(text) if not name.endswith("_")}
        if used - known:
            unknown[str(path.relative_to(REPOSITORY))] = used - known
    assert unknown == {}


# --- tasks ----------------------------------------------------------------------------------------


ALL_TASKS = [
    *(pair for role in ROLES for pair in role_tasks(role)),
    *(pair for name in PLAYBOOKS for pair in playbook_tasks(name)),
]


@pytest.mark.parametrize(
    ("path", "task"), [pytest.param(p, t, id=f"{p}: {t.get('name')}") for p, t in ALL_TASKS]
)
def test_a_task_keeps_the_rules(path: str, task: dict[str, Any]) -> None:
    module = module_of(task)
    assert re.fullmatch(r"(ansible\.builtin|asgi\.deploy)\.[a-z_]+", module)
    # no shell: an argument would be read as a program
    assert module not in {"ansible.builtin.shell", "ansible.builtin.raw"}
    assert "ignore_errors" not in task
    assert "ignore_unreachable" not in task
    assert task.get("failed_when") is not False
    if module in COMMANDS:
        assert "changed_when" in task
        assert task["changed_when"] not in (False, "false")
    if module not in WITHOUT_HOST:
        assert isinstance(task.get("become"), bool), "say whether it is run as root"
    if module == "ansible.builtin.apt":
        # its default is shorter than the first upgrades of a new host
        assert task[module]["lock_timeout"] == 300
    name = task.get("name", "")
    assert re.match(r"[a-z_]+ \| [A-Z]|[A-Z]", name)
    stem = path.rsplit("/", 1)[-1].removesuffix(".yml")
    if "/tasks/" in path and stem != "main":
        assert name.startswith(f"{stem} | ")


@pytest.mark.parametrize(
    ("role", "name", "limits"),
    [
        ("app", "stage | Decide the release", [git_source.GIT_TIMEOUT_SECONDS]),
        (
            "proxy",
            "caddy_configure | Have Caddy check its configuration",
            [caddy.VALIDATE_TIMEOUT_SECONDS, systemd.CALL_TIMEOUT_SECONDS],
        ),
        ("service", "conclude | Undo the rollout", [rollout.UNDO_WAIT_SECONDS]),
    ],
)
def test_the_limit_in_a_name_is_that_of_the_code(role: str, name: str, limits: list[int]) -> None:
    (found,) = [task["name"] for _path, task in role_tasks(role) if task["name"].startswith(name)]
    assert [int(number) for number in re.findall(r"([0-9]+) s\b", found)] == limits


@pytest.mark.parametrize("role", ROLES)
def test_what_is_notified_exists_and_every_handler_is(role: str) -> None:
    handlers = {
        name
        for path in role_files(role, "handlers")
        for task in flatten(load(path))
        for name in [task["name"], task.get("listen")]
        if name
    }
    notified = set()
    for _path, task in role_tasks(role):
        notify = task.get("notify", [])
        notified |= {notify} if isinstance(notify, str) else set(notify)
    assert notified == handlers


@pytest.mark.parametrize("role", ROLES)
def test_no_secret_is_written_where_a_task_may_show_it(role: str) -> None:
    """Who hands secrets to a module either hides the task or gives them as its own options."""
    hidden_by_the_module = {f"asgi.deploy.{n}" for n in ("environment", "release", "proxy_config")}
    secret = re.compile(r"asgi_app_secrets|_mac_key|_password")
    shown = [
        f"{path}: {task['name']}"
        for path, task in role_tasks(role)
        if secret.search(str({key: task[key] for key in task if key not in ("when", "name")}))
        and "no_log" not in task
        and module_of(task) not in hidden_by_the_module
    ]
    assert shown == []


# --- entry points ---------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_an_entry_point_is_a_file_and_is_specified_if_it_is_used(role: str) -> None:
    files = {path.rsplit("/", 1)[-1].removesuffix(".yml") for path in role_files(role, "tasks")}
    used = {"main"}
    for _path, task in ALL_TASKS:
        arguments = task.get(module_of(task))
        if module_of(task) in INCLUDES and arguments["name"] == f"asgi.deploy.{role}":
            used.add(arguments.get("tasks_from", "main").removesuffix(".yml"))
    assert used <= set(specs(role))
    assert set(specs(role)) <= files


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_a_playbook_is_thin(name: str) -> None:
    """`ansible-playbook asgi.deploy.<name>` needs a name that Python could have."""
    assert name.removesuffix(".yml").isidentifier()
    plays = load(f"playbooks/{name}")
    # a wrong name in asgi_balancers ends the run before anything is done
    of_balancers = ["balancer_hosts" in play["hosts"] for play in plays]
    assert of_balancers[0] is any(of_balancers)
    for play in plays:
        # an unknown name is an error
        assert re.match(r"\{\{ groups \| asgi\.deploy\.(app|balancer)_hosts\(", play["hosts"])
        # no run goes on with fewer hosts than it was given; status tells which it has not reached
        assert play.get("any_errors_fatal", False) is (name != "status.yml")
        assert play["gather_facts"] is False
        # whatever an ansible.cfg says: hosts wait for each other before a migration and a rollout
        assert play["strategy"] == "ansible.builtin.linear"
        assert "vars" not in play
        roles = {role["role"] for role in play.get("roles", [])}
        assert roles <= {f"asgi.deploy.{role}" for role in ROLES}


@pytest.mark.parametrize(
    "path",
    sorted(
        str(p.relative_to(REPOSITORY))
        for p in REPOSITORY.glob("roles/*/templates/**/*")
        if p.is_file()
    ),
)
def test_a_template_says_who_manages_the_file_and_mirrors_its_path(path: str) -> None:
    assert path.endswith(".j2")
    # what another template begins with is that template's
    heads = ("# Managed by asgi.deploy: ", "{% extends 'etc/")
    assert (REPOSITORY / path).read_text().startswith(heads)
    assert path.split("/templates/")[1].startswith("etc/")
    # a date or a run's name would make every run a change
    assert not re.search(
        r"ansible_date_time|ansible_managed|now\(", (REPOSITORY / path).read_text()
    )


def test_nothing_is_downloaded_in_check_mode() -> None:
    """The directory that it would come to is not there, and get_url fails."""
    found = [
        task
        for role in ROLES
        for _path, task in role_tasks(role)
        if module_of(task) == "ansible.builtin.get_url"
    ]
    assert found
    for task in found:
        assert "not ansible_check_mode" in task["when"], task["name"]
