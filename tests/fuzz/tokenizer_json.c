/* tokenizer_json.c: a tokenizer.json; behind a NUL, a text for it. */
#include "fuzz.h"

FUZZ(tokenizer_json)(const uint8_t *data, size_t n) {
    static const char fixed[] = "Hello  world! \xC2\xA0na\xC3\xAFve \xE2\x96\x81x 12 \xF0\x9F\x99\x82\xFF<s>[CLS]";
    uint64_t used = fuzz_begin();
    lm_err err = {0};
    lm_ids ids = {0};
    const uint8_t *cut = n ? memchr(data, 0, n) : NULL;
    size_t json_n = cut ? (size_t)(cut - data) : n;
    lm_meta *meta = fuzz_json_meta(data, json_n, &err);
    lm_tok *t = lm_tok_new(meta, NULL, &err);
    fuzz_opened = t != NULL;
    if (t && !fuzz_shallow) {
        lm_err own = {0};
        fuzz_tokenizer(t, fixed, sizeof fixed - 1, &ids, &err);
        if (cut) fuzz_tokenizer(t, (const char *)cut + 1, n - json_n - 1, &ids, &own);
        fuzz_error(&own);
    }
    fuzz_error(&err);
    lm_ids_clear(&ids);
    lm_tok_free(t);
    lm_meta_free(meta);
    return fuzz_end(used);
}
