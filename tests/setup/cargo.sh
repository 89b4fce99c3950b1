#!/usr/bin/env bash
# cargo.sh ARGS... : `cargo ARGS...` that shows its progress. On a terminal that is cargo's own display. Elsewhere it is one line every
# 20 seconds, and of cargo's messages only warnings and errors. Its exit code is cargo's.
set -uo pipefail
every=20
if [ -t 2 ]; then exec cargo "$@"; fi

# The first word of a line on which cargo only reports what it does. It is set right-aligned.
status='^ *(Adding|Blocking|Building|Checking|Compiling|Dirty|Documenting|Downloaded|Downloading|Executable|Finished|Fresh|Generated|'
status+='Installed|Installing|Locking|Replacing|Running|Summary|Updating) '
drawing='^ +[A-Z][a-z]+ \[[=> ]*\]'

progress() {
    local line rest='' code begun=$SECONDS next=$every state=''
    while :; do
        IFS= read -r -t 1 line
        code=$?
        if [ "$code" -gt 128 ]; then rest+=$line                       # nothing more within a second
        elif [ "$code" != 0 ] && [ -z "$line$rest" ]; then return
        else
            line=$rest$line rest=''
            if [[ $line =~ ^\ +Building\ \[.*\]\ ([0-9]+)/([0-9]+) ]]; then state="${BASH_REMATCH[1]} of ${BASH_REMATCH[2]} steps"
            elif [[ $line =~ ^\ +(Blocking|Downloading)\  ]]; then state=${line#"${line%%[! ]*}"}
            elif [[ $line =~ $drawing ]]; then state='downloading crates'
            elif [[ ! $line =~ $status && -n ${line// } ]]; then
                printf '%s\n' "$line" >&2
            fi
        fi
        if [ $((SECONDS - begun)) -ge "$next" ]; then
            next=$((SECONDS - begun + every))
            printf 'compiling: %s, %d s\n' "${state:-starting}" $((SECONDS - begun)) >&2
        fi
    done
}

# cargo draws its display for a terminal of this width, and separates the drawings by carriage returns.
export CARGO_TERM_COLOR=never CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=100
{ cargo "$@" 2>&1 >&3 | stdbuf -o0 tr '\r' '\n' | progress; code=${PIPESTATUS[0]}; } 3>&1
exit "$code"
