#!/bin/sh
# Our embedding speed and llama.cpp's on the encoder in FOLDER, float32 and q8_0, one by one and packed, in turn, ROUNDS (3)
# times; medians at the end, in rows a second. llama.cpp runs when PYTHON has llama-cpp-python and gguf, and its token ids
# then serve both; otherwise the ids are random.
set -eu
folder=$1
python=${PYTHON:-python3}
texts=tests/bench/texts.jsonl
ids=
log=$(mktemp)
trap 'rm -f "$log"' EXIT
[ -d "$folder" ] || { echo "skipped: $folder is not there"; exit 0; }
if "$python" -c 'import llama_cpp, gguf' 2>/dev/null; then
    ids=build/embed_ids.jsonl
    for type in f32 q8_0; do
        [ -s build/encoder-$type.gguf ] || "$python" tests/bench/minilm_gguf.py "$folder" build/encoder-$type.gguf $type
    done
    "$python" tests/bench/llamacpp_bench.py build/encoder-f32.gguf ids $texts 2>/dev/null >$ids
fi
for round in $(seq "${ROUNDS:-3}"); do
    for type in f32 q8_0; do
        build/embed_bench "$folder" $type $ids | sed "s/^/sqlite-lm $type /" >>"$log"
        [ -z "$ids" ] || "$python" tests/bench/llamacpp_bench.py build/encoder-$type.gguf embed $texts 2>/dev/null | sed "s/^/llama.cpp $type /" >>"$log"
    done
done
[ -n "$ids" ] || echo "skipped: llama.cpp: $python has no llama_cpp, or no gguf"
echo "$folder"
awk '
function median(list, n,    a, i, j, t) {
    n = split(list, a, " ")
    for (i = 2; i <= n; i++) for (j = i; j > 1 && a[j] + 0 < a[j-1] + 0; j--) { t = a[j]; a[j] = a[j-1]; a[j-1] = t }
    return a[int((n + 1) / 2)]
}
{ line = $0; gsub(/[][{}":,]/, " ", line); n = split(line, w, " ")
  for (i = 3; i < n; i++) if (w[i] == "embed_one" || w[i] == "embed_packed") all[w[1] w[2] w[i]] = all[w[1] w[2] w[i]] " " w[i+1] }
END { for (k = 0; k < 4; k++) { type = k < 2 ? "f32" : "q8_0"; what = k % 2 ? "embed_packed" : "embed_one"
      ours = median(all["sqlite-lm" type what]); theirs = median(all["llama.cpp" type what])
      printf "%-4s %-12s sqlite-lm %7.1f rows/s   llama.cpp %7.1f rows/s   ratio %.2f\n", type, what, ours, theirs, theirs ? ours / theirs : 0 } }' "$log"
