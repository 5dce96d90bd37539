-- pairs.sql: an encoder that learns what belongs together. Run it with `make pairs` (a quarter of a minute; two seconds in tests).
--
-- A shop's articles have numbers in a language of its own: a red woollen hat is zo-hu-re. No encoder can know that, however
-- much it has read. Shown pairs of (what customers write, number), it turns its dials until the two texts of a pair lie close
-- and those of different pairs do not. Then it is asked for articles that it was never shown. The model is called 'encoder':
-- all-MiniLM-L6-v2, or in tests a BERT of 22 thousand dials that have never learnt anything. A line that begins with --= is
-- what the statement above it must give; tests check it.

-- 1. Articles: six colours of five cloths in six shapes. Three in ten are kept for the examination.
CREATE TABLE article(id INTEGER PRIMARY KEY, words, number, is_exam, words_vec, number_vec);
INSERT INTO article(words, number)
SELECT printf('%s %s %s', colour.value ->> 0, cloth.value ->> 0, shape.value ->> 0), printf('%s-%s-%s', shape.value ->> 1, cloth.value ->> 1, colour.value ->> 1)
FROM json_each('[["red","re"],["blue","bo"],["grey","ga"],["pink","pu"],["tan","ti"],["white","wa"]]') colour,
     json_each('[["wool","hu"],["silk","so"],["felt","ny"],["jute","ce"],["lace","jo"]]') cloth,
     json_each('[["hat","zo"],["sock","mi"],["scarf","ka"],["gown","le"],["glove","du"],["vest","fe"]]') shape;
UPDATE article SET is_exam = id * 7 % 10 < 3;
SELECT count(*), sum(is_exam) FROM article;
--= 180 54
SELECT words, number FROM article LIMIT 3;

-- 2. The examination. All 180 numbers are put in the order of how close they lie to the customer's words: in which place is the
-- right one? recall@1 is how often it is the first; the mean reciprocal rank also counts a second place half, a third a third.
CREATE TEMP VIEW place AS
    SELECT a.id, a.words, a.number, (SELECT count(*) FROM article o
        WHERE lm_similarity(a.words_vec, o.number_vec) >= lm_similarity(a.words_vec, a.number_vec)) AS place
    FROM article a WHERE a.is_exam;
CREATE TEMP TABLE score(moment, recall_at_1, reciprocal_rank);

-- The encoder as it is finds hardly more than chance does.
UPDATE article SET words_vec = embed(words, '{"model":"encoder"}'), number_vec = embed(number, '{"model":"encoder"}');
INSERT INTO score SELECT 'before', avg(place = 1), avg(1.0 / place) FROM place;
SELECT recall_at_1 < 0.1, reciprocal_rank < 0.2 FROM score;
--= 1 1

-- 3. Learning. In a batch of pairs each text is to be told from all texts of the other pairs. A small model takes longer strides.
SELECT step, epoch, tokens, round(loss, 3) AS loss, round(lr, 5) AS lr
FROM lm_train((SELECT json_object('model', name, 'rows', 'pair', 'query', 'SELECT words, number FROM article WHERE NOT is_exam', 'batch_tokens', 2048,
                                  'epochs', iif(n_params < 1e6, 100, 10), 'lr', iif(n_params < 1e6, 0.005, 0.0005)) FROM lm_model WHERE name = 'encoder'))
WHERE epoch IN (1, 2, 3, 5, 10, 30, 100);

-- 4. The same examination again. Vectors that the old dials made are of no more use: they are computed anew.
UPDATE article SET words_vec = embed(words, '{"model":"encoder"}'), number_vec = embed(number, '{"model":"encoder"}');
INSERT INTO score SELECT 'after', avg(place = 1), avg(1.0 / place) FROM place;
SELECT moment, round(recall_at_1, 3) AS "recall@1", round(reciprocal_rank, 3) AS "mean reciprocal rank" FROM score;
SELECT recall_at_1 > 0.8, reciprocal_rank > 0.85 FROM score WHERE moment = 'after';
--= 1 1
SELECT words, number, place FROM place LIMIT 5;

-- 5. Finding as a customer does it: by words alone, among the numbers of articles that were never shown with any words.
SELECT number FROM article WHERE is_exam ORDER BY lm_similarity(number_vec, embed('blue silk gown', '{"model":"encoder"}')) DESC LIMIT 1;
--= le-so-bo
SELECT lm_check('encoder'), (SELECT status FROM lm_run);
--= ok done
