"""What users set, from the least to nearly everything."""

from __future__ import annotations

from typing import Any

MINIMAL: dict[str, Any] = {
    "asgi_app_name": "blog",
    "asgi_app_source": {"path": "/src/blog"},
    "asgi_app_entrypoint": "blog.main:app",
    # what the role app has found out
    "asgi_app_release": "1.0.0-3f2a9c81b0d4",
    "asgi_proxy_domains": ["blog.test"],
    "asgi_migrate_command": "alembic upgrade head",
}
FULL: dict[str, Any] = {
    **MINIMAL,
    "asgi_app_name": "my-app",
    "asgi_app_root": "/data/my-app",
    "asgi_app_user": "web",
    "asgi_app_entrypoint": "my.app:create",
    "asgi_app_factory": True,
    "asgi_service_server_arguments": ["--header", "X-Load: 50% of $HOME", "--limit-concurrency", 9],
    "asgi_service_root_path": "/blog",
    "asgi_service_log_level": "debug",
    "asgi_service_instances": 3,
    "asgi_service_memory_max": "256M",
    "asgi_service_memory_total": "4G",
    "asgi_service_restart_seconds": 0.5,
    "asgi_service_start_limit_burst": 5,
    "asgi_service_start_limit_interval_seconds": 60,
    "asgi_service_on_failure_unit": "alert@%n.service",
    "asgi_service_recycle_memory": "200M",
    "asgi_service_recycle_age_seconds": 86400,
    "asgi_service_watch_hung": True,
    "asgi_service_after": [],
    "asgi_service_processes": [
        {"name": "worker", "command": "taskiq worker my.app:broker --name '100%'", "count": 2},
    ],
    "asgi_service_timers": [
        {"name": "cleanup", "command": "my-cleanup", "calendar": "*-*-* 04:00"},
    ],
    "asgi_service_graceful_timeout_seconds": 60,
    "asgi_service_outbound_network": False,
    "asgi_service_jit": True,
    "asgi_service_full_proc": True,
    "asgi_service_devices": ["/dev/nvidia0", "char-drm"],
    "asgi_service_writable_paths": ["/data/media", "/data/index"],
    "asgi_service_socket_group": "haproxy",
    "asgi_app_credentials": {"signing.pem": "/etc/ssl/my-app.pem", "api": "/root/api"},
    "asgi_migrate_command": "python -m manage migrate --at '100% done'",
    "asgi_migrate_timeout_seconds": 30,
    "asgi_migrate_memory_max": "1G",
    "asgi_migrate_advisory_lock": "shop-database",
    "asgi_migrate_database_url_variable": "SHOP_URL",
}
#: As users of an INI inventory or `--extra-vars key=value` have them: everything is text.
TEXT: dict[str, Any] = {
    **MINIMAL,
    "asgi_app_factory": "false",
    "asgi_service_instances": "2",
    "asgi_service_graceful_timeout_seconds": "20",
    "asgi_service_outbound_network": "true",
    "asgi_migrate_timeout_seconds": "600",
    "asgi_service_jit": "false",
    "asgi_service_full_proc": "no",
    "asgi_service_watch_hung": "no",
    "asgi_service_recycle_age_seconds": "0",
    "asgi_proxy_hsts_max_age_seconds": "0",
}
SCENARIOS = {"minimal": MINIMAL, "full": FULL, "text": TEXT}

