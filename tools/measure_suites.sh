#!/usr/bin/env bash
# Plays every suite with plans for one subgoal and for the whole task, pruned and unpruned, from scratch and in sessions, and writes
# docs/results.md.
#
# Usage: tools/measure_suites.sh [DIR]     (runs/suites by default)
# Each comparison continues where DIR holds a part of it, so a stopped run goes on. Hours on 2 cores; EPISODES=20 for a first look.
# On the long suites `baseline-session` stands for `baseline`, whose plans it gives in a fraction of the time.
set -euo pipefail

OUT="${1:-runs/suites}"
ERECAP="${ERECAP:-.venv/bin/erecap}"
WORKERS="${WORKERS:-2}"
ENVS="${ENVS:-1}"
PRUNED="erecap?keep=0.7,erecap-session?keep=0.7,erecap-session?keep=0.5&stages=0-5"
SHORT="${BACKENDS:-baseline,baseline-session,$PRUNED}"
LONG="${BACKENDS:-baseline-session,$PRUNED}"

# measure SUITE HORIZON EPISODES BACKENDS
measure() {
    "$ERECAP" compare --suite "$1" --horizon "$2" --episodes "${EPISODES:-$3}" --backends "$4" --workers "$WORKERS" \
        --envs "$ENVS" --replay-prompts 0 --out "$OUT/$1-$2"
}

for horizon in task subgoal; do
    measure household-small "$horizon" 200 "$SHORT"
    measure babyai "$horizon" 200 "$SHORT"
    measure household-recall "$horizon" 200 "$SHORT"
    measure household-long "$horizon" 100 "$LONG"
done
measure household-replan task 100 "$LONG"
"$ERECAP" results --keep "$OUT"/*-task "$OUT"/*-subgoal
