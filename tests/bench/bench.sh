#!/bin/sh
# Our speed and llama.cpp's on MODEL.gguf, in turn, ROUNDS (5) times; medians at the end. llama.cpp runs when PYTHON has
# llama-cpp-python (build it natively: CMAKE_ARGS=-DGGML_NATIVE=ON pip install llama-cpp-python==0.3.36).
set -eu
model=$1
python=${PYTHON:-python3}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for round in $(seq "${ROUNDS:-5}"); do
    build/lm_bench $model | sed 's/^/sqlite-lm /' >>"$log"
    "$python" -c 'import llama_cpp' 2>/dev/null && "$python" tests/bench/llamacpp_bench.py $model pp tg 2>/dev/null | sed 's/^/llama.cpp /' >>"$log"
done
grep -q llama.cpp "$log" || echo "skipped: llama.cpp: $python has no llama_cpp"
echo "$model"
awk '
function median(list, n,    a, i, j, t) {
    n = split(list, a, " ")
    for (i = 2; i <= n; i++) for (j = i; j > 1 && a[j] + 0 < a[j-1] + 0; j--) { t = a[j]; a[j] = a[j-1]; a[j-1] = t }
    return a[int((n + 1) / 2)]
}
{ line = $0; gsub(/[][{}":,]/, " ", line); n = split(line, w, " ")
  for (i = 2; i < n; i++) if (w[i] == "pp512" || w[i] == "tg128") for (j = i + 1; j <= n && w[j] + 0 > 0; j++) all[w[1] w[i]] = all[w[1] w[i]] " " w[j] }
END { for (k = 1; k <= 2; k++) { what = k == 1 ? "pp512" : "tg128"; ours = median(all["sqlite-lm" what]); theirs = median(all["llama.cpp" what])
      printf "%-6s sqlite-lm %8.1f t/s   llama.cpp %8.1f t/s   ratio %.2f\n", what, ours, theirs, theirs ? ours / theirs : 0 } }' "$log"
