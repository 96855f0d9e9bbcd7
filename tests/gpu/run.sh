#!/usr/bin/env bash
# Measures batches on the device that jax finds (a GPU, or the CPU, as CI has it), and runs the tests of tests/core that
# need none of the extras, as far as they fit: under five minutes, one table, and JSON where a path is given.
#
#     tests/gpu/run.sh [RESULT.json]
#
# Needs Python with numpy, jax, cloudpickle and xxhash (PYTHON chooses it), for the tests pytest, pytest-timeout and
# hypothesis; no network, nothing is installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export XLA_PYTHON_CLIENT_PREALLOCATE=false
for name in numpy jax cloudpickle xxhash; do
    "$python" -c "import $name" 2> /dev/null || { echo "tests/gpu/run.sh: $python has no $name" >&2; exit 2; }
done
exec timeout 298 "$python" tests/gpu/measure.py "$@"
