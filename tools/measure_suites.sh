#!/usr/bin/env bash
# Plays every suite with plans for one subgoal and for the whole task, pruned and unpruned, and writes docs/results.md.
#
# Usage: tools/measure_suites.sh [DIR]     (runs/suites by default)
# Each comparison continues where DIR holds a part of it, so a stopped run goes on. Many hours on 2 cores; EPISODES=20 for a first look.
set -euo pipefail

OUT="${1:-runs/suites}"
ERECAP="${ERECAP:-.venv/bin/erecap}"
WORKERS="${WORKERS:-2}"
ENVS="${ENVS:-1}"
BACKENDS="${BACKENDS:-baseline,erecap?keep=0.7,erecap?keep=0.5&stages=0-5}"

# measure SUITE HORIZON EPISODES
measure() {
    "$ERECAP" compare --suite "$1" --horizon "$2" --episodes "${EPISODES:-$3}" --backends "$BACKENDS" --workers "$WORKERS" \
        --envs "$ENVS" \
        --replay-prompts 40 --out "$OUT/$1-$2"
}

for horizon in task subgoal; do
    measure household-small "$horizon" 200
    measure babyai "$horizon" 200
    measure household-recall "$horizon" 200
    measure household-replan "$horizon" 100
    measure household-long "$horizon" 100
done
"$ERECAP" results --keep "$OUT"/*-task "$OUT"/*-subgoal
