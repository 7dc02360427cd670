#!/usr/bin/env bash
# Runs the long tables of the tests for about $1 seconds in all: the crash table, which
# is the longest, for three fifths, and each of the others for a share of the rest.
set -euo pipefail
# shellcheck source=tools/place.sh
. "$(dirname "$0")/place.sh"

seconds=${1:?usage: tools/soak.sh SECONDS}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "TIME is a number of seconds: $seconds"
cd "$ROOT"
soak=("$CARGO" test --locked --features failpoints --test main)
# A filter that matches nothing passes: count what it matches first.
list=$("${soak[@]}" -- --list soak:: | grep ': test$') || die "there are no soak tests"
count=$(wc -l <<<"$list")
table=soak::crash::table
grep -q "^$table: test$" <<<"$list" || die "there is no test $table"
long=$((seconds * 3 / 5 > 0 ? seconds * 3 / 5 : 1))
others=$((count - 1))
share=$((seconds * 2 / 5 / others > 0 ? seconds * 2 / 5 / others : 1))
say "the crash table for $long s, $others more long tables for $share s each"
result=0
HOWDAH_SOAK_SECONDS=$long "${soak[@]}" -- --nocapture --exact "$table" || result=1
HOWDAH_SOAK_SECONDS=$share "${soak[@]}" -- --nocapture --test-threads=1 --skip "$table" soak:: ||
    result=1
exit $result
