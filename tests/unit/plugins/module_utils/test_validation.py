"""Every refusal names the variable, and none shows a secret."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.asgi.deploy.plugins.filter import deploy
from ansible_collections.asgi.deploy.plugins.module_utils import validation
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError

SECRET = "s3cret-value"

APP: dict[str, Any] = {
    "asgi_app_name": "blog",
    "asgi_app_source": {"path": "../blog"},
    "asgi_app_entrypoint": "blog.main:app",
    "asgi_app_root": "/srv/blog",
    "asgi_app_cache_dir": "/var/cache/asgi/blog",
    "asgi_app_directory": ".",
    "asgi_app_environment": {"DATABASE_URL": "postgresql://db/blog"},
    "asgi_app_secrets": {"SECRET_KEY": SECRET},
    "asgi_app_index": {"url": "https://pypi.example.com", "username": "u", "password": SECRET},
    "asgi_app_extra_indexes": [],
    "asgi_app_keep_releases": 5,
    "asgi_app_python": "python3",
    "asgi_app_groups": [],
    "asgi_app_package": "",
    "asgi_app_requirements_files": [],
    "asgi_app_credentials": {"signing.pem": "/etc/ssl/blog.pem"},
    "asgi_app_build_commands": ["python manage.py collectstatic --noinput"],
    "asgi_app_build_memory_max": "75%",
}
SERVICE: dict[str, Any] = {
    "asgi_service_server": "uvicorn",
    "asgi_service_server_arguments": ["--limit-concurrency", 100],
    "asgi_service_root_path": "/blog",
    "asgi_service_log_level": "info",
    "asgi_service_lifespan": True,
    "asgi_service_instances": 2,
    "asgi_service_port": 20000,
    "asgi_proxy_provider": "caddy",
    "asgi_proxy_upstreams": [],
    "asgi_service_memory_max": "256M",
    "asgi_service_memory_total": "2G",
    "asgi_service_on_failure_unit": "alert@%n.service",
    "asgi_service_recycle_memory": "10M",
    "asgi_service_recycle_age_seconds": 86400,
    "asgi_service_recycle_requests": 10000,
    "asgi_service_recycle_pause_seconds": 60,
    "asgi_service_watch_interval_seconds": 10,
    "asgi_service_watch_checks": 3,
    "asgi_service_health_path": "/health",
    "asgi_service_health_host": "blog.example.com",
    "asgi_service_health_statuses": ["200-399"],
    "asgi_service_health_timeout_seconds": 60,
    "asgi_service_settle_seconds": 3,
    "asgi_service_drain_seconds": 30,
    "asgi_service_balancer_drain_seconds": 0,
    "asgi_service_graceful_timeout_seconds": 10,
    "asgi_service_restart_seconds": 1,
    "asgi_service_restart_max_seconds": 5,
    "asgi_service_start_limit_burst": 20,
    "asgi_service_start_limit_interval_seconds": 120,
    "asgi_service_devices": [],
    "asgi_service_writable_paths": ["/srv/media"],
}
FINGERPRINT = "A1" * 20
PROXY: dict[str, Any] = {
    "__asgi_proxy_instances": 1,
    "asgi_proxy_provider": "caddy",
    "asgi_proxy_domains": ["blog.example.com", "www.example.com"],
    "asgi_proxy_certificate": "auto",
    "asgi_proxy_certificate_file": "",
    "asgi_proxy_certificate_key_file": "",
    "asgi_proxy_trusted_ca_file": "",
    "asgi_proxy_acme_directory_url": "",
    "asgi_proxy_acme_staging": False,
    "asgi_proxy_acme_lifetime_minutes": 0,
    "asgi_proxy_acme_challenge": "auto",
    "asgi_proxy_acme_dns_provider": "",
    "asgi_proxy_acme_dns_environment": {},
    "asgi_proxy_acme_dns_options": {},
    "asgi_proxy_acme_dns_resolvers": [],
    "asgi_proxy_acme_eab_key_id": "",
    "asgi_proxy_acme_eab_mac_key": "",
    "asgi_proxy_redirect_domains": [],
    "asgi_proxy_path": "",
    "asgi_proxy_static": {},
    "asgi_proxy_static_hashed": "[.-][0-9a-f]{12,}[.]",
    "asgi_proxy_allow": [],
    "asgi_proxy_basic_auth": {},
    "asgi_proxy_rate_limit": 0,
    "asgi_proxy_rate_limit_burst": 50,
    "asgi_proxy_concurrency_limit": 0,
    "asgi_proxy_security_headers": {"X-Content-Type-Options": "nosniff", "Server": ""},
    "asgi_proxy_response_headers": {},
    "asgi_proxy_trusted_proxies": [],
    "asgi_proxy_metrics_address": "",
    "asgi_proxy_snippet": {},
    "asgi_proxy_maintenance_allow": [],
    "asgi_proxy_compression": ["zstd", "gzip"],
    "asgi_proxy_request_body_max": "10MB",
    "asgi_proxy_header_timeout_seconds": 10,
    "asgi_proxy_upstreams": [],
    "asgi_proxy_upstream_server_name": "",
    "asgi_proxy_upstream_ca_file": "",
    "asgi_proxy_upstream_cookie": "",
    "asgi_proxy_upstream_health_path": "/.well-known/asgi-deploy/ready",
    "asgi_proxy_upstream_health_interval_seconds": 1,
    "asgi_proxy_upstream_health_timeout_seconds": 3,
    "asgi_proxy_upstream_eject_seconds": 2,
    "asgi_proxy_caddy_install": "package",
    "asgi_proxy_caddy_source": "",
    "asgi_proxy_caddy_checksum": "",
    "asgi_proxy_caddy_version": "",
    "asgi_proxy_caddy_repository_url": "https://packages.example.com/caddy",
    "asgi_proxy_caddy_repository_key": "https://packages.example.com/caddy.key",
    "asgi_proxy_caddy_repository_fingerprint": FINGERPRINT,
    "asgi_proxy_traefik_install": "archive",
    "asgi_proxy_traefik_source": "",
    "asgi_proxy_traefik_checksum": "",
}
MIGRATE: dict[str, Any] = {
    "asgi_migrate_command": "alembic upgrade head",
    "asgi_migrate_timeout_seconds": 600,
    "asgi_migrate_memory_max": "256M",
    "asgi_migrate_advisory_lock": "",
    "asgi_migrate_database_url_variable": "DATABASE_URL",
    "asgi_app_environment": {},
    "asgi_app_secrets": {},
}
BCRYPT = "$2y$10$" + "a" * 53
CHECKSUM = "sha256:" + "a1" * 32
#: What the same role hands over with Traefik.
TRAEFIK: dict[str, Any] = {
    **PROXY,
    "asgi_proxy_provider": "traefik",
    "asgi_proxy_request_body_max": "",
    "asgi_proxy_header_timeout_seconds": 0,
    "asgi_proxy_upstream_eject_seconds": 0,
    "asgi_proxy_traefik_source": "/src/traefik.tar.gz",
    "asgi_proxy_traefik_checksum": CHECKSUM,
}
CHECKS = {
    "app": (validation.app_problems, APP),
    "service": (validation.service_problems, SERVICE),
    "proxy": (validation.proxy_problems, PROXY),
    "migrate": (validation.migrate_problems, MIGRATE),
}
ARCHIVE = {"archive": "https://example.com/blog-1.4.2.tar.gz", "checksum": CHECKSUM}
INDEX = {"index": "datasette", "version": "0.65.4"}
GIT = {"git": "https://git.example.com/blog.git", "version": "v1"}
SSH = {
    "ssh_key": "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n",
    "ssh_known_hosts": "git.example.com ssh-ed25519 AAAA",
}


def problems(values: dict[str, Any]) -> list[str]:
    """Returns what is wrong when these values take the place of good ones."""
    role = next(iter(values)).split("_")[1]
    check, good = CHECKS[role]
    assert set(values) <= set(good), "a variable that the role does not hand over"
    return check({**good, **values})


@pytest.mark.parametrize("version", ["2.19.1", "2.19.14", "2.20.0", "2.22.0b1", "3.0.0"])
def test_a_controller_that_is_new_enough(version: str) -> None:
    validation.require_ansible(version)


@pytest.mark.parametrize("version", ["2.9.27", "2.18.19", "2.19.0", "2.19.0rc2"])
def test_an_older_controller_is_rejected_with_what_to_install(version: str) -> None:
    with pytest.raises(DeployError, match=rf"this is {version}; .*'ansible-core>=2\.19\.1'"):
        validation.require_ansible(version)


def test_every_filter_rejects_an_older_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ansible itself only warns."""
    monkeypatch.setattr(deploy, "ansible_version", "2.18.19")
    for call in deploy.FilterModule().filters().values():
        with pytest.raises(AnsibleFilterError, match=r"this is 2\.18\.19"):
            call()


