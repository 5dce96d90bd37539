/* batch.c: sequences advancing together through passes.
**
** A sequence waits in the queue until there is a slot for it, and then lives: each step gathers rows of the live ones (a
** decoding sequence gives its newest token, one still reading its prompt as much of it as fits), runs the pass, samples
** those that had their last row in it, and lets others take the slots of those that ended. What a prompt shares with
** earlier ones comes from the model's prefixes; a sequence whose prompt begins like one that is being read just now waits
** until that is done. A sequence that finds no memory goes back to the queue and starts over when another has ended:
** recomputed or not, its tokens are the same.
**
** What callers number are readers. Each follows a sequence, which keeps a record of its tokens; equal prompts with equal
** options are readers of one. Text leaves as whole characters, and only when no stop text can begin in it. */
#define _GNU_SOURCE
#include "sample.h"

#include <string.h>

/* Slots: SLOTS rows decode nearly as fast as one in bytes of weights read. It pays to wait for GAIN positions. */
enum { SLOTS = 32, GAIN = 16 };

typedef struct {
    double logprob;
    size_t end;                 /* of the text that may leave with this token */
} mark;

typedef struct sequence {
    struct sequence *next;      /* in the queue */
    lm_gen_options options;
    uint64_t hash;              /* of prompt and options */
    int n_readers;
    lm_kv kv;
    lm_ids ids;                 /* prompt and answer */
    size_t n_prompt;
    lm_buf text;                /* the answer's bytes */
    mark *marks; size_t n_marks, marks_cap;     /* a token of the answer each */
    int is_reading;             /* this pass has rows of its prompt */
    int ready;                  /* the row of logits that waits to be sampled, -1: none */
    int finish;
} sequence;

typedef struct {
    sequence *s;                /* NULL: the number is free */
    size_t n_given, n_sent;     /* tokens, and bytes of text */
} reader;

struct lm_batch {
    lm_model *m;
    int exact;
    lm_pass *pass;
    reader *readers; size_t n_readers, readers_cap, next;       /* next: whose turn it is */
    sequence *queue, **queue_end;
    sequence *live[SLOTS]; int n_live, n_slots;                 /* those that share their first page side by side */
    lm_row rows[LM_ROWS_MAX];
    lm_sampler sampler;
    lm_buf piece;
};

static const char *const finish_names[] = { "", "eos", "stop", "length", "context" };
const char *lm_finish_name(int finish) { return finish_names[finish]; }

lm_batch *lm_batch_new(lm_model *m, lm_err *err) {
    lm_batch *b = lm_calloc(1, sizeof *b, err);
    if (!b) return NULL;
    b->m = m;
    b->n_slots = SLOTS;
    b->queue_end = &b->queue;
    return b;
}

static void free_sequence(sequence *s) {
    lm_kv_clear(&s->kv);
    lm_ids_clear(&s->ids);
    lm_buf_clear(&s->text);
    lm_free(s->marks);
    lm_free(s);
}

void lm_batch_free(lm_batch *b) {
    if (!b) return;
    for (size_t i = 0; i < b->n_readers; i++) lm_batch_drop(b, (int)i);
    lm_free(b->readers);
    lm_pass_free(b->pass);
    lm_sampler_clear(&b->sampler);
    lm_buf_clear(&b->piece);
    lm_free(b);
}

/*----------------------------------------------------------------------
** Coming and going. */
static void check_prompt(const lm_batch *b, const int32_t *ids, size_t n, lm_err *err) {
    if (b->m->arch->is_encoder)
        lm_err_set(err, LM_ERROR, "a %s model embeds texts, it does not generate any", b->m->arch->name);
    if (n == 0) lm_err_set(err, LM_ERROR, "the prompt has no tokens");
    if (n >= (size_t)b->m->h.n_ctx) {
        lm_err_set(err, LM_ERROR, "the prompt has %llu tokens, the model's context is %d", (unsigned long long)n,
                   b->m->h.n_ctx);
    }
    for (size_t i = 0; i < n && !err->code; i++) {
        if (ids[i] < 0 || ids[i] >= b->m->h.n_vocab) {
            lm_err_set(err, LM_ERROR, "token id %d is not in the vocabulary of %d", ids[i], b->m->h.n_vocab);
        }
    }
}

