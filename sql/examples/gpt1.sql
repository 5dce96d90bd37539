-- gpt1.sql: a model as large as GPT-1 from first weights to an answer. Run it with `make gpt1` (two minutes, under 4 GB of memory).
--
-- In 2018 GPT-1 had 117 million dials. Here is a model of that size and kind, of a vocabulary that is learnt first (a tenth of
-- GPT-1's, with four layers more in its place); it takes a few steps, and answers. What it says is nonsense, and nothing else
-- could be: GPT-1 met some billion words, this one a few thousand. What counts is what it costs: seconds and bytes. The table
-- lesson(text) holds this project's own sources. A line that begins with --= is what the statement above it must give; tests
-- check it, on a model of another size: what the table `wanted` says.

-- 1. The size.
CREATE TEMP TABLE IF NOT EXISTS wanted AS SELECT 16 AS n_layers, 768 AS n_embd, 12 AS n_heads, 512 AS n_ctx, 4096 AS n_vocab;
SELECT count(*) AS texts, sum(length(text)) AS letters FROM lesson;

-- 2. A vocabulary, and weights of chance. Each layer has 12 n_embd² weights and 13 n_embd biases and norms; each token and
-- each place a vector.
SELECT lm_create('gpt1', json_object('arch', 'gpt2', 'n_layers', n_layers, 'n_embd', n_embd, 'n_heads', n_heads, 'n_ctx', n_ctx,
    'vocab', json_object('query', 'SELECT text FROM lesson', 'size', n_vocab))) FROM wanted;
--= gpt1
SELECT n_params AS dials, n_active AS "met by a token", n_bytes AS bytes FROM lm_model WHERE name = 'gpt1';
SELECT n_params = n_layers * (12 * n_embd * n_embd + 13 * n_embd) + (n_vocab + n_ctx + 2) * n_embd, n_active = n_params - (n_ctx - 1) * n_embd, n_bytes = 4 * n_params
FROM lm_model, wanted WHERE name = 'gpt1';
--= 1 1 1

-- 3. Five steps of 1,024 tokens. A step computes some six operations for each dial and token.
SELECT step, tokens, round(loss, 3) AS loss, round(lr, 6) AS lr, round(tokens_per_s) AS "tokens/s", round(1024 / tokens_per_s, 2) AS "seconds a step"
FROM lm_train('{"model":"gpt1","query":"SELECT text FROM lesson","max_steps":5,"batch_tokens":1024,"lr":0.0006}');
SELECT count(*), max(tokens) BETWEEN 4000 AND 5120, max(iif(step = 5, loss, NULL)) < max(iif(step = 1, loss, NULL)) FROM lm_run_step;
--= 5 1 1

-- 4. An answer, and the most memory that was ever held on the way (the shell's and SQLite's own page cache aside): 16 bytes a
-- dial for learning, what a step remembers of 1,024 tokens, and the model as it answers.
SELECT generate('The model', '{"model":"gpt1","max_tokens":8}') AS answer;
SELECT lm_token_count(generate('The model', '{"model":"gpt1","max_tokens":8}'), '{"model":"gpt1"}') BETWEEN 0 AND 8, lm_check('gpt1');
--= 1 ok
SELECT round(json_extract(lm_debug(), '$.memory_peak') / 1e6) AS "megabytes at most";
SELECT json_extract(lm_debug(), '$.memory_peak') < 6e9;
--= 1
