#!/usr/bin/env bash
# Types what a new user types: `make run`, then the commands that it prints, then the
# README's table and query. Ends the server, and checks that no process is left.
# For a machine of its own: each server process on it counts.
set -euo pipefail
# shellcheck source=tools/place.sh
. "$(dirname "$0")/place.sh"

export PATH="$ROOT/target/quick:$PATH"
WORK=$(mktemp -d /tmp/howdah-tour.XXXXXX)
LOG=$WORK/run.log
make=

# Processes of Howdah and PostgreSQL; one that has ended has no command line.
servers() {
    local process
    for process in /proc/[0-9]*; do
        case $(cat "$process/comm" 2>/dev/null) in
            howdah | postgres)
                if tr '\0' ' ' <"$process/cmdline" 2>/dev/null | grep -q .; then
                    basename "$process"
                fi
                ;;
        esac
    done
}

none_left() { [ -z "$(servers)" ]; }
gone() { ! kill -0 "$1" 2>/dev/null; }
serving() { gone "$make" || grep -q 'what to type next' "$LOG"; }

cleanup() {
    local code=$? pid
    trap - EXIT
    for pid in $(servers); do kill -QUIT "$pid" 2>/dev/null || true; done
    if [ "$code" != 0 ]; then
        printf '\nwhat make run printed:\n' >&2
        tail -n 60 "$LOG" >&2
    fi
    rm -rf "$WORK"
    exit "$code"
}

# A port that is in use is no fault of the README.
port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

serve() {
    local command=(make run)
    if ! port_is_free 7717 || ! port_is_free 7718; then
        command+=(ARGS="--listen 127.0.0.1:0 --admin-listen 127.0.0.1:0")
    fi
    say "$ ${command[*]}"
    "${command[@]}" >"$LOG" 2>&1 </dev/null &
    make=$!
    # An hour: it builds everything.
    wait_for 36000 serving || die "it does not serve"
    cat "$LOG"
    gone "$make" && die "make run ended"
    return 0
}

type_it() {
    say "$ $1"
    bash -c "$1"
}

# The commands that `make run` has printed, as it has printed them.
type_what_it_says() {
    local lines
    mapfile -t lines < <(sed -n 's/^ *\(howdah .*--endpoint .*\)$/\1/p' "$LOG")
    [ "${#lines[@]}" -ge 3 ] || die "it does not say what to type"
    for line in "${lines[@]}"; do type_it "$line"; done
    endpoint=${lines[0]##*--endpoint }
    connect=${lines[-1]}
}

use_the_database() {
    type_it "psql -X -v ON_ERROR_STOP=1 \"\$($connect)\" -c 'create table items (id int primary key, name text)'"
    type_it "psql -X -v ON_ERROR_STOP=1 \"\$($connect)\" -c \"insert into items values (1, 'howdah')\""
    type_it "psql -X -At \"\$($connect)\" -c 'select name from items'" | tee "$WORK/answer"
    [ "$(cat "$WORK/answer")" = howdah ] || die "the row is not there"
}

end() {
    local pid result=0
    for pid in $(servers); do
        if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = howdah ]; then kill -TERM "$pid"; fi
    done
    wait "$make" || result=$?
    [ "$result" = 0 ] || die "make run ended with $result"
    wait_for 100 none_left || die "left over: $(servers)"
}

none_left || die "a server runs already: this is for a machine of its own"
trap cleanup EXIT
trap 'exit 130' INT TERM
serve
type_what_it_says
use_the_database
type_it "howdah instances delete orders --force --purge --wait --endpoint $endpoint"
end
say "served, used, ended; nothing is left"
