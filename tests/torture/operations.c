// Counts a process's file operations in one folder, whichever library asks for them. At a chosen one the process is
// killed; or from that one on they fail, as on a disk that is full. Loaded by LD_PRELOAD; asleep until `arm` is called.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
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
static long fatal;       // the number of the operation that is the last one to be begun; 0: none
static int is_half;      // whether half of what it writes is written
static int refusal;      // the error of that one and of all later ones; 0: the process is killed
static int list = -1;    // a file that gets a line for each operation
static atomic_long count;

void arm(const char *where, long number, int half, int error, int list_to) {
  strncpy(folder, where, sizeof folder - 1);
  fatal = number, is_half = half, refusal = error, list = list_to, count = 0;
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

static int is_one_of(const char *name, const char *names) { return strstr(names, name) != NULL; }

// Whether it works in spite of the error: a full disk deletes, and permissions are asked for at opening alone.
static int is_spared(const char *name) {
  if (refusal == EACCES) return is_one_of(name, "write fsync fdatasync ftruncate");
  return refusal != EROFS && is_one_of(name, "unlink rmdir");
}

enum { GO_ON, HALF, REFUSED };

// Count it. What is to be done: all of it, or its first half alone, or nothing, for it has failed; or be no more.
static int meet(const char *name, int directory, const char *path) {
  char full[9000], line[9200];
  if (!folder[0] || !is_inside(directory, path, full, sizeof full)) return GO_ON;
  long number = atomic_fetch_add(&count, 1) + 1;
  if (list >= 0) {
    int length = snprintf(line, sizeof line, "%ld %s %s\n", number, name, full);
    syscall(SYS_write, list, line, length);
  }
  if (!fatal || number < fatal || (!refusal && number > fatal)) return GO_ON;
  if (refusal && is_spared(name)) return GO_ON;
  if (is_half && number == fatal) return HALF;
  if (!refusal) die();
  errno = refusal;
  return REFUSED;
}

static int is_refused(const char *name, int directory, const char *path) {
  if (meet(name, directory, path) == GO_ON) return 0;
  if (!refusal) die();  // it has no half
  errno = refusal;
  return 1;
}

// The first half was done: so much was written, or the process ends.
static ssize_t half_done(ssize_t written) {
  if (!refusal) die();
  if (written == 0) { errno = refusal; return -1; }
  return written;
}

#define NEXT(result, name, ...) static result (*next)(__VA_ARGS__); if (!next) next = dlsym(RTLD_NEXT, name)
#define CHANGES (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR)

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    NEXT(int, #name, const char *, int, ...); \
    va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more); \
    if (flags & CHANGES && is_refused("open", AT_FDCWD, path)) return -1; \
    return next(path, flags, mode); }
#define OPENAT(name) \
  int name(int directory, const char *path, int flags, ...) { \
    NEXT(int, #name, int, const char *, int, ...); \
    va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more); \
    if (flags & CHANGES && is_refused("open", directory, path)) return -1; \
    return next(directory, path, flags, mode); }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

// `half`: what writes the first half, `all`: all of it.
#define WRITE(half, all) \
  switch (meet("write", file, NULL)) { \
    case HALF: return half_done(half); \
    case REFUSED: return -1; \
    default: return all; }
#define HALF_OF_FIRST parts[0].iov_base, parts[0].iov_len / 2
ssize_t write(int file, const void *bytes, size_t size) {
  NEXT(ssize_t, "write", int, const void *, size_t);
  WRITE(next(file, bytes, size / 2), next(file, bytes, size))
}
#define PWRITE(name) \
  ssize_t name(int file, const void *bytes, size_t size, off64_t from) { \
    NEXT(ssize_t, #name, int, const void *, size_t, off64_t); \
    WRITE(next(file, bytes, size / 2, from), next(file, bytes, size, from)) }
PWRITE(pwrite) PWRITE(pwrite64)

ssize_t writev(int file, const struct iovec *parts, int n) {
  NEXT(ssize_t, "writev", int, const struct iovec *, int);
  WRITE(syscall(SYS_write, file, HALF_OF_FIRST), next(file, parts, n))
}
#define PWRITEV(name) \
  ssize_t name(int file, const struct iovec *parts, int n, off64_t from) { \
    NEXT(ssize_t, #name, int, const struct iovec *, int, off64_t); \
    WRITE(syscall(SYS_pwrite64, file, HALF_OF_FIRST, from), next(file, parts, n, from)) }
PWRITEV(pwritev) PWRITEV(pwritev64)

#define OF_FILE(name) \
  int name(int file) { NEXT(int, #name, int); return is_refused(#name, file, NULL) ? -1 : next(file); }
OF_FILE(fsync) OF_FILE(fdatasync)
#define TRUNCATE(name) \
  int name(int file, off64_t size) { \
    NEXT(int, #name, int, off64_t); return is_refused("ftruncate", file, NULL) ? -1 : next(file, size); }
TRUNCATE(ftruncate) TRUNCATE(ftruncate64)

#define OF_PATH(name) \
  int name(const char *path) { \
    NEXT(int, #name, const char *); return is_refused(#name, AT_FDCWD, path) ? -1 : next(path); }
OF_PATH(unlink) OF_PATH(rmdir)
int unlinkat(int directory, const char *path, int flags) {
  NEXT(int, "unlinkat", int, const char *, int);
  return is_refused("unlink", directory, path) ? -1 : next(directory, path, flags); }
int mkdir(const char *path, mode_t mode) {
  NEXT(int, "mkdir", const char *, mode_t); return is_refused("mkdir", AT_FDCWD, path) ? -1 : next(path, mode); }
int mkdirat(int directory, const char *path, mode_t mode) {
  NEXT(int, "mkdirat", int, const char *, mode_t);
  return is_refused("mkdir", directory, path) ? -1 : next(directory, path, mode); }
int rename(const char *from, const char *to) {
  NEXT(int, "rename", const char *, const char *); return is_refused("rename", AT_FDCWD, to) ? -1 : next(from, to); }
int renameat(int a, const char *from, int b, const char *to) {
  NEXT(int, "renameat", int, const char *, int, const char *);
  return is_refused("rename", b, to) ? -1 : next(a, from, b, to); }