@pytest.mark.parametrize("role", CHECKS)
def test_good_values_have_no_problem(role: str) -> None:
    check, good = CHECKS[role]
    assert check(good) == []


@pytest.mark.parametrize(
    "values",
    [
        {"asgi_app_name": "my-app_2"},
        {"asgi_app_name": "a" * 26},
        {"asgi_app_entrypoint": "main:create.app"},
        {"asgi_app_entrypoint": "_a.b_c.d1:App"},
        {"asgi_app_source": GIT},
        {"asgi_app_source": {**GIT, "checkout": "host", "username": "u", "password": SECRET}},
        {"asgi_app_source": {"git": "git@git.example.com:blog.git", "version": "main"}},
        {"asgi_app_source": {"git": "ssh://git@git.example.com/blog.git", "version": "main"}},
        *(
            {"asgi_app_source": {"git": url, "version": "main", **SSH, "checkout": checkout}}
            for url in (
                "git@git.example.com:blog.git",
                "ssh://x/blog.git",
                "git+SSH://x/y",
                "git:x",
            )
            for checkout in ("controller", "host")
        ),
        {"asgi_app_source": {"path": "/src/blog", "include": ["/dist/"], "exclude": ["*.md"]}},
        {"asgi_app_source": {"archive": "../blog.tar.gz"}},
        {"asgi_app_source": {"archive": "../blog@2.zip", "checksum": CHECKSUM}},
        {"asgi_app_source": {**ARCHIVE, "username": "u", "password": SECRET}},
        {"asgi_app_source": {"wheel": "blog-1.4.2-py3-none-any.whl", "lock": "lock.txt"}},
        {"asgi_app_source": INDEX},
        {"asgi_app_source": {**INDEX, "version": "1.0a2.post1+local.1"}},
        {"asgi_app_source": {**INDEX, "requirements": ["uvicorn[standard]==0.54.0"]}},
        {"asgi_app_source": {**INDEX, "files": {"main.py": "", "templates/a.html": "<p>"}}},
        {"asgi_app_directory": "backend/..api"},
        {"asgi_app_environment": {"A": "", "b_2": 3, "C": 1.5, "_D": "x"}},
        # whole names: these only begin like ones that are refused
        {
            "asgi_app_environment": {
                "WEB_CONCURRENCY_LIMIT": "x",
                "ASGI_SLOTS": "x",
                "LISTEN": "x",
                "LD": "x",
            }
        },
        {"asgi_app_secrets": {"GUNICORN_CMD_ARGS_OLD": SECRET, "UVICORN": SECRET}},
        {"asgi_app_root": "/srv/apps/my-blog_2.x"},
        {"asgi_app_root": "/homes/blog", "asgi_app_cache_dir": "/srv/home/blog"},
        {"asgi_app_index": {}},
        {"asgi_app_python": "/opt/python/bin/python3.13"},
        {"asgi_app_python": "3.13"},
        {"asgi_app_package": "my-api"},
        {"asgi_app_requirements_files": ["requirements/production.txt", "../base.txt"]},
        {"asgi_app_requirements_files": ["pylock.prod.toml"]},
        {"asgi_app_build_commands": ["A=1 sh build.sh 'two words'"]},
        {"asgi_app_build_memory_max": "100%"},
        {"asgi_app_build_memory_max": "2G"},
        {"asgi_app_extra_indexes": [{"url": "https://pypi.example.com/simple"}]},
        {"asgi_service_memory_max": "16M"},
        {"asgi_service_devices": ["/dev/nvidia0", "/dev/dri/renderD128", "char-nvidia-uvm"]},
        {"asgi_service_writable_paths": ["/run/app", "/homes/app", "/srv/home", "/data"]},
        # two slots of two instances and a migration, each with 256 MiB
        {"asgi_service_memory_total": "1280M"},
        {"asgi_service_health_path": "/"},
        {"asgi_service_health_path": "/a%20b/gr%C3%B6%C3%9Fe?x=1&y=~"},
        {"asgi_service_health_statuses": ["200-200", "100-599"]},
        {"asgi_service_health_statuses": [200, "404", "500-599"]},
        {"asgi_service_restart_seconds": 0},
        {"asgi_service_restart_seconds": "30", "asgi_service_start_limit_interval_seconds": "601"},
        {"asgi_service_restart_seconds": 60, "asgi_service_start_limit_interval_seconds": 0},
        {"asgi_service_server_arguments": ["--lifespan", "on", "--reloaded"]},
        {"asgi_proxy_domains": ["*.test"]},
        {"asgi_proxy_domains": ["localhost"]},
        {"asgi_proxy_redirect_domains": ["blog.example.org"], "asgi_proxy_path": "/a/b-c"},
        {"asgi_proxy_basic_auth": {"a": BCRYPT}},
        {"asgi_proxy_static": {"/static": "out/static", "/static2": "b"}},
        {"asgi_proxy_static_hashed": ""},
        {"asgi_proxy_allow": ["10.0.0.0/8", "::1"], "asgi_proxy_metrics_address": "[::1]:9100"},
        {"asgi_proxy_maintenance_allow": ["10.1.2.3/8", "private_ranges"]},
        {"asgi_proxy_allow": ["private_ranges"], "asgi_proxy_metrics_address": "10.0.0.5:9100"},
        {"asgi_proxy_response_headers": {"X-A": "a\\b", "X-B": "`"}},
        {"asgi_proxy_provider": "none", "asgi_proxy_domains": []},
        # who says where the certificate comes from may mix names
        *(
            {"asgi_proxy_domains": ["blog.test", "blog.example.com"], **certificate}
            for certificate in [
                {"asgi_proxy_certificate": "acme"},
                {"asgi_proxy_certificate": "internal"},
                {
                    "asgi_proxy_certificate": "files",
                    "asgi_proxy_certificate_file": "/x.pem",
                    "asgi_proxy_certificate_key_file": "/x.key",
                },
            ]
        ),
        {
            "asgi_proxy_certificate": "files",
            "asgi_proxy_domains": ["*.example.com"],
            "asgi_proxy_certificate_file": "/x.pem",
            "asgi_proxy_certificate_key_file": "/x.key",
        },
        {"asgi_proxy_acme_eab_key_id": "id", "asgi_proxy_acme_eab_mac_key": SECRET},
        {"asgi_proxy_acme_staging": True, "asgi_proxy_trusted_ca_file": "/x.pem"},
        {"asgi_proxy_acme_lifetime_minutes": 2},
        {"asgi_proxy_acme_lifetime_minutes": 1440},
        # of an authority that is not asked
        {"asgi_proxy_certificate": "internal", "asgi_proxy_acme_staging": True},
        {
            "asgi_proxy_domains": ["*.example.com"],
            "asgi_proxy_acme_challenge": "dns-01",
            "asgi_proxy_acme_dns_provider": "route53",
            "asgi_proxy_acme_dns_options": {"max_retries": 10, "token": "{env.TOKEN}"},
            "asgi_proxy_acme_dns_resolvers": ["ns1.example.com:53", "[2001:db8::1]:53"],
        },
        {
            "asgi_proxy_caddy_install": "binary",
            "asgi_proxy_caddy_source": "https://example.com/caddy",
            "asgi_proxy_caddy_checksum": CHECKSUM,
        },
        {"asgi_migrate_command": ""},
        {"asgi_migrate_command": "python -m manage migrate --noinput"},
        {"asgi_migrate_command": 'python -m manage migrate --note "it\'s"'},
        {"asgi_migrate_memory_max": "2G"},
        {"asgi_migrate_advisory_lock": "shop-database"},
        {"asgi_migrate_advisory_lock": "shop", "asgi_app_secrets": {"DATABASE_URL": SECRET}},
        {"asgi_migrate_advisory_lock": "shop", "asgi_app_environment": {"DATABASE_URL": "x"}},
        {"asgi_migrate_advisory_lock": "", "asgi_app_environment": {"LANG": "C"}},
    ],
    ids=str,
)
def test_what_is_accepted(values: dict[str, Any]) -> None:
    assert problems(values) == []


