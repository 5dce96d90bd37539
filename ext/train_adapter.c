/* train_adapter.c: a run that trains an adapter: one that is there is trained further. */
#include "train.h"

static void check_form(const lm_run *r, const lm_adapter_rows *rows, lm_err *err) {
    const lm_lora_options *l = &r->o.lora;
    const char *targets = r->o.targets.n ? r->o.targets.data : "", *had = rows->targets.n ? rows->targets.data : "";
    if (l->rank == rows->a.rank && l->alpha == rows->a.alpha && !strcmp(targets, had)) return;
    lm_err_set(
        err, LM_ERROR,
        "lm_train: adapter %.60s is there, of rank %d, alpha %g, targets %.40s: leave out option \"lora\", or give another name",
        r->o.adapter, rows->a.rank, rows->a.alpha, *had ? had : "all");
}

void lm_run_find_adapter(lm_run *r, lm_err *err) {
    lm_adapter_rows *rows = &r->adapter;
    if (r->is_whole || err->code) return;
    if (!*r->o.adapter || strlen(r->o.adapter) > 200)
        lm_err_set(err, LM_ERROR, "lm_train: an adapter's name must have 1 to 200 bytes");
    if (err->code || !lm_adapter_find(r->c, &r->model, r->o.adapter, rows, err)) return;
    if (r->o.lora_json || r->o.resume) {
        check_form(r, rows, err);
        return;
    }
    r->o.lora.rank = rows->a.rank;
    r->o.lora.alpha = rows->a.alpha;
    if (rows->targets.n > 1) lm_buf_append(&r->o.targets, rows->targets.data, rows->targets.n, err);
}

void lm_run_load_adapter(lm_run *r, lm_err *err) {
    lm_adapter_rows *rows = &r->adapter;
    if (!rows->a.rank || r->o.resume || err->code) return;      /* new; or the checkpoint has it */
    if (strcmp(rows->base_digest, r->base_digest)) {
        lm_err_set(
            err, LM_ERROR,
            "lm_train: adapter %.60s: model %.60s is not the one that it was trained for: its digest is another",
            r->o.adapter, r->model.name);
    }
    lm_adapter_read(r->c, &r->model, rows, err);
    int n = lm_trainer_n_tensors(r->trainer);
    if (n != rows->a.n_tensors)
        lm_err_set(err, LM_ERROR, "lm_train: adapter %.60s has %d tensors, expected %d", r->o.adapter,
                   rows->a.n_tensors, n);
    for (int i = 0; i < n && !err->code; i++) {
        const lm_tensor *want = lm_trainer_tensor(r->trainer, i);
        int k = 0;
        while (k < n && strcmp(rows->a.tensors[k].name, want->name)) k++;
        if (k == n || rows->a.tensors[k].n_dims != want->n_dims
            || memcmp(rows->a.tensors[k].ne, want->ne, sizeof want->ne)) {
            lm_err_set(err, LM_ERROR, "lm_train: adapter %.60s: tensor %s is missing, or of another shape",
                       r->o.adapter, want->name);
        } else {
            memcpy(lm_trainer_data(r->trainer, i, LM_TRAIN_VALUE), rows->a.data[k],
                   (size_t)want->n_params * sizeof(float));
        }
    }
}

void lm_run_write_adapter(lm_run *r, lm_err *err) {
    int n = lm_trainer_n_tensors(r->trainer);
    lm_tensor *tensors = lm_alloc((size_t)n * sizeof *tensors, err);
    float **data = lm_alloc((size_t)n * sizeof *data, err);
    if (!err->code) {
        lm_adapter_rows rows = { .targets = r->o.targets, .a = { r->o.lora.rank, r->o.lora.alpha, tensors, n, data } };
        memcpy(rows.base_digest, r->base_digest, sizeof rows.base_digest);
        for (int i = 0; i < n; i++)
            tensors[i] = *lm_trainer_tensor(r->trainer, i), data[i] = lm_trainer_data(r->trainer, i, LM_TRAIN_VALUE);
        lm_adapter_write(r->c, &r->model, r->o.adapter, &rows, err);
    }
    lm_free(tensors);
    lm_free(data);
}
