#!/usr/bin/env bash
# The demo of answers that are written: two encoder-decoders and the energy head between them, from nothing. A step
# that is done is skipped, unless its arguments changed. Entropy leads: the head's energy tells right from wrong with
# some seeds only.
#
#   scripts/demo_text.sh [OPTION...]    options for all four commands, such as --data.train_rows=2000
#   RUN=FOLDER scripts/demo_text.sh     another folder than runs/demo-text
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/step.sh

data=configs/data/demo_text.yaml
run=${RUN:-runs/demo-text}
step "$run/super/tier/card.json" \
    dial fit --config configs/model/demo_text_super.yaml --data $data --run "$run/super" "$@"
step "$run/swift/tier/card.json" \
    dial fit --config configs/model/demo_text_swift.yaml --data $data --data.train_digits 5 --run "$run/swift" "$@"
step "$run/head/tier/card.json" \
    dial fit --config configs/model/demo_text_head.yaml --model.path "$run/swift/tier" --data $data --run "$run/head" "$@"
step "$run/sweep/summary.json" \
    dial test --config configs/model/cascade.yaml --model.tiers "[$run/head/tier, $run/super/tier]" \
    --sweep.scores '[entropy, energy, softmax, random]' --data $data --run "$run" "$@"