#: Paths that a unit file would take for something else.
UNIT_PATHS = [
    "/srv/my blog",
    "/srv/blog ",
    "/srv/a\tb",
    "/srv/blog\n",
    "/srv/50%",
    "/srv/%h",
    '/srv/"blog"',
    "/srv/it's",
    "/srv/a\\b",
    "/srv/$HOME",
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    # --- the app
    *(
        ({"asgi_app_name": name}, "asgi_app_name: ")
        for name in ["", "Blog", "1blog", "a--b", "a-", "bl og", "blög", "a.b", "a" * 27, "a\n"]
    ),
    *(({"asgi_app_name": name}, "asgi_app_name: ") for name in sorted(validation.RESERVED_NAMES)),
    *(
        ({"asgi_app_entrypoint": text}, "asgi_app_entrypoint: ")
        for text in ["", "blog", "blog:", ":app", "blog/main:app", "a.b:c:d", "a:b c", "--x:y"]
    ),
    *(
        ({"asgi_app_source": source}, "asgi_app_source: write exactly one")
        for source in [None, "", {}, "../blog", {"path": ""}, {**GIT, "path": "x"}, {"version": 1}]
    ),
    *(
        ({"asgi_app_source": {**one, **other}}, "asgi_app_source: write exactly one")
        for one, other in itertools.combinations([GIT, ARCHIVE, INDEX, {"wheel": "a.whl"}], 2)
    ),
    ({"asgi_app_source": {"archive": ARCHIVE["archive"]}}, "asgi_app_source.checksum: "),
    ({"asgi_app_source": {"wheel": "https://example.com/a.whl"}}, "asgi_app_source.checksum: "),
    *(
        ({"asgi_app_source": {**ARCHIVE, "checksum": text}}, "asgi_app_source.checksum: ")
        for text in ["a" * 64, "md5:0", CHECKSUM[:-1], CHECKSUM.upper(), 7]
    ),
    *(
        ({"asgi_app_source": {**ARCHIVE, "archive": place}}, "asgi_app_source.archive: ")
        for place in [f"https://u:{SECRET}@example.com/a.zip", "ftp://example.com/a.zip", ["a"]]
    ),
    ({"asgi_app_source": {**ARCHIVE, "files": {}}}, "asgi_app_source.files: is not known"),
    ({"asgi_app_source": {**INDEX, "checksum": CHECKSUM}}, "asgi_app_source.checksum: is not"),
    ({"asgi_app_source": INDEX, "asgi_app_directory": "src"}, "asgi_app_directory: "),
    ({"asgi_app_source": INDEX, "asgi_app_package": "api"}, "asgi_app_package: is for a source"),
    ({"asgi_app_source": INDEX, "asgi_app_groups": ["x"]}, "asgi_app_groups: is for a source"),
    ({"asgi_app_package": "a b"}, "asgi_app_package: 'a b' is no name"),
    ({"asgi_app_requirements_files": "a.txt"}, "asgi_app_requirements_files: write a list"),
    ({"asgi_app_requirements_files": ["/a.txt"]}, "asgi_app_requirements_files: '/a.txt' is no"),
    ({"asgi_app_requirements_files": ["--x.txt"]}, "asgi_app_requirements_files: '--x.txt' is"),
    ({"asgi_app_requirements_files": [""]}, "asgi_app_requirements_files: '' is no path"),
    (
        {"asgi_app_requirements_files": ["a.txt"], "asgi_app_package": "api"},
        "asgi_app_requirements_files: is in place of",
    ),
    *(
        ({"asgi_app_source": {**INDEX, "index": name}}, "asgi_app_source.index: ")
        for name in ["blog==1.0", "blog[extra]", "-r", "../blog", "blog ", "https://example.com/"]
    ),
    *(
        ({"asgi_app_source": {**INDEX, "version": version}}, "asgi_app_source.version: ")
        for version in [None, "", 1.1, ">=1.0", "1.*", "latest", "1.0 --pre", "1.0\n-r x"]
    ),
    *(
        ({"asgi_app_source": {**INDEX, "requirements": more}}, "asgi_app_source.requirements: ")
        for more in ["uvicorn==1.0", ["uvicorn"], ["--pre"], ["uvicorn>=1"], ["a==1\n-r x"], [7]]
    ),
    (
        {"asgi_app_source": {**INDEX, "requirements": ["uvicorn==1.0"], "lock": "lock.txt"}},
        "asgi_app_source.requirements: the lock",
    ),
    *(
        ({"asgi_app_source": {**INDEX, "files": files}}, "asgi_app_source.files: ")
        for files in [
            ["main.py"],
            {"main.py": 7},
            *(
                {name: ""}
                for name in ["/etc/x", "../x", "a/../../x", "a//b", "./a", "", ".", "a b"]
            ),
            *({name: ""} for name in ["requirements.txt", "uv.lock", "pyproject.toml", "a.whl"]),
        ]
    ),
    ({"asgi_app_source": {"path": "x", "version": "v1"}}, "asgi_app_source.version: "),
    ({"asgi_app_source": {**GIT, "exclude": []}}, "asgi_app_source.exclude: "),
    *(
        ({"asgi_app_source": {**GIT, name: text}}, f"asgi_app_source.{name}: is for a URL of SSH")
        for name, text in SSH.items()
    ),
    (
        {"asgi_app_source": {"git": "git@x:y", "version": "v1", "ssh_key": "ssh-ed25519 AAAA"}},
        "asgi_app_source.ssh_key: write the text of a private key",
    ),
    (
        # folded, by > in place of |
        {
            "asgi_app_source": {
                "git": "git@x:y",
                "version": "v1",
                "ssh_key": SSH["ssh_key"].replace("\n", " "),
            }
        },
        "asgi_app_source.ssh_key: write the text of a private key",
    ),
    (
        {"asgi_app_source": {"git": "git@x:y", "version": "v1", "checkout": "host"}},
        "asgi_app_source.ssh_key, ssh_known_hosts: with checkout: host write the text",
    ),
    ({"asgi_app_source": {"path": "/x", "exclude": "data"}}, "asgi_app_source.exclude: "),
    ({"asgi_app_source": {"path": "/x", "include": [""]}}, "asgi_app_source.include: "),
    ({"asgi_app_source": {"path": "/x", "include": ["a\nb"]}}, "asgi_app_source.include: "),
    *(
        ({"asgi_app_source": {"path": "/x", "exclude": wrong}}, "asgi_app_source.exclude: ")
        for wrong in ([1], 5, {"a": "b"})
    ),
    ({"asgi_app_source": {**GIT, "tag": "v1"}}, "asgi_app_source.tag: "),
    ({"asgi_app_source": {**GIT, "version": ""}}, "asgi_app_source.version: "),
    ({"asgi_app_source": {"git": GIT["git"]}}, "asgi_app_source.version: "),
    ({"asgi_app_source": {**GIT, "checkout": "both"}}, "asgi_app_source.checkout: "),
    *(
        ({"asgi_app_source": {**GIT, "git": url}}, "asgi_app_source.git: ")
        for url in [
            f"https://user:{SECRET}@git.example.com/blog.git",
            f"https://{SECRET}@git.example.com/blog.git",
            f"http://user:a@{SECRET}@git.example.com/blog.git",
        ]
    ),
    *(
        ({"asgi_app_directory": text}, "asgi_app_directory: ")
        for text in ["/srv", "..", "../other", "a/../../b"]
    ),
    *(
        ({"asgi_app_root": text}, f"asgi_app_root: {text!r} is not usable")
        for text in ["", "srv/blog", "~/blog", *UNIT_PATHS]
    ),
    *(
        ({variable: text}, f"{variable}: {text} is out of reach")
        for variable in ["asgi_app_root", "asgi_app_cache_dir"]
        for text in ["/home/blog", "//home/blog", "/root", "/tmp/blog", "/var/tmp/x", "/run/blog"]
    ),
    ({"asgi_app_cache_dir": "cache"}, "asgi_app_cache_dir: 'cache' is not usable"),
    *(
        ({"asgi_app_python": path}, f"asgi_app_python: '{path}' is not seen by the app")
        for path in ["/home/deploy/.pyenv/versions/3.12.8/bin/python3", "/root/.local/bin/python"]
    ),
    *(({"asgi_app_keep_releases": n}, "asgi_app_keep_releases: ") for n in [1, 0, -1, "1"]),
    *(
        ({"asgi_app_build_memory_max": size}, "asgi_app_build_memory_max: ")
        for size in ["", "0%", "101%", "75 %", "2 GB", "-1", "infinity"]
    ),
    *(
        ({"asgi_app_credentials": value}, f"asgi_app_credentials: {told}")
        for value, told in [
            (["/etc/ssl/blog.pem"], "write a dictionary"),
            ({"a/b": "/x"}, "'a/b' is not usable"),
            ({"a:b": "/x"}, "'a:b' is not usable"),
            ({"a": "x.pem"}, "'x.pem' is not usable; write an absolute path"),
            ({"a": "/x y"}, "'/x y' is not usable"),
        ]
    ),
    *(
        ({"asgi_app_build_commands": value}, f"asgi_app_build_commands: {told}")
        for value, told in [
            ("make", "write a list"),
            (["make && make install"], "'make && make install' is run without a shell"),
            (["make 'x"], '"make \'x": No closing quotation'),
            ([" "], "an empty command"),
        ]
    ),
    *(
        ({variable: value}, "asgi_app_index, asgi_app_extra_indexes: ")
        for variable, value in [
            ("asgi_app_index", {"url": f"https://u:{SECRET}@pypi.example.com/simple"}),
            ("asgi_app_extra_indexes", [{"url": f"https://{SECRET}@pypi.example.com/simple"}]),
        ]
    ),
    *(
        ({variable: value}, "asgi_app_index, asgi_app_extra_indexes: write {url: ")
        for variable, value in [
            ("asgi_app_index", "https://pypi.example.com/simple"),
            ("asgi_app_index", {"username": "u", "password": SECRET}),
            ("asgi_app_index", {"url": "", "password": SECRET}),
            ("asgi_app_extra_indexes", ["https://pypi.example.com/simple"]),
            ("asgi_app_extra_indexes", [{"url": "https://a.example.com"}, {"password": SECRET}]),
        ]
    ),
    ({"asgi_app_environment": {"SECRET_KEY": "x"}}, "asgi_app_secrets: SECRET_KEY is in"),
    # --- its environment and its secrets: the same rules
    *(
        ({variable: value}, f"{variable}: {told}")
        for variable, (value, told) in itertools.product(
            ["asgi_app_environment", "asgi_app_secrets"],
            [
                ([SECRET], "write a dictionary"),
                (SECRET, "write a dictionary"),
                (None, "write a dictionary"),
                ({"A-B": SECRET}, "'A-B' is not a name"),
                ({"1A": SECRET}, "'1A' is not a name"),
                ({"": SECRET}, "'' is not a name"),
                ({"A=B": SECRET}, "'A=B' is not a name"),
                ({"A": True}, "A must be text"),
                ({"A": None}, "A must be text"),
                ({"A": [SECRET]}, "A must be text"),
                ({"A": {"b": SECRET}}, "A must be text"),
                ({"A": f"{SECRET}\0"}, "A has a character"),
                ({"WEB_CONCURRENCY": SECRET}, "WEB_CONCURRENCY is refused: "),
                ({"UVICORN_RELOAD": SECRET}, "UVICORN_RELOAD is refused: "),
                ({"GRANIAN_WORKERS": SECRET}, "GRANIAN_WORKERS is refused: "),
                ({"GUNICORN_CMD_ARGS": SECRET}, "GUNICORN_CMD_ARGS is refused: "),
                ({"FORWARDED_ALLOW_IPS": SECRET}, "FORWARDED_ALLOW_IPS is refused: "),
                ({"ASGI_RELEASE": SECRET}, "ASGI_RELEASE is refused: "),
                ({"ASGI_SLOT": SECRET}, "ASGI_SLOT is refused: "),
                ({"ASGI_INSTANCE": SECRET}, "ASGI_INSTANCE is refused: "),
                ({"LISTEN_FDS": SECRET}, "LISTEN_FDS is refused: "),
                ({"LISTEN_": SECRET}, "LISTEN_ is refused: "),
            ],
        )
    ),
    # --- the service
    *(({"asgi_service_instances": n}, "asgi_service_instances: ") for n in [0, -1, "0"]),
    *(
        ({variable: size}, f"{variable}: {size!r} is not a size")
        for variable in [
            "asgi_service_memory_max",
            "asgi_service_memory_total",
            "asgi_migrate_memory_max",
        ]
        for size in ["512MB", "half", "", "infinity", "-1G", "1.5G", "50%"]
    ),
    # two slots would fit, a migration beside them would not
    ({"asgi_service_memory_total": "1279M"}, "asgi_service_memory_total: 1279 MiB cannot hold"),
    ({"asgi_service_instances": 4}, "asgi_service_memory_total: 2048 MiB cannot hold two slots"),
    ({"asgi_service_memory_max": "15M"}, "asgi_service_memory_max: "),
    ({"asgi_service_memory_max": "512"}, "asgi_service_memory_max: "),
    *(
        ({"asgi_service_instances": text}, f"asgi_service_instances: {text} is not usable")
        for text in ["many", "1.5", -1, "Auto", ""]
    ),
    *(
        ({"asgi_service_recycle_memory": text}, f"asgi_service_recycle_memory: {told}")
        for text, told in [
            ("256M", "256M is not below asgi_service_memory_max (256M)"),
            ("1G", "1G is not below"),
            ("80%", "'80%' is not a size"),
        ]
    ),
    *(
        ({variable: value}, f"{variable}: ")
        for variable, value in [
            ("asgi_service_recycle_age_seconds", 60),
            ("asgi_service_recycle_age_seconds", -1),
            ("asgi_service_recycle_requests", 999),
            ("asgi_service_recycle_pause_seconds", -1),
            ("asgi_service_watch_interval_seconds", 0.5),
            ("asgi_service_watch_checks", 0),
            ("asgi_service_on_failure_unit", "alert"),
            ("asgi_service_on_failure_unit", "alert.service\nExecStart=/bin/sh"),
            ("asgi_service_on_failure_unit", "one.service two.service"),
        ]
    ),
    *(
        ({"asgi_service_health_path": text}, "asgi_service_health_path: ")
        for text in ["health", "", "https://a.test/", "/a b", "/größe", "/a\n", "/a\r\nX: 1", "/\0"]
    ),
    *(
        ({"asgi_service_health_host": text}, "asgi_service_health_host: a wildcard cannot be asked")
        for text in ["*.example.com", "*"]
    ),
    *(
        ({"asgi_service_health_statuses": [text]}, f"asgi_service_health_statuses: {str(text)!r}")
        for text in ["2xx", "20", "600", "200-", "-399", "200,201", "", 99, "399-200", "201-200"]
    ),
    *(
        ({variable: -1}, f"{variable}: ")
        for variable in [
            "asgi_service_health_timeout_seconds",
            "asgi_service_drain_seconds",
            "asgi_service_balancer_drain_seconds",
            "asgi_service_graceful_timeout_seconds",
            "asgi_service_restart_seconds",
            "asgi_service_restart_max_seconds",
            "asgi_service_start_limit_interval_seconds",
            "asgi_service_settle_seconds",
        ]
    ),
    ({"asgi_service_settle_seconds": 2.9}, "asgi_service_settle_seconds: at least 3"),
    ({"asgi_service_start_limit_burst": 0}, "asgi_service_start_limit_burst: at least 1"),
    *(
        ({variable: 6}, "asgi_service_start_limit_interval_seconds: 20 starts with the pauses")
        for variable in ("asgi_service_restart_seconds", "asgi_service_restart_max_seconds")
    ),
    *(
        (
            {"asgi_service_writable_paths": ["/srv/media", text]},
            f"asgi_service_writable_paths: {told}",
        )
        for text, told in [(text, f"{text!r} is not usable") for text in ["media", "", *UNIT_PATHS]]
    ),
    *(
        (
            {"asgi_service_writable_paths": ["/srv/media", path]},
            f"asgi_service_writable_paths: '{path}' is not seen by the app, whose sandbox has no"
            f" {hidden} of the host",
        )
        for path, hidden in {
            "/home/deploy/uploads": "/home",
            "/root/x": "/root",
            "/var/tmp/x": "/var/tmp",
            "/run/user/1000": "/run/user",
            "/dev": "/dev",
        }.items()
    ),
    *(
        ({"asgi_service_devices": ["/dev/fuse", one]}, f"asgi_service_devices: {one!r} is no")
        for one in ("nvidia", "/srv/x", "char-drm rw", "/dev/a b", "")
    ),
    ({"asgi_service_server_arguments": ["--reload"]}, "asgi_service_server_arguments: --reload"),
    *(
        ({"asgi_service_root_path": path}, "asgi_service_root_path: ")
        for path in ("blog", "/", "/blog/", "/a b", "/a%20b")
    ),
    ({"asgi_service_log_level": "trace"}, "asgi_service_log_level: write one of critical"),
    (
        {"asgi_service_server": "hypercorn", "asgi_service_lifespan": False},
        "asgi_service_lifespan: hypercorn always runs",
    ),
    (
        {"asgi_service_server": "daphne", "asgi_service_lifespan": False},
        "asgi_service_graceful_timeout_seconds: daphne cuts",
    ),
    (
        {"asgi_service_server": "daphne", "asgi_service_graceful_timeout_seconds": 0},
        "asgi_service_lifespan: daphne does not run",
    ),
    # --- traffic
    ({"asgi_proxy_redirect_domains": "a.test"}, "asgi_proxy_redirect_domains: write a list"),
    (
        {"asgi_proxy_redirect_domains": ["Blog.Example.Com"]},
        "asgi_proxy_redirect_domains: 'Blog.Example.Com' is not",
    ),
    ({"asgi_proxy_domains": ["a.test", "A.test"]}, "asgi_proxy_domains: a.test stands there twice"),
    ({"asgi_proxy_redirect_domains": ["a b"]}, "asgi_proxy_redirect_domains: 'a b' is not"),
    (
        {"asgi_proxy_redirect_domains": ["blog.example.com"]},
        "asgi_proxy_redirect_domains: 'blog.example.com' is not",
    ),
    (
        {"asgi_proxy_domains": ["*.test"], "asgi_proxy_redirect_domains": ["a.test"]},
        "asgi_proxy_redirect_domains: nobody can be sent to a wildcard",
    ),
    *(({"asgi_proxy_path": path}, "asgi_proxy_path: ") for path in ["shop", "/", "/a/", "/a b"]),
    *(
        ({f"asgi_proxy_{name}": given}, f"asgi_proxy_{name}: ")
        for name in ["allow", "maintenance_allow"]
        for given in ["10.0.0.0/8", ["10.0.0.1/33"], ["example.com"]]
    ),
    (
        {"asgi_proxy_response_headers": {"X-A": "`\\"}},
        "asgi_proxy_response_headers: the value of 'X-A' has both",
    ),
    ({"asgi_proxy_trusted_proxies": ["10.0.0.1"]}, "asgi_proxy_trusted_proxies: Debian's"),
    ({"asgi_proxy_basic_auth": {"ann": SECRET}}, "asgi_proxy_basic_auth: 'ann' needs"),
    ({"asgi_proxy_basic_auth": {"a:b": BCRYPT}}, "asgi_proxy_basic_auth: 'a:b' needs"),
    ({"asgi_proxy_rate_limit": 5}, "asgi_proxy_rate_limit: Caddy has none"),
    ({"asgi_proxy_concurrency_limit": 5}, "asgi_proxy_concurrency_limit: Caddy has none"),
    ({"asgi_proxy_response_headers": {"X A": "b"}}, "asgi_proxy_response_headers: 'X A'"),
    ({"asgi_proxy_response_headers": {"X-A": "b\nc"}}, "asgi_proxy_response_headers: 'X-A'"),
    *(
        ({"asgi_proxy_metrics_address": given}, "asgi_proxy_metrics_address: ")
        for given in [
            "0.0.0.0:9100",
            "8.8.8.8:9100",
            ":9100",
            "127.0.0.1",
            "localhost:9100",
            "::1:9100",
            "[127.0.0.1]:9100",
            "127.0.0.1]:9100",
            "127.0.0.1: 9100",
            "127.0.0.1:+9100",
            "127.0.0.1:9_100",
            "127.0.0.1:0",
            "127.0.0.1:65536",
            "[::1]:٩٩",
        ]
    ),
    # --- the proxy
    ({"asgi_proxy_domains": []}, "asgi_proxy_domains: write at least one"),
    ({"asgi_proxy_domains": "blog.example.com"}, "asgi_proxy_domains: write a list"),
    ({"asgi_proxy_domains": ""}, "asgi_proxy_domains: write a list"),
    *(
        ({"asgi_proxy_domains": names}, "asgi_proxy_certificate: auto cannot choose")
        for names in [
            ["blog.test", "blog.example.com"],
            ["blog.example.com", "www.example.com", "localhost"],
            ["192.0.2.1", "blog.example.com"],
        ]
    ),
    *(
        ({"asgi_proxy_domains": [name]}, f"asgi_proxy_domains: {name!r} is not a host name")
        for name in [
            "https://blog.example.com",
            "blog.example.com:443",
            "blog.example.com/x",
            "blog_a.test",
            "-a.test",
            "a..test",
            "a b.test",
            "",
            "*",
            "a.*.test",
            "a" * 64 + ".test",
            ".".join(["a" * 60] * 5),
        ]
    ),
    ({"asgi_proxy_domains": ["a.test", "b.test", "a.test"]}, "asgi_proxy_domains: a.test stands"),
    ({"asgi_proxy_domains": ["*.example.com"]}, "asgi_proxy_domains: a wildcard needs"),
    ({"asgi_proxy_certificate": "files"}, "asgi_proxy_certificate: files needs"),
    (
        {"asgi_proxy_certificate": "files", "asgi_proxy_certificate_file": "/x.pem"},
        "asgi_proxy_certificate: files needs",
    ),
    (
        {"asgi_proxy_certificate_key_file": "/x.key"},
        "asgi_proxy_certificate_file, asgi_proxy_certificate_key_file: ",
    ),
    *(
        (
            {"asgi_proxy_domains": ["*.example.com"], "asgi_proxy_acme_challenge": challenge},
            "asgi_proxy_domains: a wildcard needs a DNS challenge",
        )
        for challenge in ["http-01", "tls-alpn-01"]
    ),
    *(
        (
            {
                "asgi_proxy_acme_challenge": "dns-01",
                "asgi_proxy_acme_dns_provider": "cloudflare",
                f"asgi_proxy_acme_dns_{name}": value,
            },
            f"asgi_proxy_acme_dns_{name}: {told}",
        )
        for name, value, told in [
            ("resolvers", ["192.0.2.1:53", "192.0.2.2"], "'192.0.2.2' is not a name server"),
            ("resolvers", ["192.0.2.1:53 }"], "'192.0.2.1:53 }' is not a name server"),
            ("provider", "", "is needed with"),
            ("provider", "cloud flare", "is needed with"),
            ("environment", {"CF_DNS_API_TOKEN": SECRET}, "Caddy's providers have options"),
            ("options", [SECRET], "write a dictionary"),
            ("options", {"api token": SECRET}, "'api token' must be"),
            ("options", {"api_token": f'{SECRET}"'}, "'api_token' must be"),
            ("options", {"api_token": f"{SECRET}\n"}, "'api_token' must be"),
            ("options", {"api_token": [SECRET]}, "'api_token' must be"),
        ]
    ),
    *(
        ({f"asgi_proxy_acme_dns_{name}": value}, f"asgi_proxy_acme_dns_{name}: used with")
        for name, value in [
            ("provider", "cloudflare"),
            ("environment", {"CF_DNS_API_TOKEN": SECRET}),
            ("options", {"api_token": SECRET}),
            ("resolvers", ["192.0.2.1:53"]),
        ]
    ),
    ({"asgi_proxy_acme_staging": True}, "asgi_proxy_acme_staging: nobody trusts"),
    (
        {
            "asgi_proxy_acme_staging": True,
            "asgi_proxy_acme_directory_url": "https://x.test/dir",
            "asgi_proxy_trusted_ca_file": "/x.pem",
        },
        "asgi_proxy_acme_staging: is Let's Encrypt's",
    ),
    *(
        (
            {"asgi_proxy_acme_lifetime_minutes": minutes},
            f"asgi_proxy_acme_lifetime_minutes: {minutes} is not one of 2 to 1440",
        )
        for minutes in [-1, 1, 1441]
    ),
    *(
        ({f"asgi_proxy_acme_eab_{part}": SECRET}, "asgi_proxy_acme_eab_key_id, asgi_proxy_acme_eab")
        for part in ["key_id", "mac_key"]
    ),
    *(
        (
            {
                "asgi_proxy_caddy_install": install,
                "asgi_proxy_caddy_source": "x",
                "asgi_proxy_caddy_checksum": CHECKSUM,
                f"asgi_proxy_caddy_{part}": "",
            },
            f"asgi_proxy_caddy_{part}: is needed with asgi_proxy_caddy_install: {install}",
        )
        for install in ["binary", "archive"]
        for part in ["source", "checksum"]
    ),
    *(
        (
            {
                "asgi_proxy_caddy_install": "binary",
                "asgi_proxy_caddy_source": "x",
                "asgi_proxy_caddy_checksum": checksum,
            },
            "asgi_proxy_caddy_checksum: write sha256:",
        )
        for checksum in ["a1" * 32, "sha256:" + "a1" * 31, "md5:" + "a1" * 16, CHECKSUM.upper()]
    ),
    *(
        (
            {"asgi_proxy_caddy_install": "repository", f"asgi_proxy_caddy_{name}": value},
            f"asgi_proxy_caddy_{name}: {told}",
        )
        for name, value, told in [
            ("version", 2.11, "2.11 is a number in YAML"),
            ("version", "newest", "write a version as apt has it"),
            ("version", "2.7.6", "2.7.6 is too old"),
            ("repository_url", "packages.example.com", "write a URL"),
            ("repository_url", "https://ann:secret@packages.example.com", "write a URL"),
            ("repository_key", "", "write the URL of the key"),
            ("repository_fingerprint", "CA56EA34", "write the 40 hexadecimal digits"),
        ]
    ),
    # --- the migration
    *(({"asgi_migrate_timeout_seconds": n}, "asgi_migrate_timeout_seconds: ") for n in [0, -5]),
    *(
        ({"asgi_migrate_command": f"alembic upgrade {text}"}, f"asgi_migrate_command: No {told}")
        for text, told in [
            ("'head", "closing quotation"),
            ('head --note "x', "closing quotation"),
            ("head \\", "escaped character"),
        ]
    ),
    *(
        ({"asgi_migrate_command": f"alembic upgrade head {text}"}, "asgi_migrate_command: ")
        for text in ["&& true", "| tee x", "; true", "> log", "< in", "`id`"]
    ),
    *(
        ({"asgi_migrate_advisory_lock": name}, "asgi_migrate_advisory_lock: ")
        for name in ["a lock", "-x", "%i", "a" * 65, '"']
    ),
    ({"asgi_migrate_database_url_variable": "MY-URL"}, "asgi_migrate_database_url_variable: "),
    (
        {"asgi_migrate_advisory_lock": "shop", "asgi_app_secrets": {"SHOP_URL": SECRET}},
        "asgi_migrate_database_url_variable: DATABASE_URL is neither in",
    ),
]


