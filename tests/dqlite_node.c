/* dqlite_node.c: one node of a dqlite cluster whose connections all have the extension, linked in (and those that are named
** behind, loaded). Driven by tests/dqlite.tcl, which speaks its wire protocol.
**
**     dqlite_node ID ADDRESS FOLDER [FILE ENTRY]
**
** It runs until it is killed or its standard input ends. */
#include "../include/sqlite_lm.h"

#include <dqlite.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* One-way, what the election timeout is a multiple of: a leader whose thread computes for longer than that is not heard. */
enum { LATENCY_MS = 200 };

typedef void (*entry)(void);

static int load(const char *path, const char *name) {
    void *library = dlopen(path, RTLD_NOW), *found = library ? dlsym(library, name) : NULL;
    if (!found) fprintf(stderr, "%s\n", dlerror());
    return found ? sqlite3_auto_extension((entry)found) : SQLITE_ERROR;
}

int main(int n_args, char **args) {
    char byte;
    dqlite_node *node = NULL;
    signal(SIGPIPE, SIG_IGN);           /* the other nodes may be gone */
    if (n_args < 4 || sqlite3_auto_extension((entry)sqlite3_lm_init)) return 2;
    if (n_args > 5 && load(args[4], args[5])) return 2;
    if (dqlite_node_create(strtoull(args[1], NULL, 10), args[2], args[3], &node) || dqlite_node_set_bind_address(node, args[2])
        || dqlite_node_set_network_latency_ms(node, LATENCY_MS) || dqlite_node_start(node)) {
        fprintf(stderr, "dqlite_node %s: %s\n", args[1], node ? dqlite_node_errmsg(node) : "out of memory");
        return 1;
    }
    printf("node %s is up\n", args[1]);
    fflush(stdout);
    while (read(0, &byte, 1) > 0) {}
    dqlite_node_stop(node);
    dqlite_node_destroy(node);
    return 0;
}
