-- tiny.sql: how models/tiny.gguf was made: `make retrain` (minutes) runs it on an empty database.
--
-- 20,000 small stories, all written by models/stories.sql; a vocabulary of 1,024 tokens learnt from them; a llama of about one
-- million parameters, trained by lm_train; its numbers then kept as 8 bits.
CREATE TEMP TABLE wanted AS SELECT 20000 AS n;
.read models/stories.sql

SELECT lm_create('tiny32', '{"n_layers":4,"n_embd":128,"n_heads":4,"n_ff":384,"n_ctx":512,"seed":1,"vocab":{"query":"SELECT text FROM story","size":1024}}');
SELECT step, epoch, round(loss, 4) AS loss, round(val_loss, 4) AS val_loss, round(tokens_per_s) AS tokens_per_s, event
FROM lm_train('{"model":"tiny32","query":"SELECT text FROM story","epochs":3,"batch_tokens":4096,"lr":0.003,"val_fraction":0.02,"eval_every":100,"patience":5}')
WHERE val_loss IS NOT NULL OR event IS NOT NULL;
SELECT lm_quantize('tiny32', 'q8_0', 'tiny');
SELECT name, n_params, n_bytes, json(info) FROM lm_model;
SELECT generate('Once upon a time', '{"model":"tiny"}');
SELECT lm_export('tiny', 'models/tiny.gguf');
