-- schema.sql: what a database with models holds. Embedded by the build; run once for each schema that gets a
-- model ("main." is replaced by the schema's name), and again where a table is missing that an earlier version did
-- not have. Everything here is ordinary SQL that anyone may query.
--
-- A model's digest is BLAKE2b-256 over its architecture, hyper-parameters, metadata, tokenizer and every
-- tensor's name, type, shape and chunk digests. Triggers keep it honest: whoever changes a row of a model by
-- hand sets its digest to NULL (recompute) and its edit stamp to something new.

CREATE TABLE IF NOT EXISTS main.lm_setting(
    key TEXT PRIMARY KEY,       -- format, generate_model, embed_model
    value
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS main.lm_model(
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    arch TEXT NOT NULL,
    task TEXT NOT NULL,         -- generate, embed
    hparams TEXT NOT NULL,      -- JSON: what runs
    meta BLOB NOT NULL,         -- the source's key-value metadata, verbatim, without the tokenizer's arrays
    n_params INTEGER NOT NULL,
    n_active INTEGER NOT NULL,  -- parameters that a token meets
    n_bytes INTEGER NOT NULL,
    digest TEXT,                -- hexadecimal; NULL: recompute
    edit BLOB,                  -- 8 random bytes, new with every change
    info TEXT,                  -- JSON
    license TEXT,
    source TEXT,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);

CREATE TABLE IF NOT EXISTS main.lm_tensor(
    id INTEGER PRIMARY KEY,
    model INTEGER NOT NULL,
    name TEXT NOT NULL,
    dtype TEXT NOT NULL,
    shape TEXT NOT NULL,        -- JSON array, rows first: [rows, columns]
    n_params INTEGER NOT NULL,
    n_bytes INTEGER NOT NULL,
    UNIQUE(model, name)
);

CREATE TABLE IF NOT EXISTS main.lm_chunk(
    id INTEGER PRIMARY KEY,
    tensor INTEGER NOT NULL,
    seq INTEGER NOT NULL,       -- 0, 1, …: the tensor's bytes in order
    data BLOB NOT NULL,         -- at most 4 MiB, whole multiples of 16 tensor rows where they fit
    UNIQUE(tensor, seq)
);

-- Apart from lm_chunk, because touching a column of a 4 MiB row would rewrite the row.
CREATE TABLE IF NOT EXISTS main.lm_digest(
    chunk INTEGER PRIMARY KEY,
    digest BLOB NOT NULL
);

CREATE TABLE IF NOT EXISTS main.lm_tokenizer(
    model INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,         -- gpt2 (byte-level BPE), …
    data BLOB NOT NULL          -- the arrays of tokenizer.ggml.*, verbatim
);

CREATE TRIGGER IF NOT EXISTS main.lm_model_delete AFTER DELETE ON lm_model BEGIN
    DELETE FROM lm_digest WHERE chunk IN (SELECT c.id FROM lm_tensor t JOIN lm_chunk c ON c.tensor = t.id WHERE t.model = old.id);
    DELETE FROM lm_chunk WHERE tensor IN (SELECT id FROM lm_tensor WHERE model = old.id);
    DELETE FROM lm_tensor WHERE model = old.id;
    DELETE FROM lm_tokenizer WHERE model = old.id;
    DELETE FROM lm_setting WHERE key IN ('generate_model', 'embed_model') AND value = old.name;
END;

-- REPLACE would take a row away without asking the trigger above.
CREATE TRIGGER IF NOT EXISTS main.lm_model_insert BEFORE INSERT ON lm_model
WHEN EXISTS (SELECT 1 FROM lm_model WHERE name = new.name OR id = new.id) BEGIN
    SELECT RAISE(ABORT, 'lm_model: a model of that name or id exists already: delete it first');
END;

CREATE TRIGGER IF NOT EXISTS main.lm_model_take BEFORE UPDATE OF id, name ON lm_model
WHEN EXISTS (SELECT 1 FROM lm_model WHERE (name = new.name OR id = new.id) AND id <> old.id) BEGIN
    SELECT RAISE(ABORT, 'lm_model: a model of that name or id exists already: delete it first');
END;

CREATE TRIGGER IF NOT EXISTS main.lm_model_rename AFTER UPDATE OF name ON lm_model BEGIN
    UPDATE lm_setting SET value = new.name WHERE key IN ('generate_model', 'embed_model') AND value = old.name;
END;

CREATE TRIGGER IF NOT EXISTS main.lm_model_update AFTER UPDATE OF id, arch, hparams, meta ON lm_model BEGIN
    UPDATE lm_model SET digest = NULL, edit = randomblob(8) WHERE id = new.id;
END;

CREATE TRIGGER IF NOT EXISTS main.lm_tensor_insert AFTER INSERT ON lm_tensor BEGIN
    UPDATE lm_model SET digest = NULL, edit = randomblob(8) WHERE id = new.model;
END;

CREATE TRIGGER IF NOT EXISTS main.lm_tensor_update AFTER UPDATE ON lm_tensor BEGIN
    UPDATE lm_model SET digest = NULL, edit = randomblob(8) WHERE id IN (old.model, new.model);
END;

CREATE TRIGGER IF NOT EXISTS main.lm_tensor_delete AFTER DELETE ON lm_tensor BEGIN
    UPDATE lm_model SET digest = NULL, edit = randomblob(8) WHERE id = old.model;
END;

CREATE TRIGGER IF NOT EXISTS main.lm_chunk_insert AFTER INSERT ON lm_chunk BEGIN
    DELETE FROM lm_digest WHERE chunk = new.id;
    UPDATE lm_model SET digest = NULL, edit = randomblob(8) WHERE id = (SELECT model FROM lm_tensor WHERE id = new.tensor);
END;

CREATE TRIGGER IF NOT EXISTS main.lm_chunk_update AFTER UPDATE ON lm_chunk BEGIN
    DELETE FROM lm_digest WHERE chunk IN (old.id, new.id);
    UPDATE lm_model SET digest = NULL, edit = randomblob(8) WHERE id IN (SELECT model FROM lm_tensor WHERE id IN (old.tensor, new.tensor));
END;

CREATE TRIGGER IF NOT EXISTS main.lm_chunk_delete AFTER DELETE ON lm_chunk BEGIN
    DELETE FROM lm_digest WHERE chunk = old.id;
    UPDATE lm_model SET digest = NULL, edit = randomblob(8) WHERE id = (SELECT model FROM lm_tensor WHERE id = old.tensor);
END;

CREATE TRIGGER IF NOT EXISTS main.lm_tokenizer_insert AFTER INSERT ON lm_tokenizer BEGIN
    UPDATE lm_model SET digest = NULL, edit = randomblob(8) WHERE id = new.model;
END;

CREATE TRIGGER IF NOT EXISTS main.lm_tokenizer_update AFTER UPDATE ON lm_tokenizer BEGIN
    UPDATE lm_model SET digest = NULL, edit = randomblob(8) WHERE id IN (old.model, new.model);
END;

CREATE TRIGGER IF NOT EXISTS main.lm_tokenizer_delete AFTER DELETE ON lm_tokenizer BEGIN
    UPDATE lm_model SET digest = NULL, edit = randomblob(8) WHERE id = old.model;
END;

-- Training. A run, what its steps were, and what it can be taken up from. Adapters are what is trained beside a model.
CREATE TABLE IF NOT EXISTS main.lm_run(
    id INTEGER PRIMARY KEY,
    model INTEGER NOT NULL,
    adapter TEXT,               -- its name; NULL: the model's own parameters are trained
    options TEXT NOT NULL,      -- JSON: all that were in force
    data_digest TEXT NOT NULL,  -- of the query's rows, as token ids
    base_digest TEXT NOT NULL,  -- of what it began with: the model's, or a trained adapter's
    math TEXT NOT NULL,         -- how sums were worked out: the same, or not taken up again
    n_rows INTEGER NOT NULL,
    n_nulls INTEGER NOT NULL,   -- rows of the query that were passed over
    step INTEGER NOT NULL,      -- which the run can be taken up from
    status TEXT NOT NULL,       -- running, stopped (max_seconds), done
    state TEXT NOT NULL,        -- JSON: the counters of that step, and the digest of all that the run goes on from
    edit BLOB NOT NULL,         -- 8 random bytes, new with every write
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);

CREATE TABLE IF NOT EXISTS main.lm_run_step(
    run INTEGER NOT NULL,
    step INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    tokens INTEGER NOT NULL,    -- learnt from since the run began
    loss REAL NOT NULL,
    val_loss REAL,
    lr REAL NOT NULL,
    grad_norm REAL NOT NULL,
    tokens_per_s REAL NOT NULL,
    seconds REAL NOT NULL,
    event TEXT,
    PRIMARY KEY(run, step)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS main.lm_checkpoint(
    run INTEGER NOT NULL,
    part TEXT NOT NULL,         -- value, m, v (AdamW's moments), best (values at the lowest validation loss)
    name TEXT NOT NULL,         -- of the tensor
    seq INTEGER NOT NULL,
    data BLOB NOT NULL,         -- float32, at most 4 MiB
    PRIMARY KEY(run, part, name, seq)
);

CREATE TABLE IF NOT EXISTS main.lm_adapter(
    id INTEGER PRIMARY KEY,
    model INTEGER NOT NULL,
    name TEXT NOT NULL,
    base_digest TEXT NOT NULL,  -- of the model that it was trained for
    rank INTEGER NOT NULL,
    alpha REAL NOT NULL,        -- W x + alpha / rank * B (A x) stands for W x
    targets TEXT NOT NULL,
    n_params INTEGER NOT NULL,
    edit BLOB,                  -- 8 random bytes, new with every change
    info TEXT,                  -- JSON
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    UNIQUE(model, name)
);

CREATE TABLE IF NOT EXISTS main.lm_adapter_tensor(
    adapter INTEGER NOT NULL,
    name TEXT NOT NULL,         -- its matrix's, then .lora_a or .lora_b
    shape TEXT NOT NULL,        -- JSON array: [rank, columns] or [rows, rank]
    data BLOB NOT NULL,         -- float32
    PRIMARY KEY(adapter, name)
);

CREATE TRIGGER IF NOT EXISTS main.lm_model_delete_training AFTER DELETE ON lm_model BEGIN
    DELETE FROM lm_run WHERE model = old.id;
    DELETE FROM lm_adapter WHERE model = old.id;
END;

CREATE TRIGGER IF NOT EXISTS main.lm_run_delete AFTER DELETE ON lm_run BEGIN
    DELETE FROM lm_run_step WHERE run = old.id;
    DELETE FROM lm_checkpoint WHERE run = old.id;
END;

CREATE TRIGGER IF NOT EXISTS main.lm_adapter_delete AFTER DELETE ON lm_adapter BEGIN
    DELETE FROM lm_adapter_tensor WHERE adapter = old.id;
END;

CREATE TRIGGER IF NOT EXISTS main.lm_adapter_update AFTER UPDATE OF id, model, base_digest, rank, alpha ON lm_adapter BEGIN
    UPDATE lm_adapter SET edit = randomblob(8) WHERE id = new.id;
END;

CREATE TRIGGER IF NOT EXISTS main.lm_adapter_tensor_insert AFTER INSERT ON lm_adapter_tensor BEGIN
    UPDATE lm_adapter SET edit = randomblob(8) WHERE id = new.adapter;
END;

CREATE TRIGGER IF NOT EXISTS main.lm_adapter_tensor_update AFTER UPDATE ON lm_adapter_tensor BEGIN
    UPDATE lm_adapter SET edit = randomblob(8) WHERE id IN (old.adapter, new.adapter);
END;

CREATE TRIGGER IF NOT EXISTS main.lm_adapter_tensor_delete AFTER DELETE ON lm_adapter_tensor BEGIN
    UPDATE lm_adapter SET edit = randomblob(8) WHERE id = old.adapter;
END;

INSERT OR IGNORE INTO main.lm_setting(key, value) VALUES ('format', 1);
