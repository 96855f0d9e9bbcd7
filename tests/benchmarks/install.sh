#!/usr/bin/env bash
# The environment of `make bench`: this package, the peers of peers.txt, and matplotlib for the plots. A peer that cannot be
# installed is left out and named; without this package itself there is nothing to measure.
set -euo pipefail
folder=$1
here=$(cd "$(dirname "$0")" && pwd)
install=("$folder/bin/python" -m pip install --quiet)
trouble="is a package registry within reach? pip's own settings (pip config, PIP_INDEX_URL, PIP_FIND_LINKS) choose it"

"${PYTHON:-python3}" -m venv "$folder"
if ! "${install[@]}" --editable "$here/../..[image]"; then
    echo "make bench: this package and its dependencies could not be installed into $folder: $trouble" >&2
    exit 1
fi
"${install[@]}" "matplotlib>=3.10,<4" || echo "matplotlib cannot be installed here: make bench works, make bench-docs does not"
while read -r peer; do
    if ! "${install[@]}" "$peer"; then
        echo "make bench: $peer cannot be installed here and is left out; $trouble. Once it is, remove $folder" >&2
    fi
done <"$here/peers.txt"
