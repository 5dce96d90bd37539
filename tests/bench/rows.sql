-- rows.sql: 64 prompts, a shared instruction of 200 tokens (SmolLM2's) and a row's own text of 11 to 33: temp.prompt(id, body).
-- The row's number comes first, so that no two rows share more than the instruction.
CREATE TEMP TABLE instruction AS SELECT
'You read short notes that people have left in a shared notebook, and you explain each of them to a reader who has never seen ' ||
'the notebook before. First say in plain words what the note is about. Then say who might have written it, and why that person ' ||
'may have thought that it was worth writing down. If the note holds a number, a date, a place or the name of a person, repeat it ' ||
'exactly as it stands, for others will search for it. If the note mixes several things, take them one after the other, in the order in ' ||
'which they stand, and say where one ends and the next begins. Do not judge the writer, do not correct the spelling, and do not add ' ||
'facts that the note does not hold. Write complete sentences, use short words where short words do, and never answer with a list or ' ||
'with a table. When you are not sure what a note means, say so, and ' ||
'give the two most likely readings. Here is the note:' AS body;
CREATE TEMP TABLE prompt AS
SELECT key AS id, instruction.body || ' (' || key || ') ' || substr(value, 1, 120) AS body
FROM instruction, json_each('[' || replace(trim(CAST(readfile('tests/bench/texts.jsonl') AS TEXT), char(10)), char(10), ',') || ']') LIMIT 64;