static void leave_live(lm_batch *b, int i) {
    b->n_live--;
    memmove(b->live + i, b->live + i + 1, (size_t)(b->n_live - i) * sizeof(sequence *));
}

static void leave_queue(lm_batch *b, sequence **at) {
    sequence *s = *at;
    *at = s->next;
    if (!s->next) b->queue_end = at;
    s->next = NULL;
}

static void enter_queue(lm_batch *b, sequence *s) {
    *b->queue_end = s;
    b->queue_end = &s->next;
}

void lm_batch_drop(lm_batch *b, int seq) {
    sequence *s = b->readers[seq].s;
    b->readers[seq] = (reader){0};
    if (!s || --s->n_readers) return;
    for (int i = 0; i < b->n_live; i++) {
        if (b->live[i] == s) leave_live(b, i);
    }
    for (sequence **at = &b->queue; *at; at = &(*at)->next) {
        if (*at != s) continue;
        leave_queue(b, at);
        break;
    }
    free_sequence(s);
}

static uint64_t mix(uint64_t hash, const void *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) hash = (hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001B3ull;
    return hash;
}

static int same_stops(const lm_gen_options *a, const lm_gen_options *b) {
    int same = a->n_stops == b->n_stops;
    for (int i = 0; same && a->stops != b->stops && i < a->n_stops; i++) {
        same = a->stop_ns[i] == b->stop_ns[i] && !memcmp(a->stops[i], b->stops[i], a->stop_ns[i]);
    }
    return same;
}

/* Is one answer right for both? Where no draws are made the options of drawing do not count. */
static int same_options(const lm_gen_options *a, const lm_gen_options *b) {
    int same_draws = a->temperature == 0
                     || (a->top_k == b->top_k && a->top_p == b->top_p && a->min_p == b->min_p && a->seed == b->seed);
    return a->temperature == b->temperature && same_draws && a->max_tokens == b->max_tokens
           && a->repeat_penalty == b->repeat_penalty && a->want_logprob == b->want_logprob
           && a->ignore_eog == b->ignore_eog && same_stops(a, b);
}

static sequence *find_equal(const lm_batch *b, const int32_t *ids, size_t n, const lm_gen_options *options,
                            uint64_t hash) {
    for (size_t i = 0; i < b->n_readers; i++) {
        sequence *s = b->readers[i].s;
        if (s && s->hash == hash && s->n_prompt == n && !memcmp(s->ids.data, ids, n * sizeof *ids)
            && same_options(&s->options, options))
            return s;
    }
    return NULL;
}

static sequence *new_sequence(lm_batch *b, const int32_t *ids, size_t n, const lm_gen_options *options, lm_err *err) {
    sequence *s = lm_calloc(1, sizeof *s, err);
    if (!s) return NULL;
    *s = (sequence){ .options = *options, .n_prompt = n, .ready = -1 };
    lm_kv_init(&s->kv, b->m, b->exact);
    if (lm_grow((void **)&s->ids.data, 0, &s->ids.cap, n + 1, sizeof *ids, err))
        memcpy(s->ids.data, ids, n * sizeof *ids);
    s->ids.n = n;
    if (options->max_tokens == 0) s->finish = LM_FINISH_LENGTH;
    if (!err->code) return s;
    free_sequence(s);
    return NULL;
}

