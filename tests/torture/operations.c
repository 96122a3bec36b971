// Counts a process's file operations in one folder, whichever library asks for them, and kills it at a chosen one.
// Loaded by LD_PRELOAD; asleep until `arm` is called.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096];
static long fatal;       // the number of the operation that is the last one; 0: none
static int is_half;      // whether half of what it writes is written
static int list = -1;    // a file that gets a line for each operation
static atomic_long count;

void arm(const char *where, long number, int half, int list_to) {
  strncpy(folder, where, sizeof folder - 1);
  fatal = number, is_half = half, list = list_to, count = 0;
}

static void die(void) {
  syscall(SYS_kill, getpid(), SIGKILL);
  for (;;) pause();
}

static int is_inside(int directory, const char *path, char *full, size_t size) {
  char link[64], place[4096] = "";
  if (path && path[0] == '/') {
    snprintf(full, size, "%s", path);
  } else {
    if (directory == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t length = readlink(link, place, sizeof place - 1);
    if (length < 0) return 0;
    place[length] = 0;
    if (path) snprintf(full, size, "%s/%s", place, path);
    else snprintf(full, size, "%s", place);
  }
  return strncmp(full, folder, strlen(folder)) == 0;
}

// Count it, and end the process if this is the one. Returns whether half of it is to be done first.
static int meet(const char *name, int directory, const char *path) {
  char full[9000], line[9200];
  if (!folder[0] || !is_inside(directory, path, full, sizeof full)) return 0;
  long number = atomic_fetch_add(&count, 1) + 1;
  if (list >= 0) {
    int length = snprintf(line, sizeof line, "%ld %s %s\n", number, name, full);
    syscall(SYS_write, list, line, length);
  }
  if (number != fatal) return 0;
  if (!is_half) die();
  return 1;
}

static void before(const char *name, int directory, const char *path) {
  if (meet(name, directory, path)) die();  // it has no half
}

#define NEXT(result, name, ...) static result (*next)(__VA_ARGS__); if (!next) next = dlsym(RTLD_NEXT, name)
#define CHANGES (O_CREAT | O_TRUNC)

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    NEXT(int, #name, const char *, int, ...); \
    va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more); \
    if (flags & CHANGES) before("open", AT_FDCWD, path); \
    return next(path, flags, mode); }
#define OPENAT(name) \
  int name(int directory, const char *path, int flags, ...) { \
    NEXT(int, #name, int, const char *, int, ...); \
    va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more); \
    if (flags & CHANGES) before("open", directory, path); \
    return next(directory, path, flags, mode); }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

ssize_t write(int file, const void *bytes, size_t size) {
  NEXT(ssize_t, "write", int, const void *, size_t);
  if (meet("write", file, NULL)) { next(file, bytes, size / 2); die(); }
  return next(file, bytes, size);
}
#define PWRITE(name) \
  ssize_t name(int file, const void *bytes, size_t size, off64_t from) { \
    NEXT(ssize_t, #name, int, const void *, size_t, off64_t); \
    if (meet("write", file, NULL)) { next(file, bytes, size / 2, from); die(); } \
    return next(file, bytes, size, from); }
PWRITE(pwrite) PWRITE(pwrite64)

ssize_t writev(int file, const struct iovec *parts, int n) {
  NEXT(ssize_t, "writev", int, const struct iovec *, int);
  if (meet("write", file, NULL)) { syscall(SYS_write, file, parts[0].iov_base, parts[0].iov_len / 2); die(); }
  return next(file, parts, n);
}
#define PWRITEV(name) \
  ssize_t name(int file, const struct iovec *parts, int n, off64_t from) { \
    NEXT(ssize_t, #name, int, const struct iovec *, int, off64_t); \
    if (meet("write", file, NULL)) { \
      syscall(SYS_pwrite64, file, parts[0].iov_base, parts[0].iov_len / 2, from); die(); } \
    return next(file, parts, n, from); }
PWRITEV(pwritev) PWRITEV(pwritev64)

#define OF_FILE(name) \
  int name(int file) { NEXT(int, #name, int); before(#name, file, NULL); return next(file); }
OF_FILE(fsync) OF_FILE(fdatasync)
#define TRUNCATE(name) \
  int name(int file, off64_t size) { NEXT(int, #name, int, off64_t); before("ftruncate", file, NULL); return next(file, size); }
TRUNCATE(ftruncate) TRUNCATE(ftruncate64)

#define OF_PATH(name) \
  int name(const char *path) { NEXT(int, #name, const char *); before(#name, AT_FDCWD, path); return next(path); }
OF_PATH(unlink) OF_PATH(rmdir)
int unlinkat(int directory, const char *path, int flags) {
  NEXT(int, "unlinkat", int, const char *, int); before("unlink", directory, path); return next(directory, path, flags); }
int mkdir(const char *path, mode_t mode) {
  NEXT(int, "mkdir", const char *, mode_t); before("mkdir", AT_FDCWD, path); return next(path, mode); }
int mkdirat(int directory, const char *path, mode_t mode) {
  NEXT(int, "mkdirat", int, const char *, mode_t); before("mkdir", directory, path); return next(directory, path, mode); }
int rename(const char *from, const char *to) {
  NEXT(int, "rename", const char *, const char *); before("rename", AT_FDCWD, to); return next(from, to); }
int renameat(int a, const char *from, int b, const char *to) {
  NEXT(int, "renameat", int, const char *, int, const char *); before("rename", b, to); return next(a, from, b, to); }
