#!/usr/bin/env bash
# Trains what ships with the package anew, and replaces it: a planner, its pruner, the thresholds, its draft head, a cost model of this
# machine.
#
# Usage: tools/train_bundled.sh [DIR]     (runs/bundled by default)
# Each step is skipped or continued where DIR holds its results, so a stopped run goes on. The planner alone takes about three hours on 2 cores,
# and is weaker than the one that ships, most of whose training ran on a GPU (erecap/bundled/planner/README.md).
# On a machine with a GPU: RECIPE=tools/planner_one_gpu.json WORKERS=15 ENVS=16 tools/train_bundled.sh
set -euo pipefail

OUT="${1:-runs/bundled}"
ERECAP="${ERECAP:-.venv/bin/erecap}"
WORKERS="${WORKERS:-2}"
ENVS="${ENVS:-1}"
RECIPE="${RECIPE:-}"
mkdir -p "$OUT"

"$ERECAP" train-planner ${RECIPE:+--recipe "$RECIPE"} --out "$OUT/planner" --workers "$WORKERS" --evaluate 0 --install

# Episodes to train the pruner on: the planner's own, on seeds that no result is measured on.
# record SUITE HORIZON EPISODES
record() {
    "$ERECAP" run --backend baseline-session --suite "$1" --horizon "$2" --training-seeds --episodes "$3" --workers "$WORKERS" \
        --envs "$ENVS" --out "$OUT/recorded-$1-$2"
}
record household-replan task 16
record household-long task 8
record household-long subgoal 8
record household-recall subgoal 80
record household-recall task 40
record babyai subgoal 105
record household-small task 40
record household-small subgoal 30

# Expert episodes besides, for the draft head: no more than text to go on with.
# expert SUITE EPISODES
expert() {
    "$ERECAP" run --backend expert --suite "$1" --horizon task --training-seeds --episodes "$2" --workers "$WORKERS" --out "$OUT/expert-$1"
}
expert household-replan 160
expert household-long 40
expert household-recall 60
expert household-small 60

DATA=()
for directory in "$OUT"/recorded-*; do
    DATA+=(--data "$directory")
done
# One recorded episode as tokens, which `erecap profile sessions` replays on any model.
"$ERECAP" trace-replans --data "$OUT/recorded-household-replan-task" --out erecap/bundled/replans.json
"$ERECAP" train-pruner "${DATA[@]}" --stages 0-6 --keep 0.3-0.9 --num-samples 320 --max-length 5200 --steps 300 --eval-every 50 --out "$OUT/pruner" --install
"$ERECAP" calibrate "${DATA[@]}" --num-prompts 80 --keeps 0.9,0.7,0.5 --max-length 8192
HEAD_DATA=()
for directory in "$OUT"/expert-* "$OUT"/recorded-{household-replan-task,household-long-task,household-long-subgoal,household-recall-subgoal,household-small-subgoal,babyai-subgoal}; do
    HEAD_DATA+=(--data "$directory")
done
"$ERECAP" train-draft-head "${HEAD_DATA[@]}" --num-samples 500 --steps 400 --eval-every 100 --held-out 0.05 --out "$OUT/draft-head" --install
OMP_NUM_THREADS=1 "$ERECAP" calibrate --cost --dtype float32 --lengths 256,512,1024,2048,4096,8192 --rounds 3 --out "$OUT/cost.json"
