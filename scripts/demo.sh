#!/usr/bin/env bash
# The demo: three commands, printed as they are typed. A step that is done is skipped, unless its arguments changed.
#
#   scripts/demo.sh [OPTION...]    options for all three commands, such as --data.train_rows=2000
#   RUN=FOLDER scripts/demo.sh     another folder than runs/demo
set -euo pipefail
cd "$(dirname "$0")/.."

source scripts/step.sh

data=configs/data/demo.yaml
run=${RUN:-runs/demo}
teacher=() # the configuration names runs/demo
[ "$run" = runs/demo ] || teacher=(--model.teacher "$run/super/tier")
step "$run/super/tier/card.json" \
    dial fit --config configs/model/demo_super.yaml --data $data --run "$run/super" "$@"
step "$run/swift/tier/card.json" \
    dial fit --config configs/model/demo_swift.yaml --data $data "${teacher[@]}" --run "$run/swift" "$@"
step "$run/sweep/summary.json" \
    dial test --config configs/model/cascade.yaml --model.tiers "[$run/swift/tier, $run/super/tier]" \
    --data $data --run "$run" "$@"
