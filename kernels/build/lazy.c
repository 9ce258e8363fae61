/* One CUDA library that is opened when one of its functions is called first (see lazy.rs).
 *
 * Compiled once for every library, with LIBRARY (its short name), MISSING (what its functions return when it is not
 * there) and FILES (the names to try, a comma after each). The slots start at the stubs of lazy.rs's assembly, which end
 * in `resolve`; from then on a call is one indirect jump.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOINED_(a, b) a##b
#define JOINED(a, b) JOINED_(a, b)
#define NAME_(x) #x
#define NAME(x) NAME_(x)
#define SLOTS JOINED(dtrain_slots_, LIBRARY)
#define NAMES JOINED(dtrain_names_, LIBRARY)
#define KINDS JOINED(dtrain_kinds_, LIBRARY)

extern void *SLOTS[];
extern const char *const NAMES[];
extern const char KINDS[];

static const char *const files[] = {FILES 0};
static pthread_once_t once = PTHREAD_ONCE_INIT;
static void *library;

static long missing(void) { return MISSING; }
static const char *missing_text(void) {
    return NAME(LIBRARY) " was not found: install it, or name its folder in DTRAIN_CUDA_LIB_DIR";
}
static long missing_done(void) { return 0; }
static long missing_handle(void **handle) {
    *handle = 0;
    return 0;
}

/* Tries every name in every folder of the colon-separated list; an empty folder asks the loader's own search. */
static void open_from(const char *folders) {
    char path[4096];
    for (const char *at = folders; at && !library;) {
        size_t length = strcspn(at, ":");
        for (int i = 0; files[i] && !library; i++) {
            int n = snprintf(path, sizeof path, "%.*s%s%s", (int)length, at, length ? "/" : "", files[i]);
            if (n < (int)sizeof path) library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        }
        at = at[length] ? at + length + 1 : 0;
    }
}

static void open_library(void) {
    open_from(getenv("DTRAIN_CUDA_LIB_DIR"));
    open_from(":/usr/local/cuda/lib64:/opt/cuda/lib64");
    if (!library && files[0] && getenv("DTRAIN_CUDA_DEBUG")) fprintf(stderr, NAME(LIBRARY) ": %s\n", dlerror());
}

__attribute__((visibility("hidden"))) void *JOINED(dtrain_resolve_, LIBRARY)(unsigned long i) {
    pthread_once(&once, open_library);
    void *function = library ? dlsym(library, NAMES[i]) : 0;
    if (!function) {
        switch (KINDS[i]) {
        case 't': function = (void *)missing_text; break;
        case 'h': function = (void *)missing_handle; break;
        case 'd': function = (void *)missing_done; break;
        default: function = (void *)missing;
        }
    }
    __atomic_store_n(&SLOTS[i], function, __ATOMIC_RELEASE);
    return function;
}
