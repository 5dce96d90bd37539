-- overfit.sql: parameters can learn by heart. Run it with `make overfit` (half a minute).
--
-- A model with many more dials than it has examples does not need to understand them: it can remember them word for word. Then
-- the loss on what it was shown goes on falling, while the loss on what it was not shown rises. That is overfitting; the only
-- cure is to look at sentences that are not used for learning, and to stop. A line that begins with --= is what the statement
-- above it must give; tests check it.

-- 1. Twenty small sentences, of one kind.
CREATE TABLE tale(id INTEGER PRIMARY KEY, text);
INSERT INTO tale(text)
SELECT printf('The %s %s %s the %s.', size.value, who.value, does.value, what.value)
FROM (SELECT key AS k, value FROM json_each('["old","young","small","quiet","brave"]')) size,
     (SELECT key AS k, value FROM json_each('["farmer","teacher","sailor","baker"]')) who
JOIN (SELECT key AS k, value FROM json_each('["sees","paints","sells","carries","hides"]')) does ON does.k = (size.k + 2 * who.k) % 5
JOIN (SELECT key AS k, value FROM json_each('["boat","bread","horse","lamp","apple","door","letter"]')) what ON what.k = (3 * size.k + 5 * who.k) % 7;
SELECT count(*) FROM tale;
--= 20
SELECT text FROM tale LIMIT 3;

-- 2. Two models of the same first dials, far more than there are letters to learn from.
SELECT lm_create('parrot', '{"n_layers":2,"n_embd":64,"n_heads":4,"n_ctx":64,"seed":1}'), lm_create('pupil', '{"n_layers":2,"n_embd":64,"n_heads":4,"n_ctx":64,"seed":1}');
SELECT name, n_params AS dials, (SELECT sum(length(text)) FROM tale) AS letters FROM lm_model;

-- 3. The parrot hears fourteen of the sentences again and again; the other six are held back. The event names what happens.
SELECT step, round(loss, 3) AS loss, round(val_loss, 3) AS val_loss, event
FROM lm_train('{"model":"parrot","query":"SELECT text FROM tale","epochs":80,"batch_tokens":256,"lr":0.003,"schedule":"constant","weight_decay":0,"val_fraction":0.3,"eval_every":10}')
WHERE val_loss IS NOT NULL;

-- Every step is a row, also later.
CREATE TEMP VIEW curve AS SELECT m.name, s.* FROM lm_run_step s JOIN lm_run r ON r.id = s.run JOIN lm_model m ON m.id = r.model;
SELECT count(*) > 0 FROM curve WHERE name = 'parrot' AND event LIKE '%overfitting%';
--= 1

-- In the end it knows its fourteen sentences nearly by heart, and the other six surprise it more than they did at its best.
CREATE TEMP TABLE last AS SELECT val_loss FROM curve WHERE name = 'parrot' AND val_loss IS NOT NULL ORDER BY step DESC LIMIT 1;
SELECT round(min(val_loss), 3) AS best, (SELECT round(val_loss, 3) FROM last) AS last, round(min(loss), 3) AS "of those shown" FROM curve WHERE name = 'parrot';
SELECT (SELECT val_loss FROM last) > 1.1 * min(val_loss) AND min(loss) < 0.5 * min(val_loss) FROM curve WHERE name = 'parrot';
--= 1

-- 4. The pupil is taught the same, but stops when three looks at the held-back sentences have brought nothing better.
SELECT step, round(loss, 3) AS loss, round(val_loss, 3) AS val_loss, event
FROM lm_train('{"model":"pupil","query":"SELECT text FROM tale","epochs":80,"batch_tokens":256,"lr":0.003,"schedule":"constant","weight_decay":0,"val_fraction":0.3,"eval_every":10,"patience":3}')
WHERE val_loss IS NOT NULL;
SELECT (SELECT max(step) FROM curve WHERE name = 'pupil') < (SELECT max(step) FROM curve WHERE name = 'parrot');
--= 1

-- What either keeps are the dials of its best moment, not of the last: they are the same.
SELECT count(DISTINCT digest) FROM lm_model;
--= 1
