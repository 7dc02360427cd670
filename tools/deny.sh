#!/usr/bin/env bash
# Checks licences, sources and duplicates of the dependencies, and their advisories
# where the advisory database can be reached.
set -euo pipefail
# shellcheck source=tools/place.sh
. "$(dirname "$0")/place.sh"

DATABASE=https://github.com/rustsec/advisory-db

cd "$ROOT"
"$CARGO" fetch --locked --quiet
cargo-deny --offline check bans licenses sources
if timeout 30 git ls-remote --quiet "$DATABASE" HEAD >/dev/null 2>&1; then
    cargo-deny check advisories
else
    say "ADVISORIES WERE NOT CHECKED: $DATABASE cannot be reached from here"
fi
