-- report.sql: what bench.sh has measured, out of bench.db: a table, build/bench.json, and the charts' numbers.

CREATE TEMP TABLE median AS
SELECT who, work, value, least, most, n FROM (
    SELECT who, work, value, min(value) OVER w AS least, max(value) OVER w AS most, count(*) OVER w AS n,
           row_number() OVER (PARTITION BY who, work ORDER BY value) AS nth
    FROM sample WHERE typeof(value) <> 'text' WINDOW w AS (PARTITION BY who, work))
WHERE nth = (n + 1) / 2;

-- What one token or row takes of a limit, in units of 10^9: the bytes of all weights for a token that comes alone; two operations
-- for each of the layers' weights for one of many, and for the head's too where each must yield a token. Attention is left out.
CREATE TEMP TABLE cost AS
SELECT key, value * 1e-9 AS value FROM fact WHERE key GLOB '*_bytes'
UNION ALL SELECT key, value * 2e-9 FROM fact WHERE key GLOB '*_layers' OR key GLOB '*_params'
UNION ALL SELECT 'text', f.value * 2e-9 * k.value / t.value FROM fact f, median k, median t
          WHERE f.key = 'f32_layers' AND k.who = 'ours' AND k.work = 'f32_tokens' AND t.who = 'ours' AND t.work = 'f32_texts';

-- ours and theirs name samples; is_less: less is better.
CREATE TEMP TABLE work(nr INTEGER PRIMARY KEY, model, label, unit, ours, peer, theirs, target, cost, lim, is_less);
INSERT INTO work(model, label, unit, ours, peer, theirs, target, cost, lim, is_less) VALUES
('SmolLM2 Q4_1', 'decode, 128 tokens', 't/s', 'smollm2_tg128', 'llama.cpp', 'smollm2_tg128', 1.8, 'smollm2_bytes', 'smollm2_read_2', 0),
('', 'prefill, 512 tokens', 't/s', 'smollm2_pp512', 'llama.cpp', 'smollm2_pp512', 5, 'smollm2_layers', 'tile_q4_1', 0),
('', 'decode, 32 sequences', 't/s', 'batch_rows_32', 'llama.cpp', 'batch_rows_32', 5, 'smollm2_params', 'tile_q4_1', 0),
('', 'generate_batch, 64 rows', 'rows/s', 'rows_batch', 'sqlite-ai', 'rows_batch', 20, NULL, NULL, 0),
('', 'generate, scan of 64 rows', 'rows/s', 'rows_scan', 'sqlite-ai', 'rows_scan', 4, NULL, NULL, 0),
('Gemma 3 Q4_K_M', 'decode, 128 tokens', 't/s', 'gemma3_tg128', 'llama.cpp', 'gemma3_tg128', 1.5, 'gemma3_bytes', 'gemma3_read_2', 0),
('', 'prefill, 512 tokens', 't/s', 'gemma3_pp512', 'llama.cpp', 'gemma3_pp512', 3, 'gemma3_layers', 'tile_q4_1', 0),
('MiniLM F32', 'embed_batch, 256 rows', 'rows/s', 'f32_sql_packed', 'llama.cpp', 'f32_embed_packed', 1.5, 'text', 'sgemm', 0),
('', 'embed, scan of 256 rows', 'rows/s', 'f32_sql_one', 'llama.cpp', 'f32_embed_one', NULL, 'text', 'sgemm', 0),
('', 'engine alone, packed', 'rows/s', 'f32_embed_packed', 'llama.cpp', 'f32_embed_packed', NULL, 'text', 'sgemm', 0),
('', 'engine alone, one by one', 'rows/s', 'f32_embed_one', 'llama.cpp', 'f32_embed_one', NULL, 'text', 'sgemm', 0),
('MiniLM Q8_0', 'embed_batch, 256 rows', 'rows/s', 'q8_0_sql_packed', 'llama.cpp', 'q8_0_embed_packed', 3, 'text', 'tile_q4_1', 0),
('', 'embed, scan of 256 rows', 'rows/s', 'q8_0_sql_one', 'llama.cpp', 'q8_0_embed_one', NULL, 'text', 'tile_q4_1', 0),
('', 'engine alone, packed', 'rows/s', 'q8_0_embed_packed', 'llama.cpp', 'q8_0_embed_packed', NULL, 'text', 'tile_q4_1', 0),
('', 'engine alone, one by one', 'rows/s', 'q8_0_embed_one', 'llama.cpp', 'q8_0_embed_one', NULL, 'text', 'tile_q4_1', 0),
('Training, float32', '1M parameters', 't/s', '1M_tokens_per_s', 'PyTorch', '1M_tokens_per_s', 2, NULL, NULL, 0),
('', '5M parameters', 't/s', '5M_tokens_per_s', 'PyTorch', '5M_tokens_per_s', 1.4, NULL, NULL, 0),
('', '15M parameters', 't/s', '15M_tokens_per_s', 'PyTorch', '15M_tokens_per_s', 1.1, NULL, NULL, 0),
('', 'memory at most, 15M', 'MB', '15M_peak_mb', 'PyTorch', '15M_peak_mb', NULL, NULL, NULL, 1),
('', '117M, 1,024 tokens a step', 's', 'gpt1_step_s', NULL, NULL, NULL, NULL, NULL, 1),
('', 'memory at most, shell and all', 'MB', 'gpt1_peak_mb', NULL, NULL, NULL, NULL, NULL, 1),
('SmolLM2 Q4_1', 'first token after 64', 'ms', 'start_first_64', 'llama.cpp', 'start_first_64', NULL, NULL, NULL, 1),
('', 'first token after 512', 'ms', 'start_first_512', 'llama.cpp', 'start_first_512', NULL, NULL, NULL, 1),
('', 'loading, at the first call', 's', 'load_seconds', 'sqlite-ai', 'load_seconds', NULL, NULL, NULL, 1),
('', 'of that, packing q4_1', 'GB/s', 'pack_q4_1', NULL, NULL, NULL, NULL, NULL, 0),
('', 'memory at most, shell and all', 'MB', 'load_peak_mb', 'sqlite-ai', 'load_peak_mb', NULL, NULL, NULL, 1),
('', 'import', 'MB/s', 'import_rate', NULL, NULL, NULL, NULL, NULL, 0),
('', 'tokenizer', 'MB/s', 'tok_smollm2', 'llama.cpp', 'tok_smollm2', NULL, NULL, NULL, 0),
('MiniLM', 'tokenizer', 'MB/s', 'tok_minilm', 'tokenizers', 'tok_minilm', NULL, NULL, NULL, 0);

