#!/bin/sh
# Our speed beside llama.cpp's and sqlite-ai's, in turn, ROUNDS (5) times, two threads each: one table of medians, and in
# build/bench/ every sample (bench.db, bench.json) and two charts (SVG=folder puts them elsewhere). About ten minutes.
#     ONLY="decode embed"   some of the parts decode batch rows embed train start growth (limits come along)
#     PYTHON=python3        the one with llama-cpp-python, gguf, sqlite-ai and tokenizers; what it lacks is left out, and said
set -eu
rounds=${ROUNDS:-5} only=${ONLY:-all} python=${PYTHON:-python3} svg=${SVG:-build/bench}
smollm2=models/SmolLM2-135M-Instruct.Q4_1.gguf gemma3=models/gemma-3-270m-q4_k_m.gguf minilm=models/all-MiniLM-L6-v2
texts=tests/bench/texts.jsonl dir=build/bench db=build/bench/bench.db
parts="limits decode batch rows embed train start growth"
for part in $only; do
    case " all $parts " in *" $part "*) ;; *) echo "ONLY=$part: no such part (have: $parts)" >&2; exit 1 ;; esac
done
mkdir -p $dir "$svg"
rm -f $db
sqlite3 $db "CREATE TABLE sample(round, who, work, value)" "CREATE TABLE fact(key, value)"

#-- What there is to measure, and to measure against.
fact() { sqlite3 $db "INSERT INTO fact VALUES('$1', '$(echo "$2" | sed "s/'/''/g")')"; }
skip() { echo "skipped: $1"; fact skipped "$1"; }
there() { [ -f "$1" ] || make -s "$1" >/dev/null 2>&1 || { skip "$1 is not there, and could not be fetched"; false; }; }
has() { "$python" -c "import $1" 2>/dev/null; }
models= llamacpp= encoders= ai= tokenizers= torch=
there $smollm2 && models="smollm2"
there $gemma3 && models="$models gemma3"
there $minilm/model.safetensors && models="$models minilm"
if has llama_cpp; then llamacpp=1; else
    skip "llama.cpp: $python has no llama_cpp"
    cat <<END
    CMAKE_ARGS=-DGGML_NATIVE=ON $python -m pip install llama-cpp-python==0.3.36     (builds for five minutes)
    On a virtual machine with AMX (amx_int8 in lscpu), where its AMX code can crash, name all the rest:
    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=ON
                -DGGML_AVX512_VNNI=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_BF16=ON -DGGML_AVX_VNNI=ON"
END
fi
if has gguf; then [ -z "$llamacpp" ] || encoders=1; else skip "llama.cpp with MiniLM: $python -m pip install gguf"; fi
if has sqliteai; then ai=$("$python" -c 'import sqliteai; print(list(sqliteai.__path__)[0] + "/binaries/cpu/ai")')
else skip "sqlite-ai: $python -m pip install sqlite-ai==1.0.8"; fi
if has torch; then torch=1; else skip "PyTorch: $python -m pip install torch==2.9.1"; fi
if has tokenizers; then tokenizers=1; else skip "Hugging Face's tokenizers: $python -m pip install tokenizers"; fi

#-- Measuring. A sample is a figure of the round: who, of what work, how much.
with() { case " $models " in *" $1 "*) ;; *) false ;; esac; }

# Keep the JSON objects, a line each, on the standard input as samples of WHO, their keys behind PREFIX; show what is none.
keep() {
    sed 's/^VmHWM:[^0-9]*\([0-9]*\) kB$/{"peak_kb": \1}/' |
    sqlite3 $db "CREATE TEMP TABLE line(s)" ".mode tabs" ".import /dev/stdin line" \
        "INSERT INTO sample SELECT $round, '$1', '$2' || j.key, j.value FROM line, json_each(iif(json_valid(line.s), line.s, '{}')) j" \
        "SELECT s FROM line WHERE NOT json_valid(s)" >&2
}
# SQL as a user runs it, on a database of ours, with so many threads (2); and by sqlite-ai.
ours() { { printf '%s\n' '.load build/lm' '.read tests/bench/clock.sql' '.once /dev/null' "SELECT lm_config('threads', ${2:-2});"; cat; } | sqlite3 "$dir/$1.db"; }
by_ai() { { printf '%s\n' ".load $ai" '.read tests/bench/clock.sql'; cat; } | sqlite3 :memory: 2>/dev/null || echo "failed: sqlite-ai"; }
peer() { TRIES=1 "$python" tests/bench/llamacpp_bench.py "$@" 2>/dev/null || echo "failed: llama.cpp: llamacpp_bench.py $*"; }
ai_model="INSERT INTO answer SELECT llm_model_load('$smollm2', 'gpu_layers=0');
INSERT INTO answer SELECT llm_context_create_textgen('n_threads=2,n_threads_batch=2,context_size=1024,n_predict=32');
INSERT INTO answer SELECT llm_sampler_create();
INSERT INTO answer SELECT llm_sampler_init_greedy();"

