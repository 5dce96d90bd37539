-- clock.sql: `REPLACE INTO clock VALUES(1, julianday('now'))` starts the clock, the view seconds(s) reads it, to the millisecond.
CREATE TEMP TABLE clock(id INTEGER PRIMARY KEY, t);
CREATE TEMP VIEW seconds AS SELECT (julianday('now') - t) * 86400 AS s FROM clock;
CREATE TEMP TABLE answer(s);