@pytest.mark.parametrize(("values", "told"), REFUSED, ids=str)
def test_what_is_refused(values: dict[str, Any], told: str) -> None:
    found = problems(values)
    assert [text for text in found if text.startswith(told)], found
    assert SECRET not in "\n".join(found)


def test_one_mistake_is_told_once() -> None:
    """A second message would send its reader to a place where nothing is wrong."""
    assert [values for values, _told in REFUSED if len(problems(values)) > 1] == []


def test_all_problems_are_told_at_once() -> None:
    found = validation.app_problems(
        {
            **APP,
            "asgi_app_name": "Blog",
            "asgi_app_entrypoint": "blog",
            "asgi_app_source": {},
            "asgi_app_root": "blog",
        }
    )
    assert len(found) == 4


def test_each_wrong_size_is_told_and_no_sum_is_made_of_them() -> None:
    found = problems({"asgi_service_memory_max": "512MB", "asgi_service_memory_total": "lots"})
    assert [text.split(": ")[0] for text in found] == [
        "asgi_service_memory_max",
        "asgi_service_memory_total",
    ]


@pytest.mark.parametrize("instances", [1, 2, "3"])
def test_the_least_total_that_is_told_is_one_that_is_accepted(instances: int | str) -> None:
    few = {"asgi_service_instances": instances, "asgi_service_memory_total": "16M"}
    (told,) = problems(few)
    least = told.rsplit(" ", 1)[1]
    assert least == f"{(2 * int(instances) + 1) * 256}M"
    assert problems({**few, "asgi_service_memory_total": least}) == []