int lm_batch_add(lm_batch *b, const int32_t *ids, size_t n, const lm_gen_options *options, lm_err *err) {
    size_t i = 0;
    check_prompt(b, ids, n, err);
    while (i < b->n_readers && b->readers[i].s) i++;
    if (i == b->n_readers
        && !lm_grow((void **)&b->readers, b->n_readers, &b->readers_cap, 1, sizeof *b->readers, err))
        return -1;
    if (err->code) return -1;
    uint64_t hash = mix(0xCBF29CE484222325ull, ids, n * sizeof *ids);
    if (options->temperature > 0) hash = mix(hash, &options->seed, sizeof options->seed);
    sequence *s = find_equal(b, ids, n, options, hash);
    if (!s) {
        s = new_sequence(b, ids, n, options, err);
        if (!s) return -1;
        s->hash = hash;
        if (!s->finish) enter_queue(b, s);
    }
    s->n_readers++;
    b->readers[i] = (reader){ .s = s };
    b->n_readers = LM_MAX(b->n_readers, i + 1);
    return (int)i;
}

int lm_batch_finish(const lm_batch *b, int seq) { return b->readers[seq].s->finish; }

/*----------------------------------------------------------------------
** From ids to text. */

/* The end of what earlier tokens let out. */
static size_t n_safe(const sequence *s) { return s->n_marks ? s->marks[s->n_marks - 1].end : 0; }

/* Find the first stop text at or after from. Return its place, or the text's length. */
static size_t find_stop(const sequence *s, size_t from) {
    size_t at = s->text.n;
    for (int i = 0; i < s->options.n_stops; i++) {
        if (!s->options.stop_ns[i]) continue;
        const char *found = memmem(s->text.data + from, at - from, s->options.stops[i], s->options.stop_ns[i]);
        if (found) at = (size_t)(found - s->text.data);
    }
    return at;
}

/* The end of the text that may leave: before a cut character and before anything that may become a stop. */
static size_t safe_end(const sequence *s) {
    size_t sent = n_safe(s), end = sent + lm_utf8_complete(s->text.data + sent, s->text.n - sent);
    for (int i = 0; i < s->options.n_stops; i++) {
        size_t n = s->options.stop_ns[i], tail = LM_MIN(n ? n - 1 : 0, s->text.n - sent);
        for (; tail; tail--) {
            if (!memcmp(s->text.data + s->text.n - tail, s->options.stops[i], tail)) break;
        }
        end = LM_MIN(end, s->text.n - tail);
    }
    return end;
}

/* Take in token id: decide whether the sequence ends and what text may leave. */
static void advance(lm_batch *b, sequence *s, int32_t id, mark m, lm_err *err) {
    const lm_tok *tok = b->m->tok;
    size_t n = 0;
    lm_ids_append(&s->ids, id, err);
    if (tok && lm_tok_is_eog(tok, id) && !s->options.ignore_eog) {
        s->finish = LM_FINISH_EOS;
    } else if (tok && id < lm_tok_count(tok)) {
        const char *bytes = lm_tok_bytes(tok, id, &n);
        lm_buf_append(&s->text, bytes, n, err);
        size_t stop = find_stop(s, n_safe(s));
        if (stop < s->text.n) {
            s->text.n = stop;
            s->finish = LM_FINISH_STOP;
        }
    }
    if (!s->finish && s->ids.n - s->n_prompt >= (size_t)s->options.max_tokens) s->finish = LM_FINISH_LENGTH;
    if (!s->finish && s->ids.n >= (size_t)b->m->h.n_ctx) s->finish = LM_FINISH_CONTEXT;
    m.end = s->finish ? s->text.n : safe_end(s);
    if (lm_grow((void **)&s->marks, s->n_marks, &s->marks_cap, 1, sizeof m, err)) s->marks[s->n_marks++] = m;
}

/*----------------------------------------------------------------------
** A step: let sequences in, gather rows, run the pass, sample. */
static int n_todo(const sequence *s) { return (int)s->ids.n - s->kv.n; }

