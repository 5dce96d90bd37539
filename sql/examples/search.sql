-- search.sql: searching by meaning. Run it with `make search`.
--
-- The table package(id, name, description) holds some thousands of programs that Debian has, each with one line that says
-- what it does (sql/examples/packages.sh printed them). The model is all-MiniLM-L6-v2, 22.6 million parameters, called
-- 'minilm'; sqlite-vec's vec0 is loaded. A line that begins with --= is what the statement above it must give; tests
-- check it, on the first 300 packages.

-- 1. An embedding is a text as a point: texts that mean alike lie close, whatever words they use.
SELECT round(lm_similarity('How do I reset my password?', 'I forgot my login'), 3) AS alike,
       round(lm_similarity('How do I reset my password?', 'The weather is wonderful today.'), 3) AS unlike;

-- 2. An index over a column. The rows are embedded in batches, here all at once.
CREATE VIRTUAL TABLE package_idx USING lm_index(content='package', column='description', model='minilm');
INSERT INTO package_idx(package_idx) VALUES ('sync');
SELECT count(*) = (SELECT count(*) FROM package) FROM package_idx;
--= 1

-- 3. Search. None of these words need stand in what is found.
SELECT p.name, p.description, round(i.distance, 3) AS distance
FROM package_idx i JOIN package p ON p.id = i.rowid WHERE i.description MATCH 'have my computer beat me at chess' AND i.k = 5;
SELECT p.name, p.description, round(i.distance, 3) AS distance
FROM package_idx i JOIN package p ON p.id = i.rowid WHERE i.description MATCH 'turn a scanned page into text' AND i.k = 5;
SELECT p.name, p.description, round(i.distance, 3) AS distance
FROM package_idx i JOIN package p ON p.id = i.rowid WHERE i.description MATCH 'listen to stations from all over the world' AND i.k = 5;

-- 4. The answers are right: for each question the ten nearest are those that comparing with every row finds.
CREATE TEMP TABLE question(id INTEGER PRIMARY KEY, text);
INSERT INTO question(text) VALUES ('have my computer beat me at chess'), ('turn a scanned page into text'), ('listen to radio'), ('write a letter'),
    ('learn to type faster'), ('make a photo brighter'), ('block unwanted mail'), ('what stars are above me tonight'), ('cut a film'),
    ('solve equations'), ('compare two files'), ('a game for small children'), ('record my voice'), ('show a web page without a mouse'),
    ('talk over short wave'), ('draw a diagram'), ('read the news'), ('edit music notation'), ('keep passwords'), ('rip a CD');
CREATE TEMP TABLE vec AS SELECT key AS id, vector FROM embed_each('SELECT id, description FROM package');
CREATE TEMP TABLE brute AS
    SELECT question, row_number() OVER (PARTITION BY question ORDER BY distance) AS place, id, distance
    FROM (SELECT q.id AS question, v.id, 1 - lm_similarity(v.vector, embed(q.text)) AS distance FROM question q, vec v);
CREATE TEMP TABLE found AS
    SELECT q.id AS question, row_number() OVER (PARTITION BY q.id ORDER BY i.distance) AS place, i.rowid AS id, i.distance
    FROM question q JOIN package_idx i ON i.description MATCH q.text AND i.k = 10;
SELECT count(*), sum(abs(f.distance - b.distance) < 1e-5) FROM found f JOIN brute b USING (question, place);
--= 200 200

-- 5. The index keeps step with the table: what is written is found by the next search, what is taken back is not.
BEGIN;
INSERT INTO package(name, description) VALUES ('example', 'Teaches penguins how to waltz');
SELECT p.name FROM package_idx i JOIN package p ON p.id = i.rowid WHERE i.description MATCH 'dancing lessons for birds' AND i.k = 1;
--= example
ROLLBACK;
SELECT count(*) FROM package_idx i JOIN package p ON p.id = i.rowid WHERE i.description MATCH 'dancing lessons for birds' AND i.k = 1 AND p.name = 'example';
--= 0

-- 6. Without an index: a whole column in batches, and the nearest by comparing.
ALTER TABLE package ADD COLUMN vec;
UPDATE package SET vec = e.v FROM (SELECT id, embed_batch(description) OVER (ROWS BETWEEN CURRENT ROW AND 255 FOLLOWING) AS v FROM package) e
WHERE e.id = package.id;
SELECT sum(p.vec = v.vector) = count(*) FROM package p JOIN vec v USING (id);
--= 1
SELECT name, description FROM package ORDER BY lm_similarity(vec, embed('paint like a child')) DESC LIMIT 3;
