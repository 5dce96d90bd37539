/* sqlite_lm.h: linking sqlite-lm into a program instead of loading it.
**
** Link build/libsqlite_lm.a (made with SQLITE_CORE) and pcre2-8, utf8proc, b2, pthread and m beside SQLite;
** then either call sqlite3_lm_init(db, 0, 0) on a connection, or, once and for every connection to come:
**
**     sqlite3_auto_extension((void (*)(void))sqlite3_lm_init); */
#ifndef SQLITE_LM_H
#define SQLITE_LM_H

#include <sqlite3.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sqlite3_api_routines;
int sqlite3_lm_init(sqlite3 *db, char **error, const struct sqlite3_api_routines *api);

#ifdef __cplusplus
}
#endif

#endif
