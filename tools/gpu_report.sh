#!/usr/bin/env bash
# Measure everything that a GPU is needed for, in one go, on a bare machine: torch, transformers, tokenizers, safetensors, numpy, pytest.
#
#   tools/gpu_report.sh [OUT]
#
# Writes at most 8 small files straight into OUT (default: $OUT, else runs/gpu-report). Every step has a time limit of its own; one
# that fails does not stop the others, and what it measured until then stays. Ends within 8 minutes on an H100 or H200.
# To try it without a GPU: DEVICE=cpu SHAPE=nano tools/gpu_report.sh OUT
set -uo pipefail
cd "$(dirname "$0")/.."

readonly OUT=${1:-${OUT:-runs/gpu-report}}
readonly PYTHON=${PYTHON:-python3}
readonly DEVICE=${DEVICE:-cuda}
readonly SHAPE=${SHAPE:-qwen2-7b}
readonly STARTED=$SECONDS
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TOKENIZERS_PARALLELISM=false ERECAP_TEST_DEVICE=$DEVICE

if [ "$DEVICE" = cpu ]; then
    readonly LENGTHS=${LENGTHS:-256} DECODE_LENGTH=${DECODE_LENGTH:-256} MEMORY_LENGTHS=${MEMORY_LENGTHS:-256} ATTENTION_LENGTHS=256 CUDNN_LENGTHS=
    readonly ROUNDS=2 NEW_TOKENS=4 DTYPE=${DTYPE:-float32} TOTAL=${TOTAL:-300}
else
    readonly LENGTHS=${LENGTHS:-1024,2048,4096,8192,16384,32768} DECODE_LENGTH=${DECODE_LENGTH:-4096}
    readonly MEMORY_LENGTHS=${MEMORY_LENGTHS:-4096,8192,16384,32768,65536,131072,262144,524288} ATTENTION_LENGTHS=4096,32768 CUDNN_LENGTHS=4096,32768
    readonly ROUNDS=7 NEW_TOKENS=64 DTYPE=${DTYPE:-bfloat16} TOTAL=${TOTAL:-450}
fi

mkdir -p "$OUT"
readonly LOG=$OUT/report.log
declare -a SUMMARY=()

# step NAME SECONDS COMMAND...: run within the limit and within what is left of the whole.
step() {
    local name=$1 limit=$2 left began=$SECONDS status
    shift 2
    left=$((TOTAL - (SECONDS - STARTED)))
    if [ "$left" -lt 5 ]; then
        SUMMARY+=("$name: left out, the time was over")
        return
    fi
    [ "$limit" -gt "$left" ] && limit=$left
    printf '\n== %s (at most %s s): %s\n' "$name" "$limit" "$*" | tee -a "$LOG"
    timeout -k 5 -s INT "$limit" "$@" </dev/null 2>&1 | tee -a "$LOG"
    status=${PIPESTATUS[0]}
    SUMMARY+=("$name: exit $status after $((SECONDS - began)) s")
}

profile() {
    local name=$1 limit=$2 command=$3
    shift 3
    step "$name" "$limit" "$PYTHON" -m erecap.profiling "$command" --shape "$SHAPE" --device "$DEVICE" --dtype "$DTYPE" \
        --out "$OUT/$name.json" "$@"
}

: >"$LOG"
[ "$DEVICE" = cpu ] || nvidia-smi 2>&1 | head -n 20 | tee -a "$LOG"

step tests 110 "$PYTHON" -m pytest -c /dev/null --rootdir=. --confcutdir=tests/gpu -p no:cacheprovider --import-mode=importlib \
    -q -ra --tb=short --junitxml="$OUT/tests.xml" tests/gpu
profile rates 60 rates --lengths "$ATTENTION_LENGTHS"
profile prefill 130 prefill --lengths "$LENGTHS" --rounds "$ROUNDS" --seconds 90
profile generate 100 generate --lengths "$DECODE_LENGTH" --keeps 1,0.7 --new-tokens "$NEW_TOKENS" --rounds 3 \
    --decoders eager,graph-flash,graph-split --seconds 70
profile trace 60 trace --lengths "$DECODE_LENGTH" --keeps 1,0.7
PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True profile memory 90 memory --lengths "$MEMORY_LENGTHS" --keeps 1,0.7 --seconds 60
if [ -n "$CUDNN_LENGTHS" ]; then
    profile prefill-cudnn 70 prefill --lengths "$CUDNN_LENGTHS" --keeps 1,0.7 --rounds 4 --sdpa-backend cudnn --no-count --seconds 45
fi

rm -f "$OUT"/*.partial
{
    printf '\n== summary (%s s in all)\n' "$((SECONDS - STARTED))"
    printf '%s\n' "${SUMMARY[@]}"
    "$PYTHON" -m erecap.profiling show "$OUT"/*.json
} 2>&1 | tee -a "$LOG"