def test_a_migration_needs_as_much_as_python_does() -> None:
    (told,) = problems({"asgi_migrate_memory_max": "512"})
    assert told.startswith("asgi_migrate_memory_max: ")


def test_text_for_a_list_of_indexes_is_one_mistake() -> None:
    (told,) = problems({"asgi_app_extra_indexes": "https://pypi.example.com/simple"})
    assert told.startswith("asgi_app_index, asgi_app_extra_indexes: ")


def test_an_unknown_server_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DeployError, match="asgi_service_server: 'tornado' is not one of uvicorn"):
        problems({"asgi_service_server": "tornado"})


@pytest.mark.parametrize(
    ("domains", "chosen", "kind"),
    [
        (["blog.example.com"], "auto", "acme"),
        (["blog.test"], "auto", "internal"),
        (["localhost"], "auto", "internal"),
        (["a.localhost", "b.internal", "c.home.arpa"], "auto", "internal"),
        (["intranet"], "auto", "internal"),
        (["192.0.2.1"], "auto", "internal"),
        (["blog.test", "blog.example.com"], "auto", "acme"),
        (["latest"], "auto", "internal"),
        (["my.contest"], "auto", "acme"),
        (["blog.test"], "acme", "acme"),
        (["blog.example.com"], "internal", "internal"),
        (["blog.example.com"], "files", "files"),
    ],
)
def test_certificate_kind(domains: list[str], chosen: str, kind: str) -> None:
    assert validation.certificate_kind(domains, chosen) == kind


