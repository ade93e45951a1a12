#!/usr/bin/env bash
# Make .venv and install the project into it.
#
#   tools/setup.sh PYTHON
#
# Without an NVIDIA GPU a CPU build of torch goes in first, so that nothing later asks for a CUDA build. With a GPU, a torch that
# PYTHON already has and that sees the GPU is used as it is; else pip chooses one within the range of pyproject.toml.
# TORCH_PIP_ARGS is handed to pip where it installs torch, e.g. '--index-url URL' of an index with CPU builds.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly PYTHON=$1
readonly CPU_TORCH=2.13.0
readonly TORCH_RANGE='torch>=2.8'
readonly VENV_PYTHON=.venv/bin/python

require_python() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' && return
    echo "setup: '$PYTHON' is not Python 3.11 or newer; name one that is: make setup PYTHON=/path/to/python3.11" >&2
    exit 1
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; }

has_cuda_torch() {
    "$1" - <<'PY' 2>/dev/null
import sys, torch
release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
sys.exit(not (release >= (2, 8) and torch.cuda.is_available()))
PY
}

pip_install() { "$VENV_PYTHON" -m pip install --disable-pip-version-check --quiet "$@"; }

install_cpu_torch() {
    # "+cpu" is the name of the CPU build wherever several are on offer; elsewhere (macOS) there is only one build.
    # shellcheck disable=SC2086
    pip_install ${TORCH_PIP_ARGS:-} "torch==$CPU_TORCH+cpu" 2>/dev/null && return
    if [ "$(uname -s)" = Linux ]; then
        echo "setup: pip finds no CPU build of torch $CPU_TORCH and takes the one there is; to name an index that has one:" \
            "make clean setup TORCH_PIP_ARGS='--index-url URL'" >&2
    fi
    # shellcheck disable=SC2086
    pip_install ${TORCH_PIP_ARGS:-} "torch==$CPU_TORCH"
}

install_torch() {
    if ! has_gpu; then
        echo "setup: no NVIDIA GPU, torch $CPU_TORCH for the CPU"
        install_cpu_torch
    elif has_cuda_torch "$VENV_PYTHON"; then
        echo "setup: NVIDIA GPU, the torch that $PYTHON has"
    else
        echo "setup: NVIDIA GPU, torch from pip"
        # shellcheck disable=SC2086
        pip_install ${TORCH_PIP_ARGS:-} "$TORCH_RANGE"
    fi
}

require_python
if has_gpu && has_cuda_torch "$PYTHON"; then
    "$PYTHON" -m venv --system-site-packages .venv
else
    "$PYTHON" -m venv .venv
fi
install_torch
echo "setup: the project and its tools"
pip_install -c constraints.txt -e '.[dev]'
"$VENV_PYTHON" -c 'import torch; print(f"setup: done, torch {torch.__version__}, CUDA {torch.cuda.is_available()}")'
