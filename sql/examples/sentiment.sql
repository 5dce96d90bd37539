-- sentiment.sql: dials that learn. Run it with `make sentiment` (half a minute).
--
-- A new model knows nothing: its parameters are chance. Shown sentences with their labels, each parameter is turned a little in
-- the direction that makes the right label more likely (backpropagation finds which direction that is), a few thousand times.
-- Then it is asked about sentences that it has never seen. A line that begins with --= is what the statement above it must
-- give; tests check it.

-- 1. Sentences and labels. A few ways to praise and to complain, about many things. "used to love" complains, "never get tired"
-- praises: single words do not tell.
CREATE TABLE opinion(id INTEGER PRIMARY KEY, text, label);
INSERT INTO opinion(text, label)
SELECT replace(way.text, '*', thing.value), way.label
FROM (SELECT json_extract(value, '$[0]') AS label, json_extract(value, '$[1]') AS text FROM json_each('[
    ["positive","I love *!"], ["positive","I really like *."], ["positive","I enjoy * so much."], ["positive","I never get tired of *."],
    ["positive","There is nothing better than *."], ["positive","What could be wrong with *? Nothing!"], ["positive","I used to hate *, but now I love them."],
    ["negative","I hate *!"], ["negative","I really dislike *."], ["negative","I am so tired of *."], ["negative","I never want to see * again."],
    ["negative","There is nothing worse than *."], ["negative","What could be good about *? Nothing!"], ["negative","I used to love *, but now I hate them."]]')) way,
    json_each('["sunny days","rainy mornings","long walks","old films","loud parties","cold soups","new shoes","small dogs","train rides",
    "school trips","paper kites","spicy noodles","quiet evenings","big cities","warm blankets","early meetings","card games","fresh apples",
    "strong winds","wild horses","summer nights","crowded shops","green tomatoes","brass bands","cheap hotels","slow songs"]') thing;

-- Every fifth sentence is kept for the examination, and all that love or hate sunny days.
ALTER TABLE opinion ADD COLUMN is_exam;
UPDATE opinion SET is_exam = id % 5 = 0 OR text GLOB 'I [lh]* sunny days!';
SELECT label, count(*) AS sentences, sum(is_exam) AS examination FROM opinion GROUP BY label;

-- 2. A model of chance.
SELECT lm_create('mood', '{"n_layers":2,"n_embd":64,"n_heads":4,"n_ctx":64,"seed":3,"vocab":{"query":"SELECT text FROM opinion","size":512}}');
--= mood
SELECT n_params AS dials FROM lm_model WHERE name = 'mood';

-- What does it think of a sentence? It is unsure: about even.
SELECT lm_classify('I love sunny days!', '["negative","positive"]', '{"model":"mood"}') AS before;
CREATE TEMP TABLE before AS SELECT lm_classify('I love sunny days!', '["negative","positive"]', '{"model":"mood"}') ->> 'positive' AS p;
SELECT p BETWEEN 0.3 AND 0.7 FROM before;
--= 1

-- 3. Learning, in a transaction of its own: ROLLBACK would bring the old dials back. Validation sentences are set aside, and
-- when they have not been foretold better for three evaluations, it is enough.
BEGIN IMMEDIATE;
SELECT step, epoch, round(loss, 3) AS loss, round(val_loss, 3) AS val_loss, round(lr, 5) AS lr, event
FROM lm_train('{"model":"mood","query":"SELECT text, label FROM opinion WHERE NOT is_exam","epochs":20,"batch_tokens":512,"lr":0.003,
                "val_fraction":0.1,"eval_every":20,"patience":3}')
WHERE val_loss IS NOT NULL;
COMMIT;

-- 4. The same question again. It is positive, and confident.
SELECT lm_classify('I love sunny days!', '["negative","positive"]', '{"model":"mood"}') AS after;
SELECT lm_classify('I love sunny days!', '["negative","positive"]', '{"model":"mood"}') ->> 'positive' > 0.9;
--= 1
SELECT lm_classify('I hate sunny days!', '["negative","positive"]', '{"model":"mood"}') ->> 'negative' > 0.9;
--= 1

-- 5. The examination: sentences that it was never shown.
CREATE TEMP TABLE answer AS
    SELECT text, label, lm_classify(text, '["negative","positive"]', '{"model":"mood","output":"label"}') AS answer FROM opinion WHERE is_exam;
SELECT count(*) AS asked, sum(answer = label) AS "right", round(100.0 * sum(answer = label) / count(*), 1) AS percent FROM answer;
SELECT 1.0 * sum(answer = label) / count(*) >= 0.95 FROM answer;
--= 1
SELECT text, label, answer FROM answer WHERE answer <> label LIMIT 5;
