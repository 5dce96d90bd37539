-- dials.sql: a tour of what a language model is made of. Run it with `make tour`.
--
-- A language model is a long list of numbers, its parameters. Nobody wrote them down: each began as chance and was
-- turned a little, many millions of times, until the text that came out was likely. Here they are rows, so you can
-- count them, look at them, turn them like dials, and see what happens.
--
-- `make tour` imports SmolLM2, 135 million parameters, with "dtype":"f16" (numbers of 16 bits each, which can be
-- written), or, where it cannot be fetched, the tiny built-in model, which knows nothing but small stories. Either is called
-- 'dials'. A line that begins with --= is what the statement above it must give; tests check it.

-- 1. How many dials are there, and how much room do they take?
SELECT sum(n_params) AS dials, sum(n_bytes) AS bytes, round(8.0 * sum(n_bytes) / sum(n_params), 2) AS bits_a_dial FROM lm_parameters('dials');

-- The model's own row says the same.
SELECT sum(p.n_params) = m.n_params FROM lm_parameters('dials') p, lm_model m WHERE m.name = 'dials';
--= 1

-- 2. Where are they? The model is a stack of layers, alike in size; what is in no layer turns words into numbers and
-- back again.
SELECT coalesce('layer ' || layer, 'words in and out') AS place, sum(n_params) AS dials FROM lm_parameters('dials') GROUP BY layer;

-- And within the first layer:
SELECT tensor, shape, dtype, n_params, round(min, 3) AS least, round(max, 3) AS most, round(std, 4) AS spread
FROM lm_parameters('dials') WHERE layer = 0;

-- 3. What do they look like? Most are close to zero: a histogram of one table of them.
CREATE TEMP TABLE spread AS SELECT max(abs(min), max) AS most FROM lm_parameters('dials') WHERE tensor = 'blk.0.attn_q.weight';
SELECT printf('%+.3f', bin * most / 8) AS about, count(*) AS dials, printf('%.*c', 60 * count(*) / (SELECT n_params FROM lm_parameters('dials')
       WHERE tensor = 'blk.0.attn_q.weight') + 1, '#') AS bar
FROM (SELECT CAST(round(value / most * 8) AS INTEGER) AS bin, most FROM lm_weights('dials', 'blk.0.attn_q.weight'), spread)
GROUP BY bin ORDER BY bin;

-- 4. What does the model say? For each next piece of text it gives a logprob: 0 is certainty, -0.7 even odds, -7 one in
-- a thousand.
CREATE TEMP TABLE before AS
    SELECT step, piece, logprob FROM generate_stream('The capital of France is', '{"model":"dials","template":"none","max_tokens":5}');
SELECT step, piece, round(logprob, 4) AS logprob FROM before;

-- 5. Turn one dial: the largest of those that weigh what enters the first layer. BEGIN first, so that it can be undone.
CREATE TEMP TABLE chosen AS
    SELECT row, col, value FROM lm_weights('dials', 'blk.0.attn_norm.weight') ORDER BY abs(value) DESC LIMIT 1;
SELECT col AS dial, round(value, 4) AS value FROM chosen;
BEGIN;
UPDATE lm_weights SET value = value * 8
WHERE model = 'dials' AND tensor = 'blk.0.attn_norm.weight' AND row = (SELECT row FROM chosen) AND col = (SELECT col FROM chosen);
SELECT changes();
--= 1

-- One number of millions, and every logprob has moved.
SELECT b.step, b.piece AS was, round(b.logprob, 4) AS logprob_was, a.piece AS now, round(a.logprob, 4) AS logprob_now
FROM generate_stream('The capital of France is', '{"model":"dials","template":"none","max_tokens":5}') a JOIN before b USING (step);
SELECT logprob <> (SELECT logprob FROM before WHERE step = 0)
FROM generate_stream('The capital of France is', '{"model":"dials","template":"none","max_tokens":1}');
--= 1

-- Turn it back by not having turned it.
ROLLBACK;
SELECT logprob = (SELECT logprob FROM before WHERE step = 0)
FROM generate_stream('The capital of France is', '{"model":"dials","template":"none","max_tokens":1}');
--= 1

-- 6. Turn a whole head off. Each layer looks back at the text through several heads, each with its own columns of this
-- table. Set one head's columns to zero, and the model goes on without it.
CREATE TEMP TABLE head AS
    SELECT json_extract(hparams, '$.head_dim') AS size, json_extract(hparams, '$.n_heads') AS heads FROM lm_model WHERE name = 'dials';
BEGIN;
UPDATE lm_weights SET value = 0
WHERE model = 'dials' AND tensor = 'blk.0.attn_output.weight' AND col >= (SELECT size FROM head) AND col < 2 * (SELECT size FROM head);
SELECT changes() AS dials_at_zero;
SELECT zeros >= (SELECT size FROM head) * rows FROM (
    SELECT zeros, json_extract(shape, '$[0]') AS rows FROM lm_parameters('dials') WHERE tensor = 'blk.0.attn_output.weight');
--= 1
SELECT b.step, b.piece AS was, round(b.logprob, 4) AS logprob_was, a.piece AS without, round(a.logprob, 4) AS logprob_without
FROM generate_stream('The capital of France is', '{"model":"dials","template":"none","max_tokens":5}') a JOIN before b USING (step);

-- 7. Undo. The old numbers are back, to the last bit: the model's digest is what it was.
ROLLBACK;
SELECT digest IS NOT NULL, lm_check('dials') FROM lm_model WHERE name = 'dials';
--= 1 ok
SELECT count(*) = (SELECT count(*) FROM before)
FROM generate_stream('The capital of France is', '{"model":"dials","template":"none","max_tokens":5}') a JOIN before b USING (step, piece, logprob);
--= 1
