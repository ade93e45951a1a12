#!/usr/bin/env bash
# Trains everything that ships with the package: the bundled planner, its pruner, the thresholds, the cost model of this machine.
#
# Usage: tools/train_bundled.sh [DIR]     (runs/bundled by default; `make bundled` calls it)
# Each step is skipped or continued where DIR holds its results, so a stopped run goes on. About three hours on 2 cores.
set -euo pipefail

OUT="${1:-runs/bundled}"
ERECAP="${ERECAP:-.venv/bin/erecap}"
WORKERS="${WORKERS:-2}"
mkdir -p "$OUT"

"$ERECAP" train-planner --out "$OUT/planner" --workers "$WORKERS" --evaluate 0 --install

# Episodes to train the pruner on: the planner's own, on seeds that no result is measured on.
record() {
    local suite="$1" episodes="$2"
    "$ERECAP" run --backend baseline --suite "$suite" --training-seeds --episodes "$episodes" --workers "$WORKERS" \
        --out "$OUT/recorded-$suite"
}
record household-recall 120
record household-replan 16
record babyai 105
record household-small 60
record household-long 14

DATA=()
for suite in household-recall household-replan babyai household-small household-long; do
    DATA+=(--data "$OUT/recorded-$suite")
done
"$ERECAP" train-pruner "${DATA[@]}" --stages 0-6 --num-samples 320 --max-length 5200 --steps 250 --eval-every 50 --out "$OUT/pruner" --install
"$ERECAP" calibrate "${DATA[@]}" --num-prompts 80 --keeps 0.9,0.7,0.5 --max-length 8192
"$ERECAP" calibrate --cost --dtype float32 --lengths 256,512,1024,2048,4096,8192 --rounds 3 --out "$OUT/cost.json"
