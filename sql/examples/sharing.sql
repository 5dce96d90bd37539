-- sharing.sql: the same dials, used better. Run it with `make sharing` (a minute).
--
-- Parameters cost memory, and a token costs the parameters that it meets. Three models learn the same stories for the same
-- number of steps, and a token meets nearly the same number of dials in each:
--     plain      four layers
--     shared     four layers deep, but one layer's dials, met four times
--     experts    four layers; half of each is eight experts, of which a router picks two for each token
-- A line that begins with --= is what the statement above it must give; tests check it.

-- 1. The stories: models/stories.sql made them (the table story).
SELECT count(*) AS stories, sum(length(text)) AS letters FROM story;

-- 2. Three models.
SELECT lm_create('plain', '{"n_layers":4,"n_embd":64,"n_heads":4,"n_ff":192,"n_ctx":192,"vocab":{"query":"SELECT text FROM story","size":512}}');
--= plain
SELECT lm_create('shared', '{"n_layers":4,"share_layers":1,"n_embd":64,"n_heads":4,"n_ff":192,"n_ctx":192,"vocab":{"model":"plain"}}');
--= shared
SELECT lm_create('experts', '{"n_layers":4,"n_experts":8,"n_active":2,"n_embd":64,"n_heads":4,"n_ff":96,"n_ctx":192,"vocab":{"model":"plain"}}');
--= experts

-- 3. The same lessons for each: 150 steps of 1,024 tokens.
SELECT step, round(loss, 3) AS loss, round(val_loss, 3) AS val_loss, event
FROM lm_train('{"model":"plain","query":"SELECT text FROM story","max_steps":150,"batch_tokens":1024,"lr":0.004,"val_fraction":0.05,"eval_every":50}') WHERE val_loss IS NOT NULL;
SELECT step, round(loss, 3) AS loss, round(val_loss, 3) AS val_loss, event
FROM lm_train('{"model":"shared","query":"SELECT text FROM story","max_steps":150,"batch_tokens":1024,"lr":0.004,"val_fraction":0.05,"eval_every":50}') WHERE val_loss IS NOT NULL;
SELECT step, round(loss, 3) AS loss, round(val_loss, 3) AS val_loss, event
FROM lm_train('{"model":"experts","query":"SELECT text FROM story","max_steps":150,"batch_tokens":1024,"lr":0.004,"val_fraction":0.05,"eval_every":50}') WHERE val_loss IS NOT NULL;

-- 4. What it took and what it gave. The loss is -ln p of the next token, in stories that were not shown.
CREATE TEMP TABLE outcome AS
SELECT m.name, m.n_params, m.n_active, m.n_bytes, min(s.val_loss) AS loss, avg(s.tokens_per_s) AS tokens_per_s
FROM lm_model m JOIN lm_run r ON r.model = m.id JOIN lm_run_step s ON s.run = r.id GROUP BY m.id;
SELECT name, n_params AS dials, n_active AS "met by a token", n_bytes AS bytes, round(loss, 3) AS loss, round(tokens_per_s) AS "tokens/s" FROM outcome;

-- One layer's dials, met four times, come near four layers' with a third of the dials. The experts are nearly three times the
-- dials at the price of one: a token meets as many as in the plain model. In so short a school each expert has heard a quarter of
-- what a plain layer has, and they are not ahead yet.
SELECT s.n_params < p.n_params / 2 AND e.n_params > 2 * p.n_params AND abs(e.n_active - p.n_active) < p.n_active / 20
FROM outcome p, outcome s, outcome e WHERE p.name = 'plain' AND s.name = 'shared' AND e.name = 'experts';
--= 1
SELECT p.loss < s.loss AND s.loss < p.loss + 0.6 AND e.loss < s.loss FROM outcome p, outcome s, outcome e WHERE p.name = 'plain' AND s.name = 'shared' AND e.name = 'experts';
--= 1

-- 5. Fewer bits a dial: the plain model in eight bits instead of thirty-two.
SELECT lm_quantize('plain', 'q8_0', 'plain8');
--= plain8
SELECT name, n_bytes AS bytes, round(lm_perplexity((SELECT text FROM story WHERE id = 1), json_object('model', name)), 3) AS perplexity FROM lm_model WHERE name GLOB 'plain*';
SELECT abs(lm_perplexity(text, '{"model":"plain8"}') / lm_perplexity(text, '{"model":"plain"}') - 1) < 0.01 FROM story WHERE id = 1;
--= 1
