#!/bin/sh
# Make this checkout ready to work with: `.venv` with the tools that pyproject.toml names.
#
#   tools/bootstrap.sh          for lint, unit tests and running the playbooks
#   tools/bootstrap.sh --lab    also what tools/lab.py needs to start test hosts
#   tools/bootstrap.sh --tests  also what the unit tests start: PostgreSQL, systemd-analyze
#
# Quick and silent when nothing is to be done. Nothing is installed into the system's Python; only
# missing Debian packages are, which takes root or sudo.
set -eu
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9
# The newest Python gets the newest ansible-core.
PYTHON_VERSIONS="3.14 3.13 3.12 3.11"
LAB_PACKAGES="podman runc conmon netavark aardvark-dns iptables mmdebstrap debian-archive-keyring iproute2"
LAB_PROGRAMS="podman conmon mmdebstrap ip"
TEST_PACKAGES="postgresql systemd procps"
TEST_PROGRAMS="pg_ctl systemd-analyze pgrep"

say() { echo "bootstrap: $*"; }
fail() { echo "bootstrap: $*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
# Messages go to a log that is shown only if the step fails.
quietly() {
    "$@" >.cache/bootstrap.log 2>&1 || { cat .cache/bootstrap.log >&2; fail "failed: $*"; }
}

packages= programs=
for option in "$@"; do
    case "$option" in
        --lab) packages="$packages $LAB_PACKAGES" programs="$programs $LAB_PROGRAMS" ;;
        --tests) packages="$packages $TEST_PACKAGES" programs="$programs $TEST_PROGRAMS" ;;
        *) fail "usage: tools/bootstrap.sh [--lab] [--tests]" ;;
    esac
done
mkdir -p .cache

# --- packages of the system -----------------------------------------------------------------------

has python3 || fail "python3 is missing"
wanted=
python3 -c 'import ensurepip, venv' 2>/dev/null || wanted="$wanted python3-venv"
has ssh || wanted="$wanted openssh-client"
has openssl || wanted="$wanted openssl"
if has dpkg-query && has apt-get; then
    missing=
    for package in $wanted $packages; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            missing="$missing $package"
    done
    if [ -n "$missing" ]; then
        say "installing packages:$missing"
        # In a session of its own: whoever interrupts us must not leave dpkg half done.
        apt_get="env -u ANSIBLE_SSH_CONTROL_PATH_DIR DEBIAN_FRONTEND=noninteractive
            setsid --wait apt-get -q -o DPkg::Lock::Timeout=300"
        # shellcheck disable=SC2086  # lists of words
        quietly as_root $apt_get update
        # shellcheck disable=SC2086
        quietly as_root $apt_get install -y --no-install-recommends $missing
    fi
else
    for program in $programs; do
        has "$program" || wanted="$wanted $program"
    done
    [ -z "$wanted" ] || fail "please install (Debian's names):$wanted"
fi

# --- the Python environment -----------------------------------------------------------------------

# Programs that bring certificate authorities of their own would not know a company's.
if [ -z "${SSL_CERT_FILE-}" ] && [ -e /etc/ssl/certs/ca-certificates.crt ]; then
    export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
fi
export UV_PYTHON_DOWNLOADS=never
uv=.cache/uv/bin/uv

# Print the path of a working Python of the given version. A name in the PATH proves nothing: pyenv
# puts one there for every version, and most of them refuse to run.
find_python() {
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python3 \
        "$($uv python find --no-project "$1" 2>/dev/null)"; do
        [ -n "$candidate" ] || continue
        "$candidate" -c "import sys
if '%d.%d' % sys.version_info[:2] != '$1': sys.exit(1)
print(sys.executable)" 2>/dev/null && return
    done
    return 1
}

# In an installed collection the plugins have names below ansible_collections; here this link gives
# them the same, for the unit tests, mypy, and Ansible itself (ANSIBLE_COLLECTIONS_PATH=.cache).
link=.cache/ansible_collections/asgi/deploy
if [ ! -L $link ]; then
    mkdir -p "${link%/*}"
    ln -s ../../.. $link
fi

stamp=$(cat pyproject.toml uv.lock tools/bootstrap.sh | sha256sum)
if [ "$(cat .cache/bootstrap.stamp 2>/dev/null)" = "$stamp" ] && .venv/bin/python -c '' 2>/dev/null
then
    exit 0
fi

if ! "$uv" --version 2>/dev/null | grep -q "^uv $UV_VERSION\b"; then
    say "installing uv $UV_VERSION into .cache/uv"
    quietly python3 -m venv --clear .cache/uv
    quietly .cache/uv/bin/python -m pip install -q --disable-pip-version-check "uv==$UV_VERSION"
fi

for version in $PYTHON_VERSIONS; do
    python=$(find_python "$version") && break
done
[ -n "$python" ] || fail "Python 3.11 or newer is missing"
# uv makes the environment anew by itself if it was made with another Python.
say "installing the tools into .venv with $python"
quietly "$uv" sync --quiet --frozen --no-progress --compile-bytecode --python "$python"
echo "$stamp" >.cache/bootstrap.stamp
