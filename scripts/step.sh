# To be sourced: one step of a demo, printed as it is typed. A step is skipped where its result is there, this very
# command made it, and no step before it was run; else the command itself says that it is done, or what has changed.

step() { # step RESULT COMMAND...
    local result=$1 note typed word
    shift
    note=$(dirname "$result").command
    typed=$(printf '%q ' "$@")
    if [ -z "${ran:-}" ] && [ -e "$result" ] && [ "$typed" = "$(cat "$note" 2>/dev/null)" ]; then
        printf '\n# done: %s (delete it to run this step again)\n' "$result"
        return
    fi
    ran=1
    printf '\n$'
    for word in "$@"; do
        case $word in *[[:space:]\[\]]*) printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '\n'
    "$@"
    printf '%s' "$typed" >"$note"
}
