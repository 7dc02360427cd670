#!/usr/bin/env bash
# Tries the README on a bare Debian: makes a root file system with only what the README
# says that a user has, clones the working tree into it, and runs both commands, the
# demo and `howdah doctor` there, as root and as an ordinary user.
# Needs root, and Rust, Go and Node.js on this machine: they are mounted read-only.
# usage: tools/fresh.sh            the log of each part is left in target/fresh
#        tools/fresh.sh possible   whether this machine allows it
#   KEEP=1      keeps the root file system
#   HAND_OVER=1 moves the debug build to target/debug here, unless there is one. The
#               clone has the same path, so cargo takes it for its own.
#   FRESH_DIR   where the root file system is made (default /var/tmp; about 8 GB)
set -euo pipefail
# shellcheck source=tools/place.sh
. "$(dirname "$0")/place.sh"

LOGS=$ROOT/target/fresh
NEWCOMER=newcomer
NAMESPACES=(unshare --mount --pid --fork --kill-child --mount-proc)

# ---- Outside: the root file system, and namespaces that take everything with them.

# Lines of apt's sources that need no key beside Debian's own.
apt_sources() {
    local file
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list \
        /etc/apt/sources.list.d/*.sources; do
        [ -s "$file" ] || continue
        if ! grep -qi signed-by "$file" || grep -q debian-archive-keyring "$file"; then
            echo "$file"
        fi
    done
}

# git and make, Python, and what carries this machine's certificates. A Node.js that is
# Debian's own cannot be taken without its libraries.
bare_packages() {
    printf 'ca-certificates,git,make,python3'
    if node_is_debians; then printf ',nodejs,npm'; fi
}

node_is_debians() { ldd "$(node -p process.execPath)" | grep -q libnode; }

make_bare_root() {
    local settings=$LOGS/apt.conf sources
    apt-config dump | grep -E '^Acquire::(https?|Check|Languages|Retries)' >"$settings" || true
    mapfile -t sources < <(apt_sources)
    # shellcheck disable=SC1091
    mmdebstrap --quiet --variant=minbase --include="$(bare_packages)" \
        --aptopt="$settings" "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$BARE" \
        "${sources[@]}"
    cp -L /etc/resolv.conf /etc/hosts "$BARE/etc/"
    cp -r /usr/local/share/ca-certificates "$BARE/usr/local/share/"
    chroot "$BARE" update-ca-certificates >/dev/null 2>&1
    chroot "$BARE" useradd --create-home --shell /bin/bash "$NEWCOMER"
}

# HEAD, with what is changed and not committed, at the path that it has here.
clone() {
    local above=$BARE$ROOT
    git -c advice.detachedHead=false clone --quiet --no-hardlinks "$ROOT" "$BARE$ROOT"
    git -C "$ROOT" diff --binary HEAD >"$LOGS/changes.patch"
    if [ -s "$LOGS/changes.patch" ]; then git -C "$BARE$ROOT" apply "$LOGS/changes.patch"; fi
    git -C "$ROOT" ls-files -z --others --exclude-standard |
        tar -C "$ROOT" --null --files-from=- -cf - | tar -C "$BARE$ROOT" -xf -
    # The servers' user and the newcomer pass through.
    while [ "$above" != "$BARE" ]; do
        chmod a+x "$above"
        above=$(dirname "$above")
    done
}

cleanup() {
    local code=$?
    trap - EXIT
    if [ "${KEEP:-}" = 1 ]; then
        say "kept: $BARE"
    else
        # The mounts are gone with their namespace.
        rm -rf --one-file-system "$BARE"
    fi
    exit "$code"
}

hand_over() {
    if [ "${HAND_OVER:-}" = 1 ] && [ -d "$BARE$ROOT/target/debug" ] && [ ! -e "$ROOT/target/debug" ]; then
        mv "$BARE$ROOT/target/debug" "$ROOT/target/debug"
    fi
}

outside() {
    local program
    is_root || die "mounts and a root file system need root: sudo make fresh"
    has mmdebstrap || apt-get -y --no-install-recommends install mmdebstrap ||
        die "mmdebstrap is missing: install it"
    for program in rustc go node npm git; do
        has "$program" || die "$program is missing, and is taken from this machine"
    done
    "${NAMESPACES[@]}" true || die "this machine does not allow namespaces"
    mkdir -p "$LOGS"
    rm -f "$LOGS"/*
    BARE=$(mktemp -d "${FRESH_DIR:-/var/tmp}/howdah-fresh.XXXXXX")
    chmod 755 "$BARE"
    trap cleanup EXIT
    trap 'exit 130' INT TERM
    part "bare Debian" make_bare_root
    part "clone" clone
    if [ "$failed" = 0 ]; then
        "${NAMESPACES[@]}" "$0" inside "$BARE" || failed=1
    fi
    hand_over
    printf '\n=== summary of the bare Debian\n'
    cat "$LOGS/summary"
    exit "$failed"
}

# ---- Inside the namespaces: mounts, and what a new user does.

read_only() {
    mkdir -p "$2"
    mount --bind "$1" "$2"
    mount -o remount,bind,ro "$2"
}

# Downloads only: a share saves time and hides no missing program.
shared() {
    mkdir -p "$1" "$2"
    mount --bind "$1" "$2"
}

mount_system() {
    mount -t proc proc "$BARE/proc"
    mount --rbind /dev "$BARE/dev"
    mount -t tmpfs -o mode=1777 tmpfs "$BARE/dev/shm"
    mount -t tmpfs -o mode=755 tmpfs "$BARE/run"
}

mount_toolchains() {
    local sysroot
    sysroot=$(rustc --print sysroot)
    [ -x "$sysroot/bin/cargo" ] || die "$sysroot has no cargo"
    [ "$sysroot" != /usr ] || die "Rust is the system's own: make fresh wants one from rustup"
    read_only "$sysroot" "$BARE/opt/rust"
    read_only "$(go env GOROOT)" "$BARE/opt/go"
    shared "${CARGO_HOME:-$HOME/.cargo}/registry" "$BARE/opt/cargo/registry"
    shared "$(go env GOMODCACHE)" "$BARE/root/go/pkg/mod"
    # Each user has a lock and a record of uses in it.
    chmod 1777 "$BARE/opt/cargo"
    if ! node_is_debians; then copy_node; fi
}

copy_node() {
    local modules=$BARE/opt/node/lib/node_modules
    mkdir -p "$BARE/opt/node/bin" "$modules"
    cp -L "$(node -p process.execPath)" "$BARE/opt/node/bin/node"
    cp -rL "$(npm root -g)/npm" "$modules/"
    ln -s ../lib/node_modules/npm/bin/npm-cli.js "$BARE/opt/node/bin/npm"
}

# How this machine reaches the registries, whatever that is.
copy_settings() {
    local npm_global home=$HOME file
    npm_global=$(npm config get globalconfig)
    if [ -e "$npm_global" ]; then install -D "$npm_global" "$BARE/opt/node/etc/npmrc"; fi
    if [ -e /etc/pip.conf ]; then cp /etc/pip.conf "$BARE/etc/"; fi
    for file in .npmrc .config/pip/pip.conf .pip/pip.conf .m2/settings.xml; do
        if [ -e "$home/$file" ]; then install -D "$home/$file" "$BARE/root/$file"; fi
    done
    for file in config config.toml; do
        file=${CARGO_HOME:-$home/.cargo}/$file
        if [ -e "$file" ]; then install -D -m 644 "$file" "$BARE/opt/cargo/$(basename "$file")"; fi
    done
}

# Names of variables that say how registries are reached and builds are printed.
carried() {
    compgen -e | grep -iE '_CERT|CA_BUNDLE|CAINFO|_PROXY$|^PIP_|^NPM_CONFIG_|^CARGO_(HTTP|NET|REGISTRIES|REGISTRY|SOURCE|TERM|INCREMENTAL)' || true
}

set_environment() {
    local name
    environment=(LANG=C.UTF-8 CARGO_HOME=/opt/cargo
        PATH=/opt/rust/bin:/opt/go/bin:/opt/node/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
    while IFS= read -r name; do environment+=("$name=${!name}"); done < <(carried)
    for name in GOPROXY GOFLAGS GOSUMDB GONOSUMDB GOPRIVATE; do
        environment+=("$name=$(go env "$name")")
    done
}

as_root() {
    chroot "$BARE" env -i -C "$ROOT" "${environment[@]}" HOME=/root USER=root "$@"
}

as_newcomer() {
    chroot "$BARE" runuser -u "$NEWCOMER" -- env -i -C "$ROOT" "${environment[@]}" \
        HOME="/home/$NEWCOMER" USER="$NEWCOMER" "$@"
}

# A copy of the tree and of what root has built, at the same path: an ordinary user
# who has the prerequisites builds nothing again.
copy_for_newcomer() {
    local copy=$BARE/home/$NEWCOMER/howdah
    mkdir "$copy"
    tar -C "$BARE$ROOT" --exclude=./target/debug -cf - . | tar -C "$copy" -xpf -
    chroot "$BARE" chown -R "$NEWCOMER:" "/home/$NEWCOMER"
    find "$BARE/opt/cargo" -maxdepth 1 -type f -exec chmod a+rw {} +
    mount --bind "$copy" "$BARE$ROOT"
}

nothing_was_built() {
    ! grep -E '^ +(Compiling|Downloading) ' "$LOGS/run-as-a-user.log" ||
        die "the ordinary user's run built something again"
}

inside() {
    BARE=$1
    mount_system
    mount_toolchains
    copy_settings
    set_environment
    part "run as root" as_root tools/tour.sh
    # Without a program, nothing else can succeed.
    [ "$failed" = 0 ] || exit 1
    part "doctor as root" as_root target/quick/howdah doctor
    part "demo as root" as_root make demo
    part "test as root" as_root make test
    part "copy for a user" copy_for_newcomer
    part "run as a user" as_newcomer tools/tour.sh
    part "nothing built again" nothing_was_built
    part "doctor as a user" as_newcomer target/quick/howdah doctor
    part "demo as a user" as_newcomer make demo
    exit "$failed"
}

# ---- Parts

failed=0

# Runs a command as a part: with a log and a line in the summary.
part() {
    local name=$1 start=$SECONDS result=passed status
    shift
    printf '\n=== %s\n' "$name"
    # Not as a condition: errors would not end the functions that are run here.
    set +e
    (set -e && "$@") </dev/null 2>&1 | tee "$LOGS/${name// /-}.log"
    status=${PIPESTATUS[0]}
    set -e
    if [ "$status" != 0 ]; then result=FAILED failed=1; fi
    printf '%-8s %5d s  %s\n' "$result" $((SECONDS - start)) "$name" >>"$LOGS/summary"
}

case ${1:-} in
    "") outside ;;
    possible) is_root && "${NAMESPACES[@]}" true 2>/dev/null ;;
    inside) inside "$2" ;;
    *) die "usage: tools/fresh.sh [possible]" ;;
esac
