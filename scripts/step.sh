# To be sourced: one step of a demo, printed as it is typed. A step whose result is there is skipped.

step() { # step RESULT COMMAND...
    local result=$1
    shift
    if [ -e "$result" ]; then
        printf '\n# done: %s (delete it to run this step again)\n' "$result"
        return
    fi
    printf '\n$'
    local word
    for word in "$@"; do
        case $word in *[[:space:]\[\]]*) printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '\n'
    "$@"
}
