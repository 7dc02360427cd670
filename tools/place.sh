# shellcheck shell=bash disable=SC2034
# Sourced by the scripts here: where things are, and how they speak.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TOOLS=$ROOT/target/tools
CARGO=${CARGO:-cargo}
export PATH="$TOOLS/bin:$PATH"

# The user that PostgreSQL servers run as when we are root.
RUN_AS=${HOWDAH_LOCAL_RUN_AS:-postgres}

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

is_root() { [ "$(id -u)" = 0 ]; }

# Runs a command as the user that PostgreSQL accepts: it refuses to run as root.
as_server_user() {
    if is_root; then runuser -u "$RUN_AS" -- "$@"; else "$@"; fi
}

# Where the program of a profile ends up: `program debug`.
program() { printf '%s/%s/howdah\n' "${CARGO_TARGET_DIR:-$ROOT/target}" "$1"; }

# Waits at most $1 tenths of a second for the command that follows.
wait_for() {
    local tenths=$1
    shift
    while ! "$@"; do
        tenths=$((tenths - 1))
        [ "$tenths" -gt 0 ] || return 1
        sleep 0.1
    done
}
