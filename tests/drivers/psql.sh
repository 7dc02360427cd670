#!/bin/sh
# Writes a row by psql and prints it as it was read back.
# usage: psql.sh PSQL CONNECTION DRIVER BODY    an empty CONNECTION: by the environment
set -eu
psql=$1 connection=$2 driver=$3 body=$4
shift 4
[ -z "$connection" ] || set -- -d "$connection"
"$psql" -XqtA -v ON_ERROR_STOP=1 -v driver="$driver" -v body="$body" "$@" <<'SQL'
insert into notes (driver, body) values (:'driver', :'body');
select json_build_array(current_database(), current_user, body,
    (select ssl from pg_stat_ssl where pid = pg_backend_pid())) from notes where driver = :'driver';
SQL