-- A limit is what is possible: its best figure. Figures that are others in another unit.
UPDATE median SET value = most WHERE who = 'machine';
INSERT INTO median SELECT who, replace(work, '_kb', '_mb'), value * 1.024e-3, least * 1.024e-3, most * 1.024e-3, n FROM median WHERE work GLOB '*_peak_kb';
INSERT INTO median SELECT who, '15M_peak_mb', value * 1.048576, least * 1.048576, most * 1.048576, n FROM median WHERE work = '15M_peak_rss_mib';
INSERT INTO median SELECT who, 'start_first_' || substr(work, 9), substr(work, 9) / value * 1e3, substr(work, 9) / most * 1e3,
    substr(work, 9) / least * 1e3, n FROM median WHERE who = 'llama.cpp' AND work GLOB 'start_pp*';
-- Without an sqlite-ai its loop is llama.cpp's; without an OpenBLAS the limit of floats is our own product.
UPDATE work SET peer = 'llama.cpp', theirs = 'rows_loop' WHERE ours GLOB 'rows_*' AND NOT EXISTS (SELECT 1 FROM median WHERE who = 'sqlite-ai' AND work = 'rows_batch');
UPDATE work SET lim = 'tile_f32' WHERE lim = 'sgemm' AND NOT EXISTS (SELECT 1 FROM median WHERE work = 'sgemm');