# A database of one model, and the facts that tell what its tokens cost.
import() {
    rm -f "$dir/$1.db"*
    sqlite3 "$dir/$1.db" ".load build/lm" "SELECT lm_import('$2', '{\"name\":\"$1\"$3}')" "ATTACH '$db' AS bench" \
        "INSERT INTO fact SELECT '$1_bytes', n_bytes FROM lm_model UNION ALL SELECT '$1_params', n_params FROM lm_model" \
        "INSERT INTO fact SELECT '$1_layers', sum(n_params) FROM lm_tensor WHERE name GLOB 'blk.*'" >/dev/null
}
if with smollm2; then import smollm2 $smollm2 ""; fi
if with gemma3; then import gemma3 $gemma3 ""; fi
if with minilm; then import f32 $minilm ""; import q8_0 $minilm ',"dtype":"q8_0"'; else encoders=; fi
if [ -n "$encoders" ]; then
    for type in f32 q8_0; do
        [ -s $dir/$type.gguf ] || "$python" tests/bench/minilm_gguf.py $minilm $dir/$type.gguf $type
    done
    peer $dir/f32.gguf ids $texts >$dir/ids.jsonl
    grep -q '^\[' $dir/ids.jsonl || { skip "llama.cpp with MiniLM: it gives no ids"; encoders=; }
fi
cat README.md sql/*.md ext/*.c engine/*/*.c >$dir/text.txt

limits() {
    build/limits_bench | keep machine ""
    if with smollm2; then build/limits_bench 98 | keep machine smollm2_; fi
    if with gemma3; then build/limits_bench 253 | keep machine gemma3_; fi
}

decode() {
    for model in smollm2 gemma3; do
        with $model || continue
        [ $model = smollm2 ] && file=$smollm2 || file=$gemma3
        build/lm_bench $file | keep ours ${model}_
        if [ -n "$llamacpp" ]; then peer $file pp512 tg128 | keep llama.cpp ${model}_; fi
    done
}

batch() {
    with smollm2 || return 0
    build/batch_bench $smollm2 64 32 | keep ours batch_
    if [ -n "$llamacpp" ]; then peer $smollm2 rows=32 | keep llama.cpp batch_; fi
}

# Ours answers all 64 rows; sqlite-ai, to which they cost the same each, four; llama.cpp, where there is no sqlite-ai, one.
rows() {
    with smollm2 || return 0
    for call in "batch generate_batch OVER(ROWS_BETWEEN_CURRENT_ROW_AND_63_FOLLOWING)" "scan generate"; do
        set -- $call
        ours smollm2 <<END | keep ours rows_
.read tests/bench/rows.sql
INSERT INTO answer SELECT generate('Hello', '{"max_tokens":4}'); DELETE FROM answer;
REPLACE INTO clock VALUES(1, julianday('now'));
INSERT INTO answer SELECT $2(body, '{"max_tokens":32}') $(echo "${3:-}" | tr _ ' ') FROM prompt;
SELECT json_object('$1', 64 / s) FROM seconds;
SELECT json_object('$1_tokens', sum(lm_token_count(s)) / 64.0, 'shared', lm_token_count((SELECT body FROM instruction))) FROM answer;
END
    done
    if [ -n "$ai" ]; then by_ai <<END | keep sqlite-ai rows_; fi
.read tests/bench/rows.sql
$ai_model
INSERT INTO answer SELECT llm_text_generate('Hello', 'n_predict=4'); DELETE FROM answer;
REPLACE INTO clock VALUES(1, julianday('now'));
INSERT INTO answer SELECT llm_text_generate(body, 'n_predict=32') FROM (SELECT body FROM prompt LIMIT 4);
SELECT json_object('batch', 4 / s, 'scan', 4 / s) FROM seconds;
SELECT json_object('batch_tokens', sum(llm_token_count(s)) / 4.0) FROM answer;
END
    if [ -n "$llamacpp" ] && [ -z "$ai" ]; then peer $smollm2 loop | keep llama.cpp rows_; fi
}

