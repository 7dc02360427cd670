#!/usr/bin/env bash
# Writes the offline data of the store's queries, from a throw-away PostgreSQL with
# all migrations.
# usage: tools/sqlx.sh write     replaces .sqlx
#        tools/sqlx.sh check     compares with .sqlx
set -euo pipefail
# shellcheck source=tools/place.sh
. "$(dirname "$0")/place.sh"

# One fixed major, so that what is written is the same everywhere.
BIN=$TOOLS/postgres/16/bin
WORK=$(mktemp -d /tmp/howdah-sqlx.XXXXXX)

stop() {
    if [ -e "$WORK/server/data/postmaster.pid" ]; then
        as_server_user "$BIN/pg_ctl" -D "$WORK/server/data" -m immediate stop >/dev/null
    fi
    rm -rf "$WORK"
}

start() {
    chmod 755 "$WORK"
    mkdir "$WORK/server" "$WORK/out"
    if is_root; then chown "$RUN_AS" "$WORK/server"; fi
    as_server_user "$BIN/initdb" -D "$WORK/server/data" -U postgres -A trust \
        -E UTF8 --locale=C --no-sync >"$WORK/initdb.log" ||
        die "initdb: $(cat "$WORK/initdb.log")"
    as_server_user "$BIN/pg_ctl" -D "$WORK/server/data" -w -l "$WORK/server/log" \
        -o "-F -h '' -k $WORK/server" start >/dev/null || die "$(cat "$WORK/server/log")"
}

sql() { psql -X -q -v ON_ERROR_STOP=1 -h "$WORK/server" -U postgres "$@"; }

migrate() {
    local file
    sql -d postgres -c "create database howdah"
    for file in "$ROOT"/migrations/*.sql; do
        sql -d howdah -1 -f "$file"
    done
}

# The macros write what they learn into SQLX_OFFLINE_DIR while they expand.
generate() {
    touch "$ROOT/src/lib.rs"
    SQLX_OFFLINE=false SQLX_OFFLINE_DIR=$WORK/out \
        DATABASE_URL="postgres://postgres@localhost/howdah?host=$WORK/server" \
        "$CARGO" check --locked --quiet --lib --features failpoints
    compgen -G "$WORK/out/query-*.json" >/dev/null || die "no query data was written"
}

mode=${1:-}
case $mode in write | check) ;; *) die "usage: tools/sqlx.sh write|check" ;; esac
"$ROOT/tools/install.sh" postgres
trap stop EXIT
cd "$ROOT"
start
migrate
generate
if [ "$mode" = write ]; then
    rm -rf .sqlx
    cp -r "$WORK/out" .sqlx
    say "wrote $(find .sqlx -name 'query-*.json' | wc -l) queries to .sqlx"
else
    diff -r .sqlx "$WORK/out" || die ".sqlx is not what the migrations and queries say: make sqlx"
    say ".sqlx is up to date"
fi
