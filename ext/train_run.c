/* train_run.c: a run, from its options to the step that ends it.
**
** Everything that decides what is computed is in lm_run: the options, the digests of rows and model, the counters. So a run
** that is taken up again goes on as if it had never stopped: the order of an epoch's samples follows from seed and epoch, a
** batch from the order and from how far it is done, the rate from the step. */
#include "train.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

static const double BALANCE = 0.01;     /* of experts, as Fedus et al. 2021 have it */
enum { PART_TOKENS = 1024 /* of a batch that are computed at once, unless a sequence is longer: a step's parts are the same
                           ** wherever it runs, and activations stay small */ };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/*----------------------------------------------------------------------
** Beginning */

static lm_train_options trainer_options(const lm_run *r) {
    const lm_learn_options *o = &r->o;
    int part = o->batch_tokens < PART_TOKENS ? o->batch_tokens : PART_TOKENS;
    return (lm_train_options){ .batch_tokens = r->data.longest > part ? r->data.longest : part,
                               .recompute = o->recompute, .beta1 = o->beta1, .beta2 = o->beta2, .eps = o->eps,
                               .weight_decay = o->weight_decay, .decay_all = !strcmp(o->decay, "all"),
                               .clip = o->clip, .dropout = o->dropout, .seed = (uint64_t)o->seed,
                               .lora_rank = r->is_whole ? 0 : o->lora.rank, .lora_alpha = o->lora.alpha,
                               .lora_targets = o->targets.n ? o->targets.data : NULL, .balance = BALANCE };
}

static void check_plain(const lm_run *r, const lm_source *src, lm_err *err) {
    for (int i = 0; r->is_whole && i < src->n_tensors; i++) {
        const lm_dtype *type = lm_dtype_find(src->tensors[i].dtype);
        if (type->block == 1) continue;
        lm_err_set(
            err, LM_ERROR,
            "lm_train: model %.60s: tensor %s is %s, which cannot move by small steps: train an adapter (\"adapter\":\"name\","
            "\"lora\":{\"rank\":8}), or import the model as f16 or f32",
            r->model.name, src->tensors[i].name, type->name);
    }
}

/* The trainer's own figure, a copy of the best, and the buffer. Where there is no room, activations are computed twice instead of kept. */
static void check_memory(const lm_run *r, const lm_source *src, lm_train_options *o, lm_err *err) {
    uint64_t limit = lm_mem_limit(), used = lm_mem_used(), best = 0;
    for (int i = 0; r->data.n_val && r->is_whole && i < src->n_tensors; i++)
        best += (uint64_t)src->tensors[i].n_params * sizeof(float);
    uint64_t more = best + (r->is_whole ? LM_CHUNK_BYTES : 0), bytes = lm_trainer_bytes(src, o, err) + more;
    if (!limit || err->code || used + bytes <= limit) return;
    o->recompute = 1;
    bytes = lm_trainer_bytes(src, o, err) + more;
    if (used + bytes > limit) {
        lm_err_set(
            err, LM_ERROR,
            "lm_train: memory_limit %llu bytes: training takes %llu more than the %llu in use (16 bytes a parameter,%s activations of"
            " %d tokens)",
            (unsigned long long)limit, (unsigned long long)bytes, (unsigned long long)used,
            best ? " 4 for the best," : "", o->batch_tokens);
    }
}

static void make_trainer(void *arg, const lm_stored *m, lm_err *err) {
    lm_run *r = arg;
    lm_train_options o = trainer_options(r);
    check_plain(r, &m->source, err);
    if (!err->code) check_memory(r, &m->source, &o, err);
    if (r->is_whole) r->buffer = lm_alloc(LM_CHUNK_BYTES, err);
    if (!err->code) r->trainer = lm_trainer_new(&m->source, &o, lm_conn_stop(r->c), err);
}

static void make_best(lm_run *r, lm_err *err) {
    int n = lm_trainer_n_tensors(r->trainer);
    r->best = lm_calloc((size_t)n, sizeof *r->best, err);
    for (int i = 0; r->best && i < n; i++)
        r->best[i] = lm_alloc((size_t)lm_trainer_tensor(r->trainer, i)->n_params * sizeof(float), err);
}

