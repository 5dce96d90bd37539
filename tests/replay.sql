-- replay.sql: a log of statements, applied by tests/replay.test in processes with different kernels and threads, which then hold
-- the same rows. Add lines anywhere: a statement ends with ; at the end of a line, its rows and its error count too. Draws need a
-- seed. (dqlite and WAL shipping replicate pages; hosts that replicate statements, as this does, need every word of this log to
-- be the same everywhere, but for created_at, edit, and how long training took: seconds, in lm_run.state too, and tokens_per_s.)
SELECT lm_import('tests/golden/tiny.gguf');
SELECT lm_import('tests/golden/tiny.gguf', '{"name":"half","dtype":"f16"}'), lm_import('tests/golden/tiny.gguf', '{"name":"q8","dtype":"q8_0"}');
SELECT lm_import('tests/golden/hf_bert', '{"name":"encoder"}'), lm_import('tests/golden/arch_gemma3.gguf', '{"name":"gemma"}');
SELECT lm_import('tests/golden/arch_llama_moe.gguf', '{"name":"experts"}'), lm_import('tests/golden/arch_qwen3.gguf', '{"name":"qwen"}');
SELECT lm_config('generate_model', 'tiny'), lm_config('embed_model', 'encoder');

CREATE TABLE note(id INTEGER PRIMARY KEY, body, vec, wide, answer, drawn);
INSERT INTO note(body) VALUES ('one'), ('two words'), (NULL), ('The quick brown fox jumps over the lazy dog'), (12.5), ('{"a":"b"}'), ('Grüße, 世界 ' || char(128578)), (' ');
INSERT INTO note(body) WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 60) SELECT 'note ' || i || ' about ' || (i * 7919 % 101) FROM c;

-- Embed columns: alone, in a batch, in a transaction that is taken back.
UPDATE note SET vec = embed(body);
UPDATE note SET wide = e.v FROM (SELECT id, embed_batch(body, '{"model":"half"}') OVER (ROWS BETWEEN CURRENT ROW AND 31 FOLLOWING) AS v FROM note) e WHERE e.id = note.id;
BEGIN;
UPDATE note SET vec = embed(body, '{"model":"q8"}');
SELECT id, hex(vec) FROM note ORDER BY id LIMIT 3;
ROLLBACK;
CREATE TABLE near AS SELECT a.id AS a, b.id AS b, lm_similarity(a.vec, b.vec) AS cosine FROM note a JOIN note b ON b.id = a.id + 1;

-- Generate into columns: greedy, drawn with a seed, in batches, from quantised, sparse and other architectures.
UPDATE note SET answer = generate(body, '{"max_tokens":12}'), drawn = generate(body, '{"model":"q8","temperature":0.9,"top_p":0.9,"seed":7,"max_tokens":12}') WHERE id <= 8;
UPDATE note SET answer = b.t FROM (
    SELECT id, generate_batch(body, '{"model":"half","temperature":1.2,"top_k":40,"seed":11,"max_tokens":16}') OVER (ROWS BETWEEN CURRENT ROW AND 63 FOLLOWING) AS t
    FROM note WHERE id > 8) b WHERE b.id = note.id;
CREATE TABLE said AS SELECT key, text, n_prompt, n_tokens, finish, error FROM generate_each('SELECT id, body FROM note WHERE id < 40', '{"model":"gemma","max_tokens":9}');
INSERT INTO said SELECT key, text, n_prompt, n_tokens, finish, error FROM generate_each('SELECT id, body FROM note WHERE id < 40', '{"model":"experts","temperature":1.5,"seed":3,"max_tokens":9}');
INSERT INTO said SELECT key, text, n_prompt, n_tokens, finish, error FROM generate_each('SELECT id, body FROM note WHERE id < 40', '{"model":"qwen","repeat_penalty":1.2,"max_tokens":9}');
CREATE TABLE stream AS SELECT * FROM generate_stream('Once upon a time', '{"template":"none","max_tokens":30}');

-- A chat, turn by turn.
CREATE TABLE turn(id INTEGER PRIMARY KEY, role, content);
INSERT INTO turn(role, content) VALUES ('user', 'Hello');
INSERT INTO turn(role, content) SELECT 'assistant', lm_chat(json_group_array(json_object('role', role, 'content', content)), '{"max_tokens":12}') FROM (SELECT * FROM turn ORDER BY id);
INSERT INTO turn(role, content) VALUES ('user', 'And then? <|im_end|>');
INSERT INTO turn(role, content) SELECT 'assistant', lm_chat(json_group_array(json_object('role', role, 'content', content)), '{"max_tokens":12}') FROM (SELECT * FROM turn ORDER BY id);

