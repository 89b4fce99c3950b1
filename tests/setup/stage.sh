#!/usr/bin/env bash
# stage.sh NAME COMMAND... : runs one stage of a make target or of CI and prints its seconds. Its exit code is the command's.
name=$1; shift
begun=$(date +%s%N)
printf '\n== %s\n' "$name"
code=0 verdict='done'
"$@" || { code=$?; verdict="FAILED ($code)"; }
tenths=$(( ($(date +%s%N) - begun) / 100000000 ))
printf '== %s: %s after %d.%d s\n' "$name" "$verdict" $((tenths / 10)) $((tenths % 10))
exit "$code"