embed() {
    with minilm || return 0
    for type in f32 q8_0; do
        build/embed_bench $minilm $type "$([ -n "$encoders" ] && echo $dir/ids.jsonl || echo -)" 1 | keep ours ${type}_
        if [ -n "$encoders" ]; then peer $dir/$type.gguf embed $texts | keep llama.cpp ${type}_; fi
        for call in "sql_packed embed_batch OVER(ROWS_BETWEEN_CURRENT_ROW_AND_255_FOLLOWING)" "sql_one embed"; do
            set -- $call
            ours $type <<END | keep ours ${type}_
CREATE TEMP TABLE text AS
SELECT value AS body FROM json_each('[' || replace(trim(CAST(readfile('$texts') AS TEXT), char(10)), char(10), ',') || ']');
INSERT INTO answer SELECT embed('Hello');
REPLACE INTO clock VALUES(1, julianday('now'));
INSERT INTO answer SELECT $2(body) $(echo "${3:-}" | tr _ ' ') FROM text;
SELECT json_object('$1', (SELECT count(*) FROM text) / s) FROM seconds;
END
        done
    done
}

# Steps of 2,048 random tokens, a process a size; and a model as large as GPT-1 from first weights to an answer, all in SQL.
train() {
    for size in 1M 5M 15M; do
        build/train_bench $size 10 2 | keep ours ${size}_
        if [ -n "$torch" ]; then "$python" tests/bench/train_torch.py $size --steps 10 2>/dev/null | keep PyTorch ${size}_; fi
    done
    [ "$round" -eq 1 ] || return 0
    rm -f $dir/gpt1.db*
    ours gpt1 <<END | keep ours gpt1_
CREATE TABLE lesson AS SELECT CAST(readfile('$dir/text.txt') AS TEXT) AS text;
.output /dev/null
.read sql/examples/gpt1.sql
.output
SELECT json_object('step_s', max(seconds) / max(step), 'loss', min(loss)) FROM lm_run_step;
.shell grep VmHWM /proc/\$PPID/status
END
    rm -f $dir/gpt1.db*
}

# Statements that read N tokens of the texts, from the OFFSET-th on, and answer with 33 more: the first one's milliseconds, the
# others' rate. generate_stream gives a row a step, and SQLite's clock goes on from step to step; for the substr it looks again.
stream() {
    cat <<END
INSERT INTO prompt SELECT group_concat(piece, '') FROM (SELECT piece FROM piece WHERE pos >= $2 ORDER BY pos LIMIT $1);
REPLACE INTO clock VALUES(1, julianday('now'));
.once $dir/steps.txt
SELECT step, julianday(substr('now', 1, 3 + 0 * step)) FROM generate_stream((SELECT body FROM prompt), '{"template":"none","max_tokens":33}');
.import $dir/steps.txt step
SELECT json_object('first_${3:-}$1', (min(s.t) - c.t) * 86400e3, 'tg_${3:-}$1', (count(*) - 1) / ((max(s.t) - min(s.t)) * 86400)) FROM step s, clock c;
DELETE FROM prompt; DELETE FROM step;
END
}
streams="CREATE TEMP TABLE step(n, t); CREATE TEMP TABLE prompt(body);
CREATE TEMP TABLE piece AS SELECT pos, piece FROM lm_tokens((SELECT group_concat(value, ' ') FROM
    json_each('[' || replace(trim(CAST(readfile('$texts') AS TEXT), char(10)), char(10), ',') || ']')));
INSERT INTO answer SELECT generate('Hello', '{\"max_tokens\":4}');"