/* Is the beginning of this prompt being read now, so that waiting for it saves work? */
static int must_wait(const lm_batch *b, const sequence *s) {
    int n = (int)s->ids.n - 1, best = 0;
    for (int i = 0; i < b->n_live; i++) {
        const sequence *o = b->live[i];
        int alike = 0, most = n_todo(o) > 1 ? LM_MIN(n, (int)o->ids.n) : 0;
        while (alike < most && s->ids.data[alike] == o->ids.data[alike]) alike++;
        best = LM_MAX(best, alike);
    }
    return best >= GAIN && !b->exact && best >= lm_prefix_length(b->m, s->ids.data, n) + GAIN;
}

/* Make s live: beside those that share its first page. */
static void enter_live(lm_batch *b, sequence *s) {
    int at = b->n_live;
    lm_prefix_find(&s->kv, s->ids.data, (int)s->ids.n - 1);
    for (int i = 0; i < b->n_live && s->kv.n_pages; i++) {
        if (b->live[i]->kv.n_pages && b->live[i]->kv.pages[0] == s->kv.pages[0]) at = i + 1;
    }
    memmove(b->live + at + 1, b->live + at, (size_t)(b->n_live - at) * sizeof(sequence *));
    b->live[at] = s;
    b->n_live++;
}

static void let_in(lm_batch *b, lm_stop stop, lm_err *err) {
    for (sequence **at = &b->queue; *at && b->n_live < b->n_slots && !err->code;) {
        sequence *s = *at;
        if (must_wait(b, s)) {
            at = &s->next;
        } else {
            leave_queue(b, at);
            enter_live(b, s);
            lm_poll(stop, err);         /* a page may have been copied */
        }
    }
}

/* Give the pass room for what the sequences will ask of it, those in the queue too. */
static void size_pass(lm_batch *b, lm_err *err) {
    size_t rows = 0;
    int n_out = b->n_live;
    for (int i = 0; i < b->n_live; i++) rows += (size_t)n_todo(b->live[i]);
    for (const sequence *s = b->queue; s && n_out < b->n_slots; s = s->next, n_out++) rows += (size_t)n_todo(s);
    int n_rows = (int)LM_MIN(rows, LM_ROWS_MAX);
    if (lm_pass_fits(b->pass, n_rows, n_out)) return;
    lm_pass_free(b->pass);
    b->pass = NULL;
    while (!b->pass && !err->code) {
        lm_err own = {0};
        b->pass = lm_pass_new(b->m, n_rows, n_out, b->exact, &own);
        if (!b->pass && !lm_prefix_shrink(b->m)) *err = own;
    }
}

/* Make room in a live sequence's cache. Where memory is short, and others hold some, it goes back to the queue. */
static int reserve(lm_batch *b, int i, int n, lm_stop stop, lm_err *err) {
    sequence *s = b->live[i];
    size_t n_pages = s->kv.n_pages;
    lm_err own = {0};
    lm_kv_reserve(&s->kv, n, &own);
    lm_poll(stop, &own);                /* zeros take their time */
    while (s->kv.n_pages > n_pages && lm_mem_is_short() && lm_prefix_shrink(b->m)) {}
    int is_short = own.code == LM_NOMEM || (s->kv.n_pages > n_pages && lm_mem_is_short());
    if (own.code == LM_INTERRUPT || !is_short || b->n_live == 1) {
        *err = own;
        return !own.code;
    }
    lm_kv_clear(&s->kv);
    leave_live(b, i);
    enter_queue(b, s);
    b->n_slots = b->n_live;
    return 0;
}