def test_a_configuration_is_checked_without_the_rest_of_the_app() -> None:
    """For restart, which takes environment and secrets alone."""
    found = validation.configuration_problems({"UVICORN_PORT": "1", "A": "1"}, {"A": "hidden"})
    assert len(found) == 2
    assert "asgi_app_environment: UVICORN_PORT is refused" in found[0]
    assert "asgi_app_secrets: A is in asgi_app_environment too" in found[1]
    assert "hidden" not in " ".join(found)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"asgi_proxy_compression": ["br", "zstd", "gzip"]},
        {"asgi_proxy_compression": []},
        {"asgi_proxy_traefik_install": "binary"},
        {
            "asgi_proxy_domains": ["*.test"],
            "asgi_proxy_certificate": "files",
            "asgi_proxy_certificate_file": "/x.pem",
            "asgi_proxy_certificate_key_file": "/x.key",
        },
        # what is Caddy's own is not looked at
        {"asgi_proxy_caddy_install": "binary"},
        {
            "asgi_proxy_domains": ["*.example.com", "example.com"],
            "asgi_proxy_acme_challenge": "dns-01",
            "asgi_proxy_acme_dns_provider": "cloudflare",
            "asgi_proxy_acme_dns_environment": {"CF_DNS_API_TOKEN": SECRET},
            "asgi_proxy_acme_dns_resolvers": ["192.0.2.1:53"],
        },
    ],
)
def test_what_traefik_can_do_is_accepted(values: dict[str, Any]) -> None:
    assert validation.proxy_problems({**TRAEFIK, **values}) == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"asgi_proxy_certificate": "internal"},
            "asgi_proxy_certificate: Traefik has no authority",
        ),
        ({"asgi_proxy_domains": ["blog.test"]}, "asgi_proxy_certificate: Traefik has no authority"),
        ({"asgi_proxy_request_body_max": "10MB"}, "asgi_proxy_request_body_max: Traefik limits"),
        (
            {"asgi_proxy_header_timeout_seconds": "10"},
            "asgi_proxy_header_timeout_seconds: Traefik has one limit",
        ),
        ({"asgi_proxy_compression": ["deflate"]}, "asgi_proxy_compression: traefik does not have"),
        ({"asgi_proxy_acme_challenge": "dns-01"}, "asgi_proxy_acme_dns_provider: is needed"),
        (
            {
                "asgi_proxy_acme_challenge": "dns-01",
                "asgi_proxy_acme_dns_provider": "cloudflare",
                "asgi_proxy_acme_dns_options": {"api_token": SECRET},
            },
            "asgi_proxy_acme_dns_options: Traefik's providers read the environment",
        ),
        (
            {
                "asgi_proxy_acme_challenge": "dns-01",
                "asgi_proxy_acme_dns_provider": "cloudflare",
                "asgi_proxy_acme_dns_environment": {"a token": SECRET},
            },
            "asgi_proxy_acme_dns_environment: 'a token' is not a name",
        ),
        ({"asgi_proxy_traefik_source": ""}, "asgi_proxy_traefik_source: is needed"),
        ({"asgi_proxy_traefik_checksum": ""}, "asgi_proxy_traefik_checksum: is needed"),
        ({"asgi_proxy_traefik_checksum": "x"}, "asgi_proxy_traefik_checksum: write sha256:"),
    ],
)
def test_what_traefik_cannot_do_is_refused_by_name(values: dict[str, Any], told: str) -> None:
    (problem,) = validation.proxy_problems({**TRAEFIK, **values})
    assert problem.startswith(told)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"asgi_proxy_compression": ["br"]}, "asgi_proxy_compression: caddy does not have 'br'"),
        ({"asgi_proxy_request_body_max": ""}, "asgi_proxy_request_body_max, "),
        ({"asgi_proxy_header_timeout_seconds": 0}, "asgi_proxy_request_body_max, "),
        ({"asgi_service_instances": 251}, "asgi_service_instances: 251 is not usable"),
        ({"asgi_service_port": 1023}, "asgi_service_port: "),
        ({"asgi_service_port": "32767"}, "asgi_service_port: "),
    ],
)
def test_what_caddy_cannot_do_and_ports_that_cannot_be_are_refused(
    values: dict[str, Any], told: str
) -> None:
    assert [problem for problem in problems(values) if problem.startswith(told)]


