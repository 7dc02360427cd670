#!/usr/bin/env bash
# Installs what is missing on this machine, or says what to type.
# usage: tools/prerequisites.sh build|test
#   build: what `make run` needs; test: what the tests and checks need besides.
set -euo pipefail
# shellcheck source=tools/place.sh
. "$(dirname "$0")/place.sh"

has_postgres() {
    local bin
    for bin in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
        /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
        [ -x "$bin/postgres" ] && [ -x "$bin/initdb" ] && return 0
    done
    has pg_config && [ -x "$(pg_config --bindir)/postgres" ]
}

# Debian's packages that are missing, one a line.
missing() {
    has cc || echo gcc libc6-dev
    # The validation rules' crate calls it while it is built.
    has protoc || echo protobuf-compiler
    has_postgres || echo postgresql
    has psql || echo postgresql-client
    [ "$1" = test ] || return 0
    has shellcheck || echo shellcheck
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3 python3-venv
    has git || echo git
}

install_with_apt() {
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y --no-install-recommends)
    is_root || apt=(sudo -n "${apt[@]}")
    "${apt[@]}" update
    if [[ " $* " == *" postgresql "* ]] && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        # Debian would make and start a cluster of its own, on port 5432.
        "${apt[@]}" install postgresql-common
        local write=(tee -a /etc/postgresql-common/createcluster.conf)
        is_root || write=(sudo -n "${write[@]}")
        echo "create_main_cluster = false" | "${write[@]}" >/dev/null
    fi
    "${apt[@]}" install "$@"
}

profile=${1:-build}
case $profile in build | test) ;; *) die "usage: tools/prerequisites.sh build|test" ;; esac

has "$CARGO" || die "Rust is missing: see https://rustup.rs, then run this again"
mapfile -t packages < <(missing "$profile" | tr ' ' '\n')
if [ "${#packages[@]}" -gt 0 ]; then
    if has apt-get && { is_root || sudo -n true 2>/dev/null; }; then
        say "installing ${packages[*]}"
        install_with_apt "${packages[@]}"
    elif has apt-get; then
        die "missing: type  sudo apt-get install ${packages[*]}"
    else
        die "missing, by Debian's names: ${packages[*]}. Install them with your package manager" \
            "(Homebrew: brew install postgresql@18 protobuf) and run this again"
    fi
fi
if is_root && ! id "$RUN_AS" >/dev/null 2>&1; then
    die "PostgreSQL does not run as root, and there is no user $RUN_AS: type  useradd --system $RUN_AS"
fi
