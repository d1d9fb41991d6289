/* Loaded before the C library (LD_PRELOAD): calls on chosen paths fail as a plan says, and the clock may be another.
 *
 * HIERLM_CHAOS_PLAN names a file, read at every call, so that a plan reaches processes that run already:
 *     NAME KIND CALL PATH NTH ERRNO TIMES [done]
 * From its NTH call CALL (or `any`) on a path of which PATH is a part, a process gets ERRNO, if one of TIMES is left
 * for all processes together. With `done` the call is made first: a server has done it, and its answer got lost.
 * KIND `clock` with NTH as seconds moves the time of day. What struck whom is told in files PLAN.NAME.K.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(result, name, ...)                                                                                       \
    static result (*real)(__VA_ARGS__);                                                                               \
    if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

struct plan { char name[64], kind[16], call[16], path[256], after[8]; long nth; int error, times; };

/* Raw calls only: the C library's own are those below. */
static long size_of(const char *path, char *text, long size) {
    long file = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (file < 0) return -1;
    long count = syscall(SYS_read, file, text, size - 1);
    syscall(SYS_close, file);
    if (count < 0) return -1;
    text[count] = 0;
    return count;
}

static int planned(struct plan *plan) {
    char text[512];
    const char *file = getenv("HIERLM_CHAOS_PLAN");
    memset(plan, 0, sizeof *plan);
    if (!file || size_of(file, text, sizeof text) <= 0) return 0;
    return sscanf(text, "%63s %15s %15s %255s %ld %d %d %7s", plan->name, plan->kind, plan->call, plan->path,
                  &plan->nth, &plan->error, &plan->times, plan->after) >= 7;
}

static int claimed(const struct plan *plan, const char *call, const char *path) {
    char name[PATH_MAX], text[PATH_MAX + 64];
    for (int number = 0; number < plan->times; number++) {
        snprintf(name, sizeof name, "%s.%s.%d", getenv("HIERLM_CHAOS_PLAN"), plan->name, number);
        long file = syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (file < 0) continue;
        int size = snprintf(text, sizeof text, "%d %s %s\n", getpid(), call, path);
        syscall(SYS_write, file, text, (long)size);
        syscall(SYS_close, file);
        return 1;
    }
    return 0;
}

/* 0: go on. 1: fail. 2: do it, then fail. errno is set by the caller from *error. */
static int struck(const char *call, const char *path, int *error) {
    static char counted_for[64];
    static long count;
    struct plan plan;
    int kept = errno, what = 0;
    if (path && planned(&plan) && !strcmp(plan.kind, "errno") && strstr(path, plan.path) &&
        (!strcmp(plan.call, "any") || !strcmp(plan.call, call))) {
        if (strcmp(counted_for, plan.name)) {
            strcpy(counted_for, plan.name);
            count = 0;
        }
        if (++count >= plan.nth && claimed(&plan, call, path)) {
            *error = plan.error;
            what = strcmp(plan.after, "done") ? 1 : 2;
        }
    }
    errno = kept;
    return what;
}

static const char *path_of(int file, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    long size = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return path;
}

#define AROUND(call, path, result, failed, doing)                                                                     \
    int error, what = struck(call, path, &error);                                                                     \
    if (what == 1) { errno = error; return failed; }                                                                  \
    result made = doing;                                                                                              \
    if (what == 2) { errno = error; return failed; }                                                                  \
    return made

