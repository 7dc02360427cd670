#!/usr/bin/env bash
# Runs the long tables of the tests for about $1 seconds in all, a share for each.
set -euo pipefail
# shellcheck source=tools/place.sh
. "$(dirname "$0")/place.sh"

seconds=${1:?usage: tools/soak.sh SECONDS}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "TIME is a number of seconds: $seconds"
cd "$ROOT"
soak=("$CARGO" test --locked --features failpoints --test main)
# A filter that matches nothing passes: count what it matches first.
count=$("${soak[@]}" -- --list soak:: | grep -c ': test$') || die "there are no soak tests"
share=$((seconds / count > 0 ? seconds / count : 1))
say "$count long tables, $share s each"
HOWDAH_SOAK_SECONDS=$share "${soak[@]}" -- --nocapture --test-threads=1 soak::
