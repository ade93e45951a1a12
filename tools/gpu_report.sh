#!/usr/bin/env bash
# Measure everything that a GPU is needed for, in one go, on a bare machine: torch, transformers, tokenizers, safetensors, numpy, pytest.
#
#   tools/gpu_report.sh [OUT]
#
# Writes at most 8 small files straight into OUT (default: $OUT, else runs/gpu-report). Every step has a time limit of its own; one
# that fails does not stop the others, and what it measured until then stays. Ends within 8 minutes on an H100 or H200.
# To try it without a GPU: DEVICE=cpu SHAPE=nano tools/gpu_report.sh OUT
# TRACE=FILE replays another episode in sessions than the one that ships.
set -uo pipefail
cd "$(dirname "$0")/.."

readonly OUT=${1:-${OUT:-runs/gpu-report}}
readonly PYTHON=${PYTHON:-python3}
readonly DEVICE=${DEVICE:-cuda}
readonly SHAPE=${SHAPE:-qwen2-7b}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TOKENIZERS_PARALLELISM=false ERECAP_TEST_DEVICE=$DEVICE
export PYTORCH_NVML_BASED_CUDA_CHECK=1 # to look for GPUs without starting CUDA, which would bar the steps' processes from it

if [ "$DEVICE" = cpu ]; then
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # the work is tiny, and tests run beside each other
    readonly LENGTHS=${LENGTHS:-64} DECODE_LENGTH=${DECODE_LENGTH:-64} MEMORY_LENGTHS=${MEMORY_LENGTHS:-64} ATTENTION_LENGTHS=64
    readonly ROUNDS=1 NEW_ROUNDS=1 NEW_TOKENS=2 REPLANS=1 SESSION_LENGTHS=64 DTYPE=${DTYPE:-float32} TOTAL=${TOTAL:-300}
    readonly TESTS='-k "17-torch.float32 or decode_agrees or explained"' ALLOCATOR=
else
    readonly LENGTHS=${LENGTHS:-1024,2048,4096,8192,16384,32768} DECODE_LENGTH=${DECODE_LENGTH:-4096}
    readonly MEMORY_LENGTHS=${MEMORY_LENGTHS:-4096,8192,16384,32768,65536,131072,262144,524288} ATTENTION_LENGTHS=4096,32768
    readonly ROUNDS=7 NEW_ROUNDS=8 NEW_TOKENS=64 REPLANS=2 SESSION_LENGTHS=4096,16384 DTYPE=${DTYPE:-bfloat16} TOTAL=${TOTAL:-450}
    readonly TESTS= ALLOCATOR=PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
fi

# profile NAME SECONDS MEASUREMENT WORDS...: the line of a step that measures
profile() {
    printf '%s %s %s profile %s --shape %s --device %s --dtype %s --out %q %s\n' \
        "$1" "$2" "${STEP_VARIABLE:-}" "$3" "$SHAPE" "$DEVICE" "$DTYPE" "$OUT/$1.json" "${*:4}"
}

steps() {
    printf 'tests 110 pytest %s\n' "-c /dev/null --rootdir=. --confcutdir=tests/gpu -p no:cacheprovider --import-mode=importlib \
        -q -ra --tb=short $TESTS tests/gpu"
    # a length takes 45 s on an H200: seven backends, twice, and an answer without drafts has 60 forward passes of 22 ms
    profile sessions 120 sessions --lengths "$SESSION_LENGTHS" --keep 0.7,0.5 --replans "$REPLANS" --rounds 1 --seconds 100 \
        ${TRACE:+--trace "$TRACE"}
    profile rates 60 rates --lengths "$ATTENTION_LENGTHS"
    profile prefill 170 prefill --lengths "$LENGTHS" --rounds "$ROUNDS" --new-lengths "$NEW_ROUNDS" --no-stock --seconds 120
    profile generate 100 generate --lengths "$DECODE_LENGTH" --keep 1,0.7 --new-tokens "$NEW_TOKENS" --rounds 3 \
        --decoders eager,graph-flash,graph-split --seconds 70
    profile trace 60 trace --lengths "$DECODE_LENGTH" --keep 1,0.7
    STEP_VARIABLE=$ALLOCATOR profile memory 90 memory --lengths "$MEMORY_LENGTHS" --keep 1,0.7 --seconds 60
    if [ "$DEVICE" != cpu ]; then
        profile prefill-cudnn 60 prefill --lengths 4096,32768 --keep 1,0.7 --rounds 4 --new-lengths 0 --sdpa-backend cudnn --no-count \
            --no-stock --seconds 45
    fi
}

mkdir -p "$OUT"
{
    [ "$DEVICE" = cpu ] || nvidia-smi 2>&1 | head -n 20
    steps | "$PYTHON" tools/gpu_steps.py "$OUT" "$TOTAL" 2>&1
} | tee -i "$OUT/report.log"
rm -f "$OUT"/*.partial
