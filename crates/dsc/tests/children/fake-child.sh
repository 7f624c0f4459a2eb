#!/bin/sh
# Stands in for the region server's program: starts the test program that lies beside it under the name
# `test-program` and tells it by its environment what it was asked. What it does instead of listening stands in
# the file `behaviour` beside it.
here=$(dirname "$0")
behaviour=$(cat "$here/behaviour" 2>/dev/null)
case "$behaviour" in
    code) echo "cannot serve this" >&2; exit 3 ;;
    signal) kill -9 $$ ;;
    deaf) trap '' TERM ;;
esac
FAKE_CHILD="$*" exec "$here/test-program" --exact fake::the_program_itself_plays_the_child --nocapture --test-threads 1