@pytest.mark.parametrize("name", ["granian", "daphne"])
def test_a_server_that_traefik_cannot_ask_is_refused(name: str) -> None:
    values = {
        "asgi_service_server": name,
        "asgi_service_server_arguments": [],
        "asgi_service_lifespan": name != "daphne",
        "asgi_service_graceful_timeout_seconds": 0 if name == "daphne" else 10,
    }
    assert problems(values) == []
    (problem,) = problems({**values, "asgi_proxy_provider": "traefik"})
    assert problem.startswith(f"asgi_service_server: {name} makes a unix socket itself")
    assert "uvicorn, hypercorn, gunicorn, gunicorn-uvicorn" in problem


@pytest.mark.parametrize(
    ("static", "told"),
    [
        ("/static", "write a dictionary"),
        *(
            ({url: "out"}, f"{url!r} is not usable; write a path")
            for url in ["/", "static", "/static/", "/a b", "/a/../b", "/{env.X}", ""]
        ),
        *(
            ({"/static": path}, f"{path!r} is not usable; write a directory")
            for path in [".", "", "..", "a/../b", "/etc", ".git", "a/.hidden", "a//b", "./a", "a/"]
        ),
        ({"/static": "a", "/static/img": "b"}, "'/static/img' is below another one"),
    ],
)
def test_static_files_that_nobody_should_serve_are_refused(static: object, told: str) -> None:
    (problem,) = problems({"asgi_proxy_static": static})
    assert problem.startswith(f"asgi_proxy_static: {told}")


