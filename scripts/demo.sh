#!/usr/bin/env bash
# The demo: three commands, printed as they are typed. A step whose result is there is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

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

data=configs/data/demo.yaml
step runs/demo/super/tier/card.json \
    dial fit --config configs/model/demo_super.yaml --data $data --run runs/demo/super
step runs/demo/swift/tier/card.json \
    dial fit --config configs/model/demo_swift.yaml --data $data --run runs/demo/swift
step runs/demo/sweep/summary.json \
    dial test --config configs/model/cascade.yaml --model.tiers '[runs/demo/swift/tier, runs/demo/super/tier]' \
    --data $data --run runs/demo