CERTIFICATES: dict[str, dict[str, Any]] = {
    "internal": {"asgi_proxy_certificate": "internal"},
    "acme": {"asgi_proxy_domains": ["blog.example.com", "www.example.com"]},
    "acme with an account": {
        "asgi_proxy_domains": ["blog.example.com"],
        "asgi_proxy_acme_email": "ops@example.com",
    },
    "acme of a company": {
        "asgi_proxy_certificate": "acme",
        "asgi_proxy_acme_email": "ops@example.com",
        "asgi_proxy_acme_directory_url": "https://ca.example.com/acme/directory",
        "asgi_proxy_acme_ca_file": "/etc/ssl/company.pem",
        "asgi_proxy_acme_eab_key_id": "key-1",
        "asgi_proxy_acme_eab_mac_key": "bWFjLWtleQ",
    },
    "acme without an address": {
        "asgi_proxy_certificate": "acme",
        "asgi_proxy_acme_directory_url": "https://ca.example.com/acme/directory",
    },
    "acme by the port of http": {
        "asgi_proxy_domains": ["blog.example.com"],
        "asgi_proxy_acme_challenge": "http-01",
    },
    "acme of a company by the port of https": {
        "asgi_proxy_certificate": "acme",
        "asgi_proxy_acme_email": "ops@example.com",
        "asgi_proxy_acme_directory_url": "https://ca.example.com/acme/directory",
        "asgi_proxy_acme_ca_file": "/etc/ssl/company.pem",
        "asgi_proxy_acme_eab_key_id": "key-1",
        "asgi_proxy_acme_eab_mac_key": "bWFjLWtleQ",
        "asgi_proxy_acme_challenge": "tls-alpn-01",
    },
    "files": {
        "asgi_proxy_certificate": "files",
        "asgi_proxy_certificate_file": "/etc/ssl/blog.pem",
        "asgi_proxy_certificate_key_file": "/etc/ssl/blog.key",
    },
}
#: What makes a balancer of a host.
BALANCER: dict[str, Any] = {
    "asgi_proxy_upstreams": ["web1.example.com", "10.0.0.2:8443", "[2001:db8::1]"],
    "asgi_proxy_upstream_ca_file": "/etc/ssl/web.pem",
}
SITES: dict[str, dict[str, Any]] = {
    "plain": {},
    "three instances": {"asgi_service_instances": 3},
    "without compression": {"asgi_proxy_compression": []},
    "other ports and limits": {
        "asgi_proxy_https_port": 8443,
        "asgi_proxy_http_port": 8080,
        "asgi_proxy_request_body_max": "2GB",
        "asgi_proxy_request_header_max": "16KB",
        "asgi_proxy_upstream_timeout_seconds": 5,
        "asgi_proxy_hsts_max_age_seconds": 0,
    },
}
#: Everything about traffic that Caddy has, whichever it is.
TRAFFIC: dict[str, Any] = {
    "asgi_proxy_redirect_domains": ["www.blog.test"],
    "asgi_proxy_static": {"/static": "staticfiles", "/assets/img": "web/img"},
    "asgi_proxy_allow": ["10.0.0.0/8"],
    "asgi_proxy_basic_auth": {"ann": f"$2y$10${'a' * 53}"},
    "asgi_proxy_response_headers": {"X-Team": 'blue "1" \\', "X-Gone": ""},
    "asgi_proxy_http3": False,
    "asgi_proxy_access_log": True,
    "asgi_proxy_metrics_address": "127.0.0.1:9100",
    "asgi_proxy_snippet": "@old path /old\nredir @old /new\n",
}
SITES["all traffic"] = TRAFFIC
#: Sites that share addresses with the one of SHARING or do not: the variable and the address that
#: are named, empty where nothing is shared.
SHARED_ADDRESSES: dict[str, tuple[dict[str, Any], str, str]] = {
    "the same domain": (
        {"asgi_proxy_domains": ["other.test", "a.test"]},
        "asgi_proxy_domains",
        "a.test",
    ),
    "in other letters": ({"asgi_proxy_domains": ["A.Test"]}, "asgi_proxy_domains", "a.test"),
    "the same wildcard": ({"asgi_proxy_domains": ["*.c.test"]}, "asgi_proxy_domains", "*.c.test"),
    "a domain that is sent on": (
        {"asgi_proxy_domains": ["b.test"]},
        "asgi_proxy_domains",
        "b.test",
    ),
    "sent on, too": (
        {"asgi_proxy_domains": ["x.test"], "asgi_proxy_redirect_domains": ["b.test"]},
        "asgi_proxy_redirect_domains",
        "b.test",
    ),
    "sent on from a domain": (
        {"asgi_proxy_domains": ["x.test"], "asgi_proxy_redirect_domains": ["a.test"]},
        "asgi_proxy_redirect_domains",
        "a.test",
    ),
    "another domain": ({"asgi_proxy_domains": ["sub.a.test", "test"]}, "", ""),
    "a path": ({"asgi_proxy_domains": ["a.test"], "asgi_proxy_path": "/shop"}, "", ""),
    "a name beside a wildcard": ({"asgi_proxy_domains": ["x.c.test"]}, "", ""),
}
SHARING: dict[str, Any] = {
    "asgi_proxy_domains": ["a.test", "*.c.test"],
    "asgi_proxy_redirect_domains": ["b.test"],
}
#: With Traefik, as far as it differs.
TRAEFIK: dict[str, Any] = {
    **MINIMAL,
    "asgi_proxy_provider": "traefik",
    "asgi_proxy_certificate": "files",
    "asgi_proxy_certificate_file": "/etc/ssl/blog.pem",
    "asgi_proxy_certificate_key_file": "/etc/ssl/blog.key",
    "asgi_proxy_traefik_source": "/src/traefik",
    "asgi_proxy_traefik_checksum": f"sha256:{'a1' * 32}",
}
