#!/usr/bin/env bash
# Measures batches on the device that jax finds (a GPU, or the CPU, as CI has it), then runs the tests of tests/core that
# need nothing but pytest and hypothesis; where these are missing, it says so and measures only. Five minutes at most.
#
#     tests/gpu/run.sh [RESULT.json]
#
# Needs Python with numpy, jax, cloudpickle and xxhash (PYTHON chooses it); no network, nothing is installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export XLA_PYTHON_CLIENT_PREALLOCATE=false
for name in numpy jax cloudpickle xxhash; do
    "$python" -c "import $name" 2> /dev/null || { echo "tests/gpu/run.sh: $python has no $name" >&2; exit 2; }
done
timeout 120 "$python" tests/gpu/measure.py "$@"
if "$python" -c "import pytest, hypothesis, pytest_timeout" 2> /dev/null; then
    # They run on the CPU, four devices of it: what they hold does not depend on the device that measure.py is about.
    timeout 170 "$python" -m pytest -q -p no:cacheprovider tests/core/batch tests/core/plan \
        tests/core/engine/test_slots.py tests/core/engine/test_ready.py
else
    echo "pytest, hypothesis or pytest-timeout are missing: measured only"
fi