/* Decoding sequences first, one row each; what is left of the pass goes to prompts. */
static int gather_rows(lm_batch *b, lm_stop stop, lm_err *err) {
    int n = 0, room = lm_pass_rows(b->pass), n_out = 0;
    for (int prompts = 0; prompts <= 1; prompts++) {
        for (int i = 0; i < b->n_live && !err->code; i++) {
            sequence *s = b->live[i];
            int todo = n_todo(s), take = LM_MIN(todo, room - n);
            if (todo == 0 || (todo > 1) != prompts || take == 0) continue;
            if (!reserve(b, i, s->kv.n + take, stop, err)) {
                i--;
                continue;
            }
            for (int r = 0; r < take; r++, s->kv.n++) {
                b->rows[n++] = (lm_row){ .id = s->ids.data[s->kv.n], .pos = s->kv.n, .kv = &s->kv, .out = -1 };
            }
            s->is_reading = prompts || s->kv.n <= (int)s->n_prompt;
            if (take == todo) b->rows[n - 1].out = s->ready = n_out++;
        }
    }
    return n;
}

/* Sample live sequence i. Return whether it goes on living. */
static int sample(lm_batch *b, int i, const float *logits, lm_err *err) {
    sequence *s = b->live[i];
    mark m = {0};
    int32_t best = lm_pass_best(b->pass, s->ready);
    logits += (size_t)s->ready * (size_t)b->m->h.n_vocab;
    s->ready = -1;
    int32_t id = lm_sample(&b->sampler, logits, b->m->h.n_vocab, best, &s->options, s->ids.data, s->ids.n, s->n_marks,
                           err);
    if (s->options.want_logprob && !err->code) m.logprob = lm_sample_logprob(logits, b->m->h.n_vocab, best, id);
    if (!err->code) advance(b, s, id, m, err);
    if (!s->finish) return 1;
    lm_prefix_keep(&s->kv, s->ids.data, s->kv.n);
    lm_kv_clear(&s->kv);
    leave_live(b, i);
    b->n_slots = LM_MIN(b->n_slots + 1, SLOTS);     /* what it held may do for one more */
    return 0;
}

/* One pass and what follows from it. Return 0 when all have ended. */
static int step(lm_batch *b, lm_stop stop, lm_err *err) {
    let_in(b, stop, err);
    if (!b->n_live) return 0;
    if (!err->code) size_pass(b, err);
    int n = err->code ? 0 : gather_rows(b, stop, err);
    const float *logits = err->code ? NULL : lm_forward(b->pass, b->rows, n, stop, err);
    if (!logits) return 0;
    unsigned fp = lm_fp_enter();
    for (int i = 0; i < b->n_live && !err->code;) {
        sequence *s = b->live[i];
        if (s->is_reading) lm_prefix_keep(&s->kv, s->ids.data, s->kv.n);
        s->is_reading = 0;
        i += s->ready < 0 || sample(b, i, logits, err);
        lm_poll(stop, err);
    }
    lm_fp_leave(fp);
    return !err->code;
}

/*----------------------------------------------------------------------
** Reading. */

/* Give a reader the next token of its sequence. */
static int give(lm_batch *b, size_t i, lm_token *out, lm_err *err) {
    reader *r = &b->readers[i];
    const sequence *s = r->s;
    const mark *m = &s->marks[r->n_given];
    b->piece.n = 0;
    lm_utf8_repair(&b->piece, s->text.data + r->n_sent, m->end - r->n_sent, err);
    *out = (lm_token){ .seq = (int)i, .id = s->ids.data[s->n_prompt + r->n_given], .logprob = m->logprob,
                       .piece = b->piece.data, .piece_n = b->piece.n };
    r->n_sent = m->end;
    if (++r->n_given == s->n_marks) out->finish = s->finish;
    return err->code ? -1 : 1;
}

int lm_batch_next(lm_batch *b, lm_stop stop, lm_token *out, lm_err *err) {
    while (!err->code) {
        for (size_t n = 0; n < b->n_readers; n++) {
            size_t i = (b->next + n) % b->n_readers;
            if (!b->readers[i].s || b->readers[i].n_given == b->readers[i].s->n_marks) continue;
            b->next = i + 1;
            return give(b, i, out, err);
        }
        if (!step(b, stop, err)) break;
    }
    return err->code ? -1 : 0;
}
