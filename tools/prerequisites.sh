#!/usr/bin/env bash
# Installs what is missing on this machine, or says what to type.
# usage: tools/prerequisites.sh build|demo|test
#   build: what `make run` needs; demo: what `make demo` needs besides;
#   test: what the tests and checks need besides.
# Each check uses the thing as its caller does: a compiler without headers is missing.
set -euo pipefail
# shellcheck source=tools/place.sh
. "$(dirname "$0")/place.sh"

# A compiler and the C library's headers: Debian has them in two packages.
compiles_c() { has cc && cc -E -include stdlib.h -x c /dev/null >/dev/null 2>&1; }

# A protoc that finds its well-known types, which Debian has in another package. The
# build script of the validation rules' crate obeys the same two variables.
compiles_protos() {
    local protoc=${PROTOC:-protoc} include=()
    has "$protoc" || return 1
    if [ -n "${PROTOC_INCLUDE:-}" ]; then include=(-I "$PROTOC_INCLUDE"); fi
    printf 'syntax = "proto3";\nimport "google/protobuf/descriptor.proto";\n' |
        "$protoc" -I /dev "${include[@]}" -o /dev/null /dev/stdin >/dev/null 2>&1
}

has_postgres() {
    local bin
    for bin in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
        /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
        [ -x "$bin/postgres" ] && [ -x "$bin/initdb" ] && return 0
    done
    has pg_config && [ -x "$(pg_config --bindir)/postgres" ]
}

# A JDK of Java 11 or later: the tests' program for JDBC is compiled for that.
has_java() {
    has java && has javac && javac --release 11 -version >/dev/null 2>&1
}

# Debian's packages that are missing, one a line.
missing() {
    compiles_c || echo gcc libc6-dev
    compiles_protos || echo protobuf-compiler libprotobuf-dev
    has_postgres || echo postgresql
    has psql || echo postgresql-client
    [ "$1" = test ] || return 0
    # The tests' own servers.
    [ -x /usr/lib/postgresql/15/bin/postgres ] || echo postgresql-15
    has shellcheck || echo shellcheck
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3 python3-venv
    has_java || echo default-jdk-headless
    has mvn || echo maven
    has git || echo git
}

# What Debian has too old, or not the way it is wanted: taken as it is.
check_toolchains() {
    local wanted=()
    has "$CARGO" || wanted+=("Rust: see https://rustup.rs.")
    if [ "$1" = test ] || { [ "$1" = demo ] && ! has grpcurl; }; then
        has go || wanted+=("Go 1.25 or later, which builds grpcurl and drivers: see https://go.dev/dl.")
    fi
    if [ "$1" = test ] && ! { has node && has npm; }; then
        wanted+=("Node.js 18 or later with npm: see https://nodejs.org.")
    fi
    [ "${#wanted[@]}" = 0 ] || die "missing: ${wanted[*]} Then run this again"
}

install_with_apt() {
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y --no-install-recommends)
    is_root || apt=(sudo -n "${apt[@]}")
    "${apt[@]}" update
    if [[ " $* " =~ " postgresql"(-15)?" " ]] && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        # Debian would make and start a cluster of its own, on port 5432.
        "${apt[@]}" install postgresql-common
        local write=(tee -a /etc/postgresql-common/createcluster.conf)
        is_root || write=(sudo -n "${write[@]}")
        echo "create_main_cluster = false" | "${write[@]}" >/dev/null
    fi
    "${apt[@]}" install "$@"
}

profile=${1:-build}
case $profile in
    build | demo | test) ;;
    *) die "usage: tools/prerequisites.sh build|demo|test" ;;
esac

check_toolchains "$profile"
mapfile -t packages < <(missing "$profile" | tr ' ' '\n')
if [ "${#packages[@]}" -gt 0 ]; then
    if has apt-get && { is_root || sudo -n true 2>/dev/null; }; then
        say "installing ${packages[*]}"
        install_with_apt "${packages[@]}"
        mapfile -t packages < <(missing "$profile" | tr ' ' '\n')
        [ "${#packages[@]}" = 0 ] || die "apt-get had no error, and this is still not right: ${packages[*]}"
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
