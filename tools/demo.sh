#!/usr/bin/env bash
# Shows the README's tour by itself: serves in a directory of its own on free ports,
# calls with grpcurl alone, and ends everything it started. Exit code 0 only if the
# change was seen and no process is left.
# HOWDAH: the program to show (default: what `make run` builds).
set -euo pipefail
# shellcheck source=tools/place.sh
. "$(dirname "$0")/place.sh"

HOWDAH=${HOWDAH:-$(program quick)}
PROJECT=projects/default
INSTANCE=$PROJECT/instances/orders
WORK=$(mktemp -d /tmp/howdah-demo.XXXXXX)
chmod 711 "$WORK" # the servers' user passes through
DATA=$WORK/data
server=
subscriber=

# Prints a command as one would type it.
print_command() {
    local word
    printf '\n\033[1m$' >&2
    for word in "$@"; do
        case $word in
            *\'*) printf ' "%s"' "$word" >&2 ;;
            *[\ \"\{\&?]*) printf " '%s'" "$word" >&2 ;;
            *) printf ' %s' "$word" >&2 ;;
        esac
    done
    printf '\033[0m\n' >&2
}

show() {
    print_command "$@"
    "$@"
}

# Calls METHOD with a JSON request; shows the answer and leaves it in `answer`.
call() {
    answer=$(show grpcurl -plaintext -d "$2" "$endpoint" "$1")
    printf '%s\n' "$answer"
}

# The first value of a text field in the last answer.
field() { sed -n "s/^ *\"$1\": \"\(.*\)\",\{0,1\}\$/\1/p" <<<"$answer" | head -n 1; }

# Waits for the operation that the last answer names.
wait_operation() {
    call google.longrunning.Operations/WaitOperation \
        "{\"name\":\"$(field name)\",\"timeout\":\"60s\"}"
    grep -q '"done": true' <<<"$answer" || die "the operation is not done"
    if grep -q '"error": {' <<<"$answer"; then die "the operation failed"; fi
}

# Server processes whose data lies in our directory.
postmasters() {
    local file pid
    while IFS= read -r file; do
        pid=$(head -n 1 "$file")
        if kill -0 "$pid" 2>/dev/null; then echo "$pid"; fi
    done < <(find "$WORK" -name postmaster.pid 2>/dev/null)
}

none_left() { [ -z "$(postmasters)" ]; }
gone() { ! kill -0 "$1" 2>/dev/null; }

cleanup() {
    local code=$? pid
    trap - EXIT
    if [ -n "$subscriber" ]; then kill "$subscriber" 2>/dev/null || true; fi
    if [ -n "$server" ]; then
        kill -TERM "$server" 2>/dev/null || true
        wait_for 600 gone "$server" || { kill -KILL "$server" && code=1; }
    fi
    if ! wait_for 100 none_left; then
        printf 'PostgreSQL servers were left over\n' >&2
        code=1
        for pid in $(postmasters); do kill -QUIT "$pid" || true; done
        wait_for 100 none_left || true
    fi
    if [ "$code" != 0 ]; then
        printf '\nthe demo failed; the end of its log:\n' >&2
        tail -n 20 "$WORK/howdah.log" >&2 || true
    fi
    rm -rf "$WORK"
    exit "$code"
}

serving() { gone "$server" || [ -s "$DATA/endpoint" ]; }

serve() {
    say "serving in $DATA"
    "$HOWDAH" serve --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --data-dir "$DATA" \
        >"$WORK/howdah.log" 2>&1 </dev/null &
    server=$!
    wait_for 600 serving || die "no endpoint after a minute"
    gone "$server" && die "the server ended"
    endpoint=$(cat "$DATA/endpoint")
}

# 15 as in the README, or the newest that is at hand.
choose_version() {
    call howdah.v1.InstanceService/ListEngines "{\"parent\":\"$PROJECT\"}"
    if grep -q '"major": 15,\{0,1\}$' <<<"$answer"; then
        version=15
    else
        version=$(sed -n 's/^ *"major": \([0-9]*\),\{0,1\}$/\1/p' <<<"$answer" | sort -rn | head -n 1)
    fi
    [ -n "$version" ] || die "there is no PostgreSQL"
}

provision() {
    call howdah.v1.InstanceService/CreateInstance \
        "{\"parent\":\"$PROJECT\",\"instance_id\":\"orders\",\"instance\":{\"version\":\"$version\"}}"
    wait_operation
    call howdah.v1.DatabaseService/CreateDatabase \
        "{\"parent\":\"$INSTANCE\",\"database_id\":\"shop\",\"database\":{}}"
    wait_operation
    call howdah.v1.DatabaseService/GetConnection "{\"name\":\"$INSTANCE/databases/shop\"}"
    uri=$(field uri)
    # JSON may write an ampersand as an escape.
    uri=${uri//\\u0026/"&"}
    [ -n "$uri" ] || die "the connection has no uri"
}

subscribed() { gone "$subscriber" || grep -q '^{' "$WORK/changes"; }
seen() { gone "$subscriber" || grep -q '"text": "howdah"' "$WORK/changes"; }

watch_a_change() {
    show psql -X "$uri" -v ON_ERROR_STOP=1 -c "create table items (id int primary key, name text)"
    : >"$WORK/changes"
    local command=(grpcurl -plaintext
        -d "{\"instance\":\"$INSTANCE\",\"database\":\"shop\",\"tables\":[\"public.items\"]}"
        "$endpoint" howdah.v1.ChangeStreamService/Subscribe)
    print_command "${command[@]}"
    "${command[@]}" >"$WORK/changes" 2>&1 </dev/null &
    subscriber=$!
    wait_for 300 subscribed || die "the subscription did not begin"
    show psql -X "$uri" -v ON_ERROR_STOP=1 -c "insert into items values (1, 'howdah')"
    wait_for 300 seen || die "the change did not come"
    printf '\nwhat the subscriber got:\n' >&2
    cat "$WORK/changes"
    grep -q '"text": "howdah"' "$WORK/changes" || die "the subscription ended without the change"
    kill "$subscriber"
    wait "$subscriber" 2>/dev/null || true
    subscriber=
}

for program in "$HOWDAH" grpcurl psql; do
    has "$program" || die "$program is missing: make tools"
done
trap cleanup EXIT
trap 'exit 130' INT TERM
serve
show grpcurl -plaintext "$endpoint" list
choose_version
provision
watch_a_change
call howdah.v1.InstanceService/DeleteInstance "{\"name\":\"$INSTANCE\",\"force\":true,\"purge\":true}"
wait_operation
say "the change was seen"