-- A model of our own, its vocabulary learnt from the rows; dials that are turned, and turned back.
SELECT lm_create('made', '{"n_layers":2,"n_embd":64,"n_heads":4,"n_experts":4,"seed":5,"vocab":{"query":"SELECT body FROM note","size":400}}');
SELECT lm_create('plain', '{"arch":"gpt2","n_layers":2,"n_embd":48,"n_heads":3,"share_layers":1,"vocab":{"model":"made"}}');
UPDATE lm_weights SET value = value * -3 WHERE model = 'tiny' AND tensor = 'blk.0.ffn_up.weight' AND row BETWEEN 3 AND 9;
UPDATE lm_weights SET value = 0.1 WHERE model = 'half' AND tensor = 'token_embd.weight' AND row = 100;
UPDATE lm_weights SET value = value + 0.25 WHERE model = 'made' AND tensor = 'blk.1.attn_q.weight' AND col % 2 = 0;
UPDATE lm_weights SET value = CASE row WHEN 30 THEN 1e999 ELSE 1 END WHERE model = 'tiny' AND tensor = 'blk.1.ffn_up.weight';
BEGIN;
UPDATE lm_weights SET value = 0 WHERE model = 'tiny' AND tensor = 'output_norm.weight';
SELECT generate('Once', '{"max_tokens":8}');
ROLLBACK;
SELECT generate('Once', '{"max_tokens":8}'), generate('Once', '{"model":"made","max_tokens":8}'), generate('Once', '{"model":"plain","temperature":1,"seed":1,"max_tokens":8}');

-- Parameters that learn: a whole model, one that stops and goes on, experts, pairs, an adapter of a model of blocks; merged, quantised, asked.
CREATE TABLE lesson(id INTEGER PRIMARY KEY, text, label);
INSERT INTO lesson(text, label) SELECT body, iif(id % 2, 'odd', 'even') FROM note WHERE id BETWEEN 9 AND 40;
SELECT lm_create('mood', '{"n_layers":2,"n_embd":32,"n_heads":2,"n_ctx":64,"vocab":{"model":"made"}}');
SELECT step, epoch, tokens, loss, val_loss, lr, grad_norm, event FROM lm_train('{"model":"mood","query":"SELECT text, label FROM lesson","epochs":3,"batch_tokens":300,"lr":0.01,"dropout":0.1,"val_fraction":0.1,"checkpoint_every":2}');
SELECT lm_classify('note 7 about 3', '["odd","even"]', '{"model":"mood"}'), lm_classify(body, '["odd","even"]', '{"model":"mood","output":"label"}') FROM note WHERE id < 12;
SELECT step, loss FROM lm_train('{"model":"mood","query":"SELECT text FROM lesson","max_steps":9,"batch_tokens":200,"checkpoint_every":2,"lr":0.003}') LIMIT 5;
SELECT step, loss FROM lm_train('{"model":"mood","resume":true}') LIMIT 3;
SELECT step, loss, event FROM lm_train('{"model":"made","query":"SELECT text AS prompt, label AS completion FROM lesson","max_steps":2,"batch_tokens":200,"lr":0.001,"recompute":true}');
SELECT step, loss FROM lm_train('{"model":"encoder","query":"SELECT label, text FROM lesson","epochs":2,"batch_tokens":256,"lr":0.002}');
SELECT step, loss, grad_norm, event FROM lm_train('{"model":"q8","adapter":"moody","lora":{"rank":3,"alpha":6,"targets":["q","v","down"]},"query":"SELECT text, label FROM lesson","max_steps":2,"batch_tokens":200,"lr":0.02}');
SELECT step, loss FROM lm_train('{"model":"mood","adapter":"second","query":"SELECT text FROM lesson","epochs":2,"val_fraction":0.2}');
SELECT body, generate(body, '{"model":"q8","adapter":"moody","max_tokens":8}') FROM note WHERE id < 6;
SELECT generate_batch(body, '{"model":"q8","adapter":"moody","temperature":0.8,"seed":4,"max_tokens":8}') OVER (ROWS BETWEEN CURRENT ROW AND 31 FOLLOWING) FROM note WHERE id < 40;
SELECT lm_classify('note 7 about 3', '["odd","even"]', '{"model":"q8","adapter":"moody"}'), lm_perplexity('note 9 about 12', '{"model":"mood"}'), hex(embed('two words', '{"model":"encoder"}'));
SELECT lm_quantize('half', 'q4_0', 'q4'), lm_create('thirds', '{"arch":"gpt2","n_layers":2,"n_embd":48,"n_heads":3,"vocab":{"model":"made"}}'),
    lm_create('windows', '{"arch":"gemma3","n_layers":6,"n_embd":32,"n_heads":2,"vocab":{"model":"made"}}');