CREATE TEMP TABLE result AS
SELECT nr, model, label, unit, o.value AS ours, o.least, o.most, o.n, iif(t.value IS NULL, NULL, peer) AS peer, t.value AS theirs,
       iif(is_less, 1.0 * t.value / o.value, 1.0 * o.value / t.value) AS ratio, target,
       o.value * cost.value / l.value AS share, l.value AS lim, iif(lim GLOB '*read*', 'GB/s', 'GFLOP/s') AS lim_unit
FROM work
LEFT JOIN median o ON o.who = 'ours' AND o.work = work.ours
LEFT JOIN median t ON t.who = work.peer AND t.work = work.theirs
LEFT JOIN median l ON l.who = 'machine' AND l.work = work.lim
LEFT JOIN cost ON cost.key = work.cost;

-- Three digits of a number; a column that ends at its right edge.
CREATE TEMP VIEW shown AS
SELECT nr, (SELECT model FROM result m WHERE m.nr <= r.nr AND m.model <> '' ORDER BY m.nr DESC LIMIT 1) AS whole_model, model, label,
       printf(CASE WHEN ours < 10 THEN '%.2f' WHEN ours < 100 THEN '%.1f' ELSE '%.0f' END, ours) || ' ' || unit AS ours,
       iif(theirs IS NULL, NULL, printf(CASE WHEN theirs < 10 THEN '%.2f' WHEN theirs < 100 THEN '%.1f' ELSE '%.0f' END, theirs)) AS theirs, peer,
       printf('%.1f x', ratio) AS ratio, ratio AS number, printf('%g x', target) AS target, target AS wanted,
       printf('%2.0f %% of %.0f %s', share * 100, lim, lim_unit) AS share, share AS part
FROM result r WHERE ours IS NOT NULL;

.mode list
SELECT '';
SELECT value || ', ' || (SELECT value FROM fact WHERE key = 'cpu_flags') FROM fact WHERE key = 'machine';
SELECT printf('%d threads, kernels %s; memory reads at %.0f GB/s (%.0f on one thread); OpenBLAS sgemm %s, our own tiles %.0f (floats) and %.0f (q4_1) GFLOP/s', 2,
    (SELECT value FROM sample WHERE work = 'kernels' LIMIT 1),
    max(iif(work = 'dram_2', value, 0)), max(iif(work = 'dram_1', value, 0)), coalesce(printf('%.0f', max(iif(work = 'sgemm', value, NULL))), 'none'),
    max(iif(work = 'tile_f32', value, 0)), max(iif(work = 'tile_q4_1', value, 0))) FROM median WHERE who = 'machine';
SELECT printf('commit %s, %s; medians of %d round%s', (SELECT value FROM fact WHERE key = 'commit'), (SELECT value FROM fact WHERE key = 'date'),
    max(round), iif(max(round) > 1, 's', '')) FROM sample;
.mode box
SELECT model AS '', label AS work, printf('%12s', ours) AS 'sqlite-lm', printf('%6s', coalesce(theirs, '-')) AS theirs, coalesce(peer, '') AS 'who',
       iif(number IS NULL, '', printf('%7s', ratio)) AS ratio, iif(wanted IS NULL, '', printf('%6s', target)) AS target, iif(part IS NULL, '', share) AS 'share of the limit'
FROM shown ORDER BY nr;
.mode list
SELECT 'generate_batch: ' || printf('%.0f', s.value) || ' tokens shared by all rows; answers of ' || printf('%.1f', o.value) || ' tokens'
    || coalesce(', sqlite-ai''s of ' || printf('%.1f', t.value) || ' (4 rows a round)', '')
FROM median s JOIN median o ON o.who = 'ours' AND o.work = 'rows_batch_tokens' LEFT JOIN median t ON t.who = 'sqlite-ai' AND t.work = 'rows_batch_tokens'
WHERE s.work = 'rows_shared';
SELECT 'moved by more than a quarter between rounds: ' || group_concat(what, '; ') FROM (
    SELECT printf('%s %s %.3g to %.3g', who, work, least, most) AS what FROM median
    WHERE who <> 'machine' AND most - least > 0.25 * value AND value > 0 ORDER BY who, work) HAVING count(*);

