#!/bin/sh
# Makes a signed repository of packages of Caddy, as Caddy's own has them, and serves it on this host.
#
#   make.sh DIRECTORY VERSION...    a program of each version is there as DIRECTORY/caddy-VERSION
#
# Writes DIRECTORY/key.asc and prints its fingerprint.
set -eu
directory=$1
shift
export DEBIAN_FRONTEND=noninteractive GNUPGHOME="$directory/gnupg"
apt-get install -q -y --no-install-recommends gnupg apt-utils >&2

install -d -m 0700 "$GNUPGHOME"
gpg --batch --quiet --passphrase '' --quick-generate-key 'Packages <packages@example.com>' >&2
gpg --armor --export > "$directory/key.asc"

cd "$directory"
for version in "$@"; do
  root="build/$version"
  mkdir -p "$root/DEBIAN" "$root/usr/bin" "$root/etc/caddy" "$root/lib/systemd/system"
  install -m 0755 "caddy-$version" "$root/usr/bin/caddy"
  # the first line of the packaged file is known by it
  printf '%s\n' '# The Caddyfile is an easy way to configure your Caddy web server.' ':80 {' '}' \
    > "$root/etc/caddy/Caddyfile"
  printf '%s\n' '[Service]' 'Type=notify' 'User=caddy' \
    'ExecStart=/usr/bin/caddy run --config /etc/caddy/Caddyfile' '[Install]' 'WantedBy=multi-user.target' \
    > "$root/lib/systemd/system/caddy.service"
  echo /etc/caddy/Caddyfile > "$root/DEBIAN/conffiles"
  printf '%s\n' 'Package: caddy' "Version: $version" "Architecture: $(dpkg --print-architecture)" \
    'Maintainer: Packages <packages@example.com>' 'Description: web server' > "$root/DEBIAN/control"
  cat > "$root/DEBIAN/postinst" <<'POSTINST'
#!/bin/sh
set -e
getent passwd caddy > /dev/null || useradd --system --user-group --home-dir /var/lib/caddy --create-home \
  --shell /usr/sbin/nologin caddy
deb-systemd-helper enable caddy.service > /dev/null || true
systemctl --system daemon-reload
deb-systemd-invoke restart caddy.service
POSTINST
  chmod 0755 "$root/DEBIAN/postinst"
  mkdir -p pool
  # the programs are large, and read once
  dpkg-deb --build --root-owner-group -Znone "$root" "pool/caddy_$version.deb" >&2
done

suite=dists/any-version
mkdir -p "$suite/main/binary-$(dpkg --print-architecture)"
apt-ftparchive packages pool > "$suite/main/binary-$(dpkg --print-architecture)/Packages"
apt-ftparchive -o APT::FTPArchive::Release::Suite=any-version \
  -o APT::FTPArchive::Release::Components=main \
  -o "APT::FTPArchive::Release::Architectures=$(dpkg --print-architecture)" release "$suite" > Release
mv Release "$suite/Release"
gpg --batch --quiet --clearsign --output "$suite/InRelease" "$suite/Release"
systemd-run --quiet --unit=packages python3 -m http.server --directory "$directory" --bind 127.0.0.1 8600
gpg --with-colons --list-keys | awk -F: '$1 == "fpr" { print $10; exit }'