SELECT step, loss, grad_norm FROM lm_train('{"model":"q4","adapter":"moody","lora":{"rank":5},"query":"SELECT text, label FROM lesson","max_steps":2,"batch_tokens":200,"lr":0.02}');
SELECT step, loss, grad_norm FROM lm_train('{"model":"thirds","adapter":"moody","lora":{"rank":2},"query":"SELECT text FROM lesson","max_steps":2,"batch_tokens":200,"lr":0.1}');
SELECT step, loss, grad_norm FROM lm_train('{"model":"windows","adapter":"moody","lora":{"rank":17},"query":"SELECT text FROM lesson","max_steps":2,"batch_tokens":150,"lr":0.1}');
SELECT step, loss, grad_norm FROM lm_train('{"model":"made","adapter":"moody","query":"SELECT text FROM lesson","max_steps":2,"batch_tokens":150,"lr":0.1}');
-- Adapted answers, alone, in a batch, and without the adapter.
CREATE TABLE adapted(model, id, alone, batch, plain);
INSERT INTO adapted SELECT m.name, n.id, generate(n.body, json_object('model', m.name, 'adapter', 'moody', 'max_tokens', 6)), NULL, generate(n.body, json_object('model', m.name, 'max_tokens', 6))
    FROM lm_model m, note n WHERE m.name IN ('q8', 'q4', 'thirds', 'windows', 'made') AND n.id BETWEEN 9 AND 13;
UPDATE adapted SET batch = text FROM generate_each('SELECT id, body FROM note WHERE id BETWEEN 9 AND 13', '{"model":"q8","adapter":"moody","max_tokens":6}') WHERE model = 'q8' AND key = id;
UPDATE adapted SET batch = text FROM generate_each('SELECT id, body FROM note WHERE id BETWEEN 9 AND 13', '{"model":"q4","adapter":"moody","max_tokens":6}') WHERE model = 'q4' AND key = id;
UPDATE adapted SET batch = text FROM generate_each('SELECT id, body FROM note WHERE id BETWEEN 9 AND 13', '{"model":"thirds","adapter":"moody","max_tokens":6}') WHERE model = 'thirds' AND key = id;
UPDATE adapted SET batch = text FROM generate_each('SELECT id, body FROM note WHERE id BETWEEN 9 AND 13', '{"model":"windows","adapter":"moody","max_tokens":6}') WHERE model = 'windows' AND key = id;
UPDATE adapted SET batch = text FROM generate_each('SELECT id, body FROM note WHERE id BETWEEN 9 AND 13', '{"model":"made","adapter":"moody","max_tokens":6}') WHERE model = 'made' AND key = id;
SELECT model, count(*), sum(alone = batch), sum(alone <> plain) FROM adapted GROUP BY model ORDER BY model;
SELECT lm_merge('q8', 'moody', 'merged'), lm_merge('mood', 'second', 'merged too');
SELECT lm_quantize('merged', 'q4_0', 'four'), lm_quantize('mood', 'q8_0', 'eight');
SELECT generate('Once', '{"model":"merged","max_tokens":8}'), generate('Once', '{"model":"four","max_tokens":8}'), generate('note', '{"model":"eight","max_tokens":8}');
SELECT name, n_bytes, digest, info FROM lm_model;

-- Deleting, and a savepoint.
DELETE FROM lm_model WHERE name = 'qwen';
SAVEPOINT s;
DELETE FROM lm_model WHERE name IN ('gemma', 'half');
SELECT lm_import('tests/golden/arch_qwen2.gguf', '{"name":"taken back"}');
ROLLBACK TO s;
RELEASE s;
DELETE FROM note WHERE id % 5 = 0;
SELECT model, tensor, round(std, 12), zeros FROM lm_parameters WHERE tensor LIKE '%ffn_up%';
SELECT lm_check();