/* Read the rows, with the model's tokenizer and template, and split them. */
static void read_rows(lm_run *r, lm_err *err) {
    char digest[2 * LM_DIGEST_BYTES + 1];
    lm_shared *s = err->code ? NULL : lm_share_begin(r->c, r->o.model, "generate|embed", err);
    if (s) lm_samples_read(&r->data, r->c, s, &r->o, err);
    if (s) memcpy(r->model_digest, s->digest, sizeof r->model_digest);
    lm_share_end(s);
    if (!err->code) lm_samples_split(&r->data, r->o.val_fraction, (uint64_t)r->o.seed, err);
    if (err->code) return;
    lm_hex(r->data.digest, digest);
    if (r->o.resume && strcmp(digest, r->data_digest)) {
        lm_err_set(err, LM_ERROR,
                   "lm_train: option \"resume\": the query gives other rows than those that the run began with");
    }
    memcpy(r->data_digest, digest, sizeof digest);
    lm_hex(r->model_digest, digest);
    if (r->o.resume && strcmp(digest, r->base_digest)) {
        lm_err_set(err, LM_ERROR, "lm_train: option \"resume\": model %.60s is not as the run left it", r->model.name);
    }
    memcpy(r->base_digest, digest, sizeof digest);
}

/* How many steps the run has, all epochs packed as they will be; and where among them the state's step stands. Where no epochs
** are given max_steps says how many, and only that place is looked for. */
static sqlite3_int64 count_steps(lm_run *r, lm_err *err) {
    const lm_samples *d = &r->data;
    sqlite3_int64 most = r->o.max_steps ? r->o.max_steps : INT64_MAX, n = 0;
    sqlite3_int64 last = r->o.epochs || r->state.step >= most ? most : r->state.step + 1;
    for (int epoch = 0; (!r->o.epochs || epoch < r->o.epochs) && n < last && !err->code; epoch++) {
        lm_poll(lm_conn_stop(r->c), err);
        lm_samples_shuffle(d, (uint64_t)r->o.seed, epoch, r->order);
        for (size_t at = 0; at < d->n_train; n++) {
            if (n % 4096 == 4095 && lm_poll(lm_conn_stop(r->c), err)) return 0;
            if (n == r->state.step) r->state.epoch = epoch, r->state.at = (sqlite3_int64)at;
            at += lm_samples_pack(d, r->order + at, d->n_train - at, r->o.batch_tokens);
        }
    }
    if (n > most || !r->o.epochs) n = most;
    if (r->state.step >= n)
        lm_err_set(err, LM_ERROR, "lm_run, id %lld: step %lld, but the run has %lld steps", (long long)r->id,
                   (long long)r->state.step, (long long)n);
    return n;
}

static void set_schedule(lm_run *r, lm_err *err) {
    r->order = lm_alloc(r->data.n_train * sizeof *r->order, err);
    r->order_epoch = -1;
    sqlite3_int64 n = err->code ? 0 : count_steps(r, err);
    r->schedule = (lm_schedule){ r->o.lr, (int64_t)(r->o.warmup * (double)n + 0.5), n,
                                 !strcmp(r->o.schedule, "cosine") };
}

/* What rows were taken for is one of the options that are kept. */
static void keep_kind(lm_run *r, lm_err *err) {
    size_t n = err->code ? 0 : strlen(r->data.kind) + 1;
    if (r->o.rows || err->code) return;
    r->o.rows = lm_alloc(n, err);
    if (r->o.rows) memcpy(r->o.rows, r->data.kind, n);
}

/* Before long work: is this a place to write in? A SELECT from a table has begun to read, and where two wait for each other to
** end, SQLite lets the reader that would write wait for nothing. */
static void check_place(lm_run *r, lm_err *err) {
    lm_write w;
    if (err->code) return;
    lm_write_begin(&w, r->c, "lm_train", r->model.schema, err);
    lm_write_end(&w, err);
    if (err->code && (lm_error_code(err) & 0xff) == SQLITE_BUSY)
        lm_err_blame(err, "lm_train: another connection writes; BEGIN IMMEDIATE waits for it, a SELECT cannot: ");
}