# From opening a database to its first answer, what the process then holds, importing, tokenizing, and the first token.
start() {
    build/pack_bench | keep ours pack_
    if with minilm; then build/tok_bench $minilm/tokenizer.json $dir/text.txt 1 | tok_json minilm | keep ours tok_; fi
    if with minilm && [ -n "$tokenizers" ]; then "$python" - $minilm/tokenizer.json $dir/text.txt <<END | keep tokenizers tok_; fi
import sys, time, tokenizers
t = tokenizers.Tokenizer.from_file(sys.argv[1])
t.no_truncation()
t.no_padding()
text = open(sys.argv[2]).read()
start = time.perf_counter()
t.encode(text, add_special_tokens=False)
print('{"minilm": %.2f}' % (len(text.encode()) / 1e6 / (time.perf_counter() - start)))
END
    with smollm2 || return 0
    build/tok_bench $smollm2 $dir/text.txt 1 | tok_json smollm2 | keep ours tok_
    if [ -n "$llamacpp" ]; then peer $smollm2 tok $dir/text.txt | sed 's/"tok"/"smollm2"/' | keep llama.cpp tok_; fi
    rm -f $dir/import.db*
    sqlite3 $dir/import.db ".load build/lm" ".read tests/bench/clock.sql" "REPLACE INTO clock VALUES(1, julianday('now'))" \
        "SELECT lm_import('$smollm2')" \
        "SELECT json_object('rate', (SELECT sum(length(data)) FROM lm_chunk) / 1e6 / s) FROM seconds" | sed 1d | keep ours import_
    rm -f $dir/import.db*
    ours smollm2 <<END | keep ours load_
REPLACE INTO clock VALUES(1, julianday('now'));
INSERT INTO answer SELECT generate('One two three', '{"template":"none","max_tokens":8}');
CREATE TEMP TABLE first AS SELECT s FROM seconds;
REPLACE INTO clock VALUES(1, julianday('now'));
INSERT INTO answer SELECT generate('Red green blue', '{"template":"none","max_tokens":8}');
SELECT json_object('seconds', first.s - seconds.s) FROM first, seconds;
INSERT INTO answer SELECT generate('Tell me of the sea.', '{"max_tokens":64}');
.shell grep VmHWM /proc/\$PPID/status
END
    if [ -n "$ai" ]; then by_ai <<END | keep sqlite-ai load_; fi
REPLACE INTO clock VALUES(1, julianday('now'));
$ai_model
INSERT INTO answer SELECT llm_text_generate('One two three', 'n_predict=8');
CREATE TEMP TABLE first AS SELECT s FROM seconds;
REPLACE INTO clock VALUES(1, julianday('now'));
INSERT INTO answer SELECT llm_text_generate('Red green blue', 'n_predict=8');
SELECT json_object('seconds', first.s - seconds.s) FROM first, seconds;
INSERT INTO answer SELECT llm_text_generate('Tell me of the sea.', 'n_predict=64');
.shell grep VmHWM /proc/\$PPID/status
END
    { echo "$streams"; stream 64 0; stream 512 1000; } | ours smollm2 | keep ours start_
    if [ -n "$llamacpp" ]; then peer $smollm2 pp64 pp512 | keep llama.cpp start_; fi
}
tok_json() { sed -n "s,^encode *\\([0-9.]*\\) MB/s.*,{\"$1\": \\1},p"; }

# How speed depends on sequences, context, threads and connections: in three rounds at most.
growth() {
    with smollm2 && [ "$round" -le 3 ] || return 0
    build/batch_bench $smollm2 16 1 2 4 8 16 32 64 128 256 | keep ours growth_
    if [ -n "$llamacpp" ]; then OUT=16 peer $smollm2 rows=1,2,4,8,16,32 | keep llama.cpp growth_; fi
    { echo "$streams"; stream 128 0; stream 256 128; stream 512 384; stream 1024 896; stream 2048 1920; stream 4096 3968; } |
        ours smollm2 | keep ours growth_
    for threads in 1 2; do
        { echo "$streams"; stream 512 0 ${threads}_; } | ours smollm2 $threads
        ours smollm2 $threads <<END
.read tests/bench/rows.sql
INSERT INTO answer SELECT generate('Hello', '{"max_tokens":4}'); DELETE FROM answer;
REPLACE INTO clock VALUES(1, julianday('now'));
INSERT INTO answer SELECT generate_batch(body, '{"max_tokens":16}') OVER (ROWS BETWEEN CURRENT ROW AND 63 FOLLOWING) FROM prompt WHERE id < 32;
SELECT json_object('rows_${threads}', 32 / s) FROM seconds;
END
    done | keep ours threads_
    build/connections_bench build/lm $dir/smollm2.db 1 2 | keep ours ""
}

#-- The rounds.
fact machine "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sort | uniq -c | sed 's/^ *\([0-9]*\) /\1 x /' | head -1)"
fact cpu_flags "$(sed -n 's/^flags[^:]*: //p' /proc/cpuinfo | head -1 | tr ' ' '\n' | grep -E '^(avx2|fma|f16c|avx_vnni|avx512f|avx512_vnni|amx_int8)$' | tr '\n' ' ')"
fact commit "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)$(git diff --quiet HEAD 2>/dev/null || echo ' and changes')"
fact date "$(date -u +%FT%TZ)"
for round in $(seq "$rounds"); do
    for part in $parts; do
        case " $only limits " in *" all "*|*" $part "*) ;; *) continue ;; esac
        printf '%s  round %d of %d: %s\n' "$(date +%T)" "$round" "$rounds" $part
        $part
    done
done
sqlite3 $db ".read tests/bench/report.sql"
if ! command -v gnuplot >/dev/null; then echo "skipped: charts: apt-get install gnuplot-nox"; else
    for chart in speed growth; do
        [ ! -s $dir/$chart.dat ] || gnuplot -e "data='$dir/$chart.dat'; out='$svg/$chart.svg'" tests/bench/$chart.gp
    done
fi