def test_static_files_without_a_proxy_that_serves_them_are_refused() -> None:
    (problem,) = problems({"asgi_proxy_static_hashed": "("})
    assert problem.startswith("asgi_proxy_static_hashed: '(' is no regular expression: ")
    given = {"asgi_proxy_static": {"/static": "a", "/img": "b"}}
    (problem,) = validation.proxy_problems({**TRAEFIK, **given})
    assert problem.startswith("asgi_proxy_static: Traefik serves no files; let the app serve them")
    (problem,) = problems({**given, "asgi_proxy_provider": "none"})
    assert problem.startswith("asgi_proxy_static: there is no proxy of ours; ")


def test_traefik_has_no_name_for_all_private_networks() -> None:
    told = validation.proxy_problems({**TRAEFIK, "asgi_proxy_allow": ["private_ranges"]})
    assert [one.split(" is neither")[0] for one in told] == ["asgi_proxy_allow: 'private_ranges'"]


UPSTREAMS = {"asgi_proxy_upstreams": ["web1.example.com", "10.0.0.2:8443", "[2001:db8::1]:443"]}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"asgi_proxy_upstream_cookie": "host"},
        {"asgi_proxy_upstream_ca_file": "/etc/ssl/web.pem"},
        {"asgi_proxy_upstreams": ["web1", "[2001:db8::1]"]},
        {
            "asgi_proxy_domains": ["*.example.com"],
            "asgi_proxy_certificate": "files",
            "asgi_proxy_certificate_file": "/x.pem",
            "asgi_proxy_certificate_key_file": "/x.key",
            "asgi_proxy_upstream_server_name": "web.example.com",
        },
    ],
)
@pytest.mark.parametrize("provider", [PROXY, TRAEFIK])
def test_a_balancer_is_accepted(provider: dict[str, Any], values: dict[str, Any]) -> None:
    assert validation.proxy_problems({**provider, **UPSTREAMS, **values}) == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"asgi_proxy_upstreams": "web1"}, "asgi_proxy_upstreams: write a list"),
        *(
            ({"asgi_proxy_upstreams": [text]}, f"asgi_proxy_upstreams: {text!r} is neither")
            for text in [
                "http://web1",
                "https://web1",
                "web1:",
                "web1:0",
                "web1:70000",
                "2001:db8::1",
                "web 1",
                "web1/path",
                "unix//run/x",
                "",
            ]
        ),
        ({"asgi_proxy_upstreams": ["a", "a"]}, "asgi_proxy_upstreams: a host stands there twice"),
        (
            {"asgi_proxy_upstream_server_name": "*.example.com"},
            "asgi_proxy_upstream_server_name: '*.example.com' cannot be asked for",
        ),
        ({"asgi_proxy_upstream_ca_file": "web.pem"}, "asgi_proxy_upstream_ca_file: 'web.pem'"),
        *(
            ({"asgi_proxy_upstream_health_path": text}, "asgi_proxy_upstream_health_path: write")
            for text in ["ready", "", "/a b", "/{x}", '/"']
        ),
        *(
            ({"asgi_proxy_upstream_cookie": text}, f"asgi_proxy_upstream_cookie: {text!r}")
            for text in ["a b", "a;b", "a=b", "{x}"]
        ),
        *(
            ({f"asgi_proxy_upstream_{part}_seconds": 0}, f"asgi_proxy_upstream_{part}_seconds: at")
            for part in ["health_interval", "health_timeout"]
        ),
    ],
)
@pytest.mark.parametrize("provider", [PROXY, TRAEFIK])
def test_what_a_balancer_cannot_do_is_refused(
    provider: dict[str, Any], values: dict[str, Any], told: str
) -> None:
    (found,) = validation.proxy_problems({**provider, **UPSTREAMS, **values})
    assert found.startswith(told)


@pytest.mark.parametrize(
    ("provider", "seconds", "told"),
    [(PROXY, 0, "at least 1"), (TRAEFIK, 2, "Traefik takes a status 500 of the app")],
)
def test_a_host_is_ejected_where_the_proxy_can_tell_it_from_an_app_that_fails(
    provider: dict[str, Any], seconds: int, told: str
) -> None:
    values = {**provider, **UPSTREAMS, "asgi_proxy_upstream_eject_seconds": seconds}
    (found,) = validation.proxy_problems(values)
    assert found.startswith(f"asgi_proxy_upstream_eject_seconds: {told}")


def test_a_balancer_has_app_hosts_and_is_none_of_them() -> None:
    good = {**PROXY, **UPSTREAMS, "host": "front", "app_hosts": ["web1", "web2"]}
    assert validation.balancer_problems(good) == []
    bad = {"asgi_proxy_upstreams": [], "asgi_proxy_provider": "none", "host": "web2"}
    found = validation.balancer_problems({**good, **bad})
    assert [text.split(":")[0] for text in found] == [
        "asgi_proxy_provider",
        "asgi_proxy_upstreams",
        "asgi_balancers",
    ]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (UPSTREAMS, "asgi_proxy_upstreams: this host runs the app"),
    ],
)
def test_what_an_app_host_cannot_be_to_a_balancer_is_refused(
    values: dict[str, Any], told: str
) -> None:
    (found,) = validation.service_problems({**SERVICE, **values})
    assert found.startswith(told)