void lm_run_open(lm_run *r, lm_conn *c, lm_text options, lm_err *err) {
    uint8_t digest[LM_DIGEST_BYTES];
    r->c = c;
    r->durable = -1;
    r->autocommit = sqlite3_get_autocommit(c->db);
    lm_learn_options_read(&r->o, options, err);
    if (!err->code) lm_store_find(c, r->o.model, "generate|embed", &r->model, err);
    check_place(r, err);
    if (r->o.resume) lm_run_find(r, err);
    r->is_whole = !r->o.adapter;
    lm_run_find_adapter(r, err);
    read_rows(r, err);
    keep_kind(r, err);
    if (!err->code && !r->o.resume) lm_learn_options_print(&r->o, &r->options, err);
    if (!err->code) lm_store_use(c, &r->model, make_trainer, r, digest, err);
    if (!err->code && memcmp(digest, r->model_digest, sizeof digest))
        lm_err_set(err, LM_ERROR, "lm_train: model %.60s was changed meanwhile", r->model.name);
    if (!err->code && r->data.n_val) make_best(r, err);
    if (!err->code) set_schedule(r, err);
    if (err->code) return;
    lm_run_load_adapter(r, err);
    if (r->o.resume) lm_run_load(r, err);
    else lm_run_begin(r, err);
    r->seconds_before = r->state.seconds;
    if (r->adapter.a.rank && !r->o.resume) lm_run_checkpoint(r, err);   /* what it begins with is gone when it is written over */
}

void lm_run_close(lm_run *r) {
    for (int i = 0; r->best && i < lm_trainer_n_tensors(r->trainer); i++) lm_free(r->best[i]);
    lm_free(r->best);
    lm_trainer_free(r->trainer);
    lm_free(r->buffer);
    lm_samples_clear(&r->data);
    lm_learn_options_clear(&r->o);
    lm_packed_clear(&r->packed);
    lm_buf_clear(&r->options);
    lm_free(r->order);
    lm_free(r->rows);
    sqlite3_finalize(r->hold);
    sqlite3_finalize(r->look);
    lm_adapter_clear(&r->adapter);
    lm_found_clear(&r->model);
}

/*----------------------------------------------------------------------
** Steps */

static void __attribute__((format(printf, 2, 3))) add_event(lm_run *r, const char *format, ...) {
    char *event = r->row.event;
    size_t n = strlen(event), most = sizeof r->row.event;
    va_list args;
    if (n) n += (size_t)snprintf(event + n, most - n, ", ");
    va_start(args, format);
    if (n < most) vsnprintf(event + n, most - n, format, args);
    va_end(args);
}

static void take_step(lm_run *r, lm_err *err) {
    lm_run_state *s = &r->state;
    const lm_samples *d = &r->data;
    lm_train_result result;
    double start = now();
    if (r->order_epoch != s->epoch) lm_samples_shuffle(d, (uint64_t)r->o.seed, s->epoch, r->order);
    r->order_epoch = s->epoch;
    size_t n = lm_samples_pack(d, r->order + s->at, d->n_train - (size_t)s->at, r->o.batch_tokens);
    double rate = lm_schedule_rate(&r->schedule, s->step);
    lm_packed_set(&r->packed, d, r->order + s->at, n, err);
    lm_packed_step(&r->packed, d, r->trainer, rate, &result, lm_conn_stop(r->c), err);
    if (err->code) return;
    double seconds = now() - start;
    s->step++;
    s->at += (sqlite3_int64)n;
    s->tokens += (sqlite3_int64)r->packed.ids.n;
    s->seconds += seconds;
    s->sum += (float)result.loss;
    s->n_sum++;
    r->row = (lm_run_row){ .step = s->step, .epoch = s->epoch + 1, .tokens = s->tokens, .loss = result.loss,
                           .lr = rate, .grad_norm = result.grad_norm,
                           .tokens_per_s = (double)r->packed.ids.n / seconds, .seconds = s->seconds };
    if ((size_t)s->at < d->n_train) return;
    s->at = 0;
    s->epoch++;
}