-- How speed grows: one line each, by N.
CREATE TEMP TABLE growth AS
SELECT who, CASE WHEN work GLOB 'growth_rows_*' THEN 'rows' WHEN work GLOB 'growth_tg_*' THEN 'context' ELSE 'first' END AS what,
       CAST(replace(replace(replace(work, 'growth_rows_', ''), 'growth_tg_', ''), 'growth_first_', '') AS INTEGER) AS n, value
FROM median WHERE work GLOB 'growth_rows_*' OR work GLOB 'growth_tg_*' OR work GLOB 'growth_first_*';
CREATE TEMP TABLE line(nr, what, who, label, unit);
INSERT INTO line VALUES (1, 'rows', 'ours', 'sequences at once', 't/s'), (2, 'rows', 'llama.cpp', '  llama.cpp', 't/s'),
    (3, 'context', 'ours', 'decode behind so many tokens', 't/s'), (4, 'first', 'ours', 'first token after so many', 'ms');
SELECT label || ': ' || (SELECT group_concat(n || ': ' || printf('%.0f', value), '  ') FROM (SELECT * FROM growth g WHERE g.what = line.what AND g.who = line.who ORDER BY n)) || ' ' || unit
FROM line WHERE EXISTS (SELECT 1 FROM growth g WHERE g.what = line.what AND g.who = line.who) ORDER BY nr;
SELECT printf('1 thread and 2: prefill %.0f %.0f t/s, decode %.0f %.0f t/s, generate_batch %.1f %.1f rows/s', 512e3 / max(iif(work = 'threads_first_1_512', value, NULL)),
    512e3 / max(iif(work = 'threads_first_2_512', value, NULL)), max(iif(work = 'threads_tg_1_512', value, NULL)), max(iif(work = 'threads_tg_2_512', value, NULL)),
    max(iif(work = 'threads_rows_1', value, NULL)), max(iif(work = 'threads_rows_2', value, NULL))) FROM median WHERE work GLOB 'threads_*' HAVING count(*);
SELECT printf('1 connection and 2 at once: %.0f %.0f t/s altogether', max(iif(work = 'connections_1', value, NULL)), max(iif(work = 'connections_2', value, NULL)))
FROM median WHERE work GLOB 'connections_*' HAVING count(*);

.once build/bench.json
SELECT json_object('facts', (SELECT json_group_object(key, value) FROM fact WHERE key <> 'skipped'),
    'skipped', (SELECT json_group_array(value) FROM fact WHERE key = 'skipped'),
    'results', (SELECT json_group_array(json_object('model', s.whole_model, 'work', s.label, 'unit', unit, 'ours', r.ours, 'least', least, 'most', most, 'rounds', n,
        'peer', r.peer, 'theirs', r.theirs, 'ratio', r.ratio, 'target', r.target, 'share', share, 'limit', lim, 'limit_unit', lim_unit))
        FROM result r JOIN (SELECT nr, whole_model, label FROM shown) s USING (nr)),
    'medians', (SELECT json_group_array(json_object('who', who, 'work', work, 'value', value, 'least', least, 'most', most, 'rounds', n)) FROM median),
    'samples', (SELECT json_group_array(json_array(round, who, work, value)) FROM sample));

-- The charts' numbers: works beside somebody's, the models' names once; curves.
.mode tabs
.once build/bench/speed.dat
SELECT whole_model, label, number, replace(ours, ' ' || unit, ''), theirs, unit, peer FROM shown JOIN (SELECT nr, unit FROM result) USING (nr)
WHERE number IS NOT NULL AND label NOT GLOB 'engine*' AND unit GLOB '*/s' AND label NOT GLOB 'token*' ORDER BY nr;
.once build/bench/growth.dat
SELECT n, max(iif(what = 'rows' AND who = 'ours', value, NULL)), max(iif(what = 'rows' AND who = 'llama.cpp', value, NULL)),
    max(iif(what = 'context', value, NULL)), max(iif(what = 'first', value, NULL)) FROM growth GROUP BY n ORDER BY n;
