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

# A compiler with the headers of the C library: some crates hold C.
has_compiler() {
    has cc && cc -x c -o "$WORK/compiled" - >/dev/null 2>&1 <<<'#include <stdlib.h>
int main(void) { return 0; }'
}

# protoc with the protos that come with it: a crate that compiles the validation rules
# calls it while it is built.
has_protoc() {
    local protoc=${PROTOC:-protoc} include=()
    has "$protoc" || return 1
    [ -z "${PROTOC_INCLUDE:-}" ] || include=(-I "$PROTOC_INCLUDE")
    printf 'syntax = "proto3";\nimport "google/protobuf/%s.proto";\n' descriptor >"$WORK/look.proto"
    "$protoc" -I "$WORK" "${include[@]}" -o /dev/null "$WORK/look.proto" >/dev/null 2>&1
}

# Debian's packages that are missing, one a line.
missing() {
    has_compiler || echo gcc libc6-dev
    has_protoc || echo protobuf-compiler libprotobuf-dev
    has_postgres || echo postgresql
    has psql || echo postgresql-client
    [ "$1" = test ] || return 0
    # The one major that tests look for at its usual place, with every tool.
    [ -x /usr/lib/postgresql/15/bin/postgres ] || echo postgresql-15
    has shellcheck || echo shellcheck
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3 python3-venv
    has git || echo git
}

# What a user has to bring, and Debian has in no version that would do.
require() {
    has "$CARGO" || die "Rust is missing: see https://rustup.rs, then run this again"
    [ "$1" = test ] || return 0
    has go || die "Go 1.24 or later is missing: see https://go.dev/dl, then run this again"
    has npm || die "Node.js 18 or later with npm is missing: see https://nodejs.org, then run this again"
}

install_with_apt() {
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y --no-install-recommends)
    is_root || apt=(sudo -n "${apt[@]}")
    "${apt[@]}" update
    if [[ " $* " == *" postgresql"* ]] && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
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

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
require "$profile"
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