/* The validation samples' loss. */
static double measure(lm_run *r, lm_err *err) {
    const lm_samples *d = &r->data;
    double loss = 0, weight = 0;
    for (size_t at = 0, n; at < d->n_val && !err->code; at += n) {
        lm_train_result result = {0};
        n = lm_samples_pack(d, d->val + at, d->n_val - at, r->o.batch_tokens);
        lm_packed_set(&r->packed, d, d->val + at, n, err);
        lm_packed_loss(&r->packed, d, r->trainer, &result, lm_conn_stop(r->c), err);
        loss += result.loss * result.weight;
        weight += result.weight;
    }
    return loss / weight;
}

static void keep_best(lm_run *r) {
    for (int i = 0; i < lm_trainer_n_tensors(r->trainer); i++) {
        memcpy(r->best[i], lm_trainer_data(r->trainer, i, LM_TRAIN_VALUE),
               (size_t)lm_trainer_tensor(r->trainer, i)->n_params * sizeof(float));
    }
    r->best_is_new = 1;
}

/* Compare with the evaluation before, and with the best. */
static void evaluate(lm_run *r, lm_err *err) {
    lm_run_state *s = &r->state;
    double start = now(), loss = measure(r, err);
    float mean = s->sum / (float)s->n_sum, rounded = (float)loss;
    if (err->code) return;
    int is_first = s->best_step == 0, is_best = is_first || rounded < s->best_loss;
    r->row.has_val = 1;
    r->row.val_loss = loss;
    if (!is_first && rounded > s->last_loss && mean < s->last_mean) add_event(r, "overfitting");
    s->n_worse = is_best ? 0 : s->n_worse + 1;
    if (is_best) {
        s->best_step = s->step;
        s->best_loss = rounded;
        keep_best(r);
    }
    s->last_loss = rounded;
    s->last_mean = mean;
    s->sum = 0;
    s->n_sum = 0;
    s->seconds += now() - start;
    r->row.seconds = s->seconds;
}

static void add_row(lm_run *r, lm_err *err) {
    if (lm_grow((void **)&r->rows, r->n_rows, &r->rows_cap, 1, sizeof *r->rows, err)) r->rows[r->n_rows++] = r->row;
}

static void end(lm_run *r, const char *why, int is_done, lm_err *err) {
    if (r->state.best_step && r->state.best_step != r->state.step)
        add_event(r, "%s: the weights are those of step %lld", why, (long long)r->state.best_step);
    else add_event(r, "%s", why);
    add_row(r, err);
    if (!err->code) lm_run_finish(r, is_done, err);
    r->is_over = 1;
}

void lm_run_next(lm_run *r, lm_err *err) {
    lm_run_state *s = &r->state;
    sqlite3_int64 n_steps = r->schedule.n_steps;
    r->is_done = r->is_over || s->step >= n_steps;
    if (r->is_done || err->code) return;
    lm_run_check(r, err);
    if (!err->code) take_step(r, err);
    if (err->code) return;
    int is_last = s->step == n_steps, is_epoch = s->at == 0;
    int is_due = r->o.eval_every ? s->step % r->o.eval_every == 0 : is_epoch;
    if (r->best && (is_last || is_due)) evaluate(r, err);
    int has_time = r->o.max_seconds == 0 || s->seconds - r->seconds_before < r->o.max_seconds,
        has_patience = !r->o.patience || s->n_worse < r->o.patience;
    int is_point = r->o.checkpoint_every < 0 ? is_epoch : r->o.checkpoint_every && s->step % r->o.checkpoint_every == 0;
    if (err->code) return;
    if (is_last) end(r, "done", 1, err);
    else if (!has_patience) end(r, "out of patience", 1, err);
    else if (!has_time) end(r, "max_seconds", 0, err);
    else if (is_point) add_event(r, "checkpoint"), add_row(r, err), lm_run_checkpoint(r, err);
    else add_row(r, err);
}