#define OPENING(name)                                                                                                 \
    int name(const char *path, int flags, ...) {                                                                      \
        REAL(int, #name, const char *, int, ...);                                                                     \
        va_list list; va_start(list, flags); int mode = va_arg(list, int); va_end(list);                              \
        const char *call = flags & (O_WRONLY | O_RDWR | O_CREAT) ? "create" : "open";                                  \
        AROUND(call, path, int, -1, real(path, flags, mode));                                                         \
    }
OPENING(open) OPENING(open64)

#define OPENING_AT(name)                                                                                              \
    int name(int at, const char *path, int flags, ...) {                                                              \
        REAL(int, #name, int, const char *, int, ...);                                                                \
        va_list list; va_start(list, flags); int mode = va_arg(list, int); va_end(list);                              \
        const char *call = flags & (O_WRONLY | O_RDWR | O_CREAT) ? "create" : "open";                                  \
        AROUND(call, path, int, -1, real(at, path, flags, mode));                                                     \
    }
OPENING_AT(openat) OPENING_AT(openat64)

ssize_t write(int file, const void *bytes, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    char path[PATH_MAX];
    AROUND("write", path_of(file, path), ssize_t, -1, real(file, bytes, size));
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    char path[PATH_MAX];
    AROUND("write", path_of(file, path), ssize_t, -1, real(file, parts, count));
}

#define OF_A_FILE(name) int name(int file) {                                                                          \
        REAL(int, #name, int);                                                                                        \
        char path[PATH_MAX];                                                                                          \
        AROUND("fsync", path_of(file, path), int, -1, real(file));                                                    \
    }
OF_A_FILE(fsync) OF_A_FILE(fdatasync)

#define OF_A_LENGTH(name, type) int name(int file, type size) {                                                       \
        REAL(int, #name, int, type);                                                                                  \
        char path[PATH_MAX];                                                                                          \
        AROUND("truncate", path_of(file, path), int, -1, real(file, size));                                           \
    }
OF_A_LENGTH(ftruncate, off_t) OF_A_LENGTH(ftruncate64, off64_t)

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    AROUND("rename", to, int, -1, real(from, to));
}

int renameat(int at, const char *from, int to_at, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    AROUND("rename", to, int, -1, real(at, from, to_at, to));
}

int link(const char *from, const char *to) {
    REAL(int, "link", const char *, const char *);
    AROUND("link", to, int, -1, real(from, to));
}

int linkat(int at, const char *from, int to_at, const char *to, int flags) {
    REAL(int, "linkat", int, const char *, int, const char *, int);
    AROUND("link", to, int, -1, real(at, from, to_at, to, flags));
}

#define OF_A_PATH(name, call) int name(const char *path) {                                                            \
        REAL(int, #name, const char *);                                                                               \
        AROUND(call, path, int, -1, real(path));                                                                      \
    }
OF_A_PATH(unlink, "unlink") OF_A_PATH(rmdir, "rmdir")

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    AROUND("mkdir", path, int, -1, real(path, mode));
}

DIR *opendir(const char *path) {
    REAL(DIR *, "opendir", const char *);
    AROUND("list", path, DIR *, 0, real(path));
}

#define OF_THE_STATE(name, type) int name(const char *path, type *state) {                                            \
        REAL(int, #name, const char *, type *);                                                                       \
        AROUND("stat", path, int, -1, real(path, state));                                                             \
    }
OF_THE_STATE(stat, struct stat) OF_THE_STATE(stat64, struct stat64)
OF_THE_STATE(lstat, struct stat) OF_THE_STATE(lstat64, struct stat64)

/* The time of day, moved; other clocks go on as they do on a machine whose clock is set. Asked at most 20 times a second. */
static long moved(void) {
    static long seconds, asked_at = -1;
    struct timespec now;
    struct plan plan;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    long at = now.tv_sec * 20 + now.tv_nsec / 50000000;
    if (at != asked_at) {
        asked_at = at;
        seconds = planned(&plan) && !strcmp(plan.kind, "clock") ? plan.nth : 0;
        if (seconds) claimed(&plan, "clock", "-");
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int code = syscall(SYS_clock_gettime, clock, now);
    if (!code && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += moved();
    return code;
}

int gettimeofday(struct timeval *now, void *zone) {
    int code = syscall(SYS_gettimeofday, now, zone);
    if (!code) now->tv_sec += moved();
    return code;
}

time_t time(time_t *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place) *place = now.tv_sec;
    return now.tv_sec;
}
