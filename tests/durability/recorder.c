// What a process does to the files below one folder, in the order in which it does it.
//
// Preloaded into a process (LD_PRELOAD), this library stands between everything in it and the C library: Python, SQLite,
// safetensors (Rust), faiss and torch (C++) alike. SIMCSE_RECORD_ROOT names the folder, SIMCSE_RECORD_LOG the log.
// A record is: operation (1 byte), file number, position, length of the first and of the second text (8 bytes each,
// native byte order), the two texts. Operations:
//
//     c  create a file        d  make a folder     w  write bytes       t  set the size       s  sync a file or folder
//     r  rename               x  exchange names    u  remove a name     m  mark: a line of the test's own
//
// What it does not know (hard links, shared maps, copies inside the kernel, system calls without the C library) shows when the log is replayed: the result
// must equal the folder, byte for byte.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef RENAME_EXCHANGE
#define RENAME_EXCHANGE 2
#endif

#define FILES 65536
enum { TRACKED = 1, APPENDS = 2 };

static unsigned char files[FILES];
static char *paths[FILES];  // of files that were made
static int highest = -1;
static char root[PATH_MAX];
static int log_file = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) \
    static __typeof__(&name) real_##name; \
    if (!real_##name) real_##name = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("SIMCSE_RECORD_ROOT"), *name = getenv("SIMCSE_RECORD_LOG");
    if (!folder || !name || !realpath(folder, root)) return;
    log_file = syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int tracked(int fd) { return fd >= 0 && fd < FILES && files[fd]; }

// The absolute path, if it lies below the folder.
static int below(int folder, const char *path, char *out) {
    char at[64];
    if (log_file < 0 || !path) return 0;
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
    } else {
        ssize_t length;
        if (folder == AT_FDCWD) {
            if (!getcwd(out, PATH_MAX)) return 0;
            length = strlen(out);
        } else {
            snprintf(at, sizeof at, "/proc/self/fd/%d", folder);
            length = readlink(at, out, PATH_MAX - 1);
            if (length < 0) return 0;
        }
        snprintf(out + length, PATH_MAX - length, "/%s", path);
    }
    size_t length = strlen(root);
    return !strncmp(out, root, length) && (out[length] == '/' || !out[length]);
}

static void all(const void *bytes, size_t count) {
    while (count) {
        ssize_t done = syscall(SYS_write, log_file, bytes, count);
        if (done <= 0) abort();
        bytes = (const char *)bytes + done;
        count -= done;
    }
}

static void record(char operation, uint64_t number, uint64_t position, const void *one, size_t first, const void *two,
                   size_t second) {
    int error = errno;
    char head[33] = {operation};
    uint64_t values[4] = {number, position, first, second};
    memcpy(head + 1, values, sizeof values);
    all(head, sizeof head);
    all(one, first);
    all(two, second);
    errno = error;
}

static void named(char operation, uint64_t number, const char *one, const char *two) {
    record(operation, number, 0, one, strlen(one), two, two ? strlen(two) : 0);
}

static uint64_t number_of(int fd) {
    struct stat found;
    if (fstat(fd, &found)) abort();
    return found.st_ino;
}

void simcse_mark(const char *text) {
    pthread_mutex_lock(&lock);
    if (log_file >= 0) named('m', 0, text, NULL);
    pthread_mutex_unlock(&lock);
}

static int opened(int folder, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    struct stat before;
    if (!below(folder, path, full) || (flags & O_TMPFILE) == O_TMPFILE)
        return syscall(SYS_openat, folder, path, flags, mode);
    pthread_mutex_lock(&lock);
    int there = !stat(full, &before);
    int fd = syscall(SYS_openat, folder, path, flags, mode);
    if (fd >= FILES) abort();
    if (fd >= 0) {
        files[fd] = TRACKED | (flags & O_APPEND ? APPENDS : 0);
        if (!there) {
            named('c', number_of(fd), full, NULL);
            paths[fd] = strdup(full);
            if (fd > highest) highest = fd;
        }
        if (there && flags & O_TRUNC && before.st_size)
            record('t', number_of(fd), 0, NULL, 0, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE \
    mode_t mode = 0; \
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE return opened(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE return opened(folder, path, flags, mode); }
int __open_2(const char *path, int flags) { return opened(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return opened(AT_FDCWD, path, flags, 0); }
int __openat_2(int folder, const char *path, int flags) { return opened(folder, path, flags, 0); }
int __openat64_2(int folder, const char *path, int flags) { return opened(folder, path, flags, 0); }
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

// Rust renames by the system call itself, so that its temporary file has another name when it is closed.
static void renamed_unseen(int fd) {
    char at[64], now[PATH_MAX];
    snprintf(at, sizeof at, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(at, now, sizeof now - 1);
    now[length < 0 ? 0 : length] = 0;
    if (length > 0 && strcmp(now, paths[fd]) && !access(now, F_OK)) named('r', 0, paths[fd], now);
}

int close(int fd) {
    if (fd >= 0 && fd < FILES && files[fd]) {
        pthread_mutex_lock(&lock);
        if (paths[fd]) renamed_unseen(fd);
        free(paths[fd]);
        paths[fd] = NULL;
        files[fd] = 0;
        pthread_mutex_unlock(&lock);
    }
    return syscall(SYS_close, fd);
}

static int copied(int from, int to) {
    if (to >= 0 && to < FILES && from >= 0 && from < FILES) files[to] = files[from];
    return to;
}

int dup(int fd) { return copied(fd, syscall(SYS_dup, fd)); }
int dup3(int fd, int other, int flags) { return copied(fd, syscall(SYS_dup3, fd, other, flags)); }
int dup2(int fd, int other) {
    REAL(dup2);
    return copied(fd, real_dup2(fd, other));
}

static int controlled(int fd, int command, long argument) {
    int found = syscall(SYS_fcntl, fd, command, argument);
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? copied(fd, found) : found;
}
#define CONTROL \
    va_list rest; \
    va_start(rest, command); \
    long argument = va_arg(rest, long); \
    va_end(rest); \
    return controlled(fd, command, argument);
int fcntl(int fd, int command, ...) { CONTROL }
int fcntl64(int fd, int command, ...) { CONTROL }

// Write several pieces at a position, or where the file stands (-1).
static ssize_t written(int fd, const struct iovec *pieces, int count, off_t position) {
    int tracing = tracked(fd);
    if (tracing) pthread_mutex_lock(&lock);
    off_t at = position;
    struct stat found;
    if (tracing && (files[fd] & APPENDS) && !fstat(fd, &found))
        at = found.st_size;
    else if (tracing && position < 0)
        at = lseek(fd, 0, SEEK_CUR);
    ssize_t done = position < 0 ? syscall(SYS_writev, fd, pieces, count)
                                : syscall(SYS_pwritev, fd, pieces, count, (long)position, 0L);
    if (tracing) {
        size_t left = done > 0 ? done : 0;
        uint64_t number = number_of(fd);
        for (int piece = 0; piece < count && left; piece++) {
            size_t some = pieces[piece].iov_len < left ? pieces[piece].iov_len : left;
            record('w', number, at, pieces[piece].iov_base, some, NULL, 0);
            at += some;
            left -= some;
        }
        pthread_mutex_unlock(&lock);
    }
    return done;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    struct iovec piece = {(void *)bytes, count};
    return tracked(fd) ? written(fd, &piece, 1, -1) : syscall(SYS_write, fd, bytes, count);
}
ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t position) {
    struct iovec piece = {(void *)bytes, count};
    return tracked(fd) ? written(fd, &piece, 1, position) : syscall(SYS_pwrite64, fd, bytes, count, position);
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t position) { return pwrite64(fd, bytes, count, position); }
ssize_t writev(int fd, const struct iovec *pieces, int count) { return written(fd, pieces, count, -1); }
ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t position) {
    return written(fd, pieces, count, position);
}
ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off_t position) {
    return written(fd, pieces, count, position);
}

int ftruncate64(int fd, off_t size) {
    if (!tracked(fd)) return syscall(SYS_ftruncate, fd, size);
    pthread_mutex_lock(&lock);
    int failed = syscall(SYS_ftruncate, fd, size);
    if (!failed) record('t', number_of(fd), size, NULL, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return failed;
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }
int truncate64(const char *path, off_t size) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    int failed = ftruncate64(fd, size);
    close(fd);
    return failed;
}
int truncate(const char *path, off_t size) { return truncate64(path, size); }

static int synced(int fd, long call) {
    if (!tracked(fd)) return syscall(call, fd);
    pthread_mutex_lock(&lock);
    int failed = syscall(call, fd);
    if (!failed) record('s', number_of(fd), 0, NULL, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return failed;
}
int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

// Keep the paths of open files as they are after a rename or an exchange.
static void follow(const char *one, const char *two, int both) {
    char path[PATH_MAX];
    for (int fd = 0; fd <= highest; fd++) {
        for (int back = 0; paths[fd] && back <= both; back++) {
            const char *from = back ? two : one, *to = back ? one : two;
            size_t length = strlen(from);
            if (strncmp(paths[fd], from, length) || (paths[fd][length] && paths[fd][length] != '/')) continue;
            snprintf(path, sizeof path, "%s%s", to, paths[fd] + length);
            free(paths[fd]);
            paths[fd] = strdup(path);
            break;
        }
    }
}

static int moved(int from, const char *one, int to, const char *two, unsigned flags) {
    char first[PATH_MAX], second[PATH_MAX];
    int tracing = below(from, one, first) && below(to, two, second);
    if (tracing) pthread_mutex_lock(&lock);
    int failed = syscall(SYS_renameat2, from, one, to, two, flags);
    if (tracing && !failed) {
        named(flags & RENAME_EXCHANGE ? 'x' : 'r', 0, first, second);
        follow(first, second, (flags & RENAME_EXCHANGE) != 0);
    }
    if (tracing) pthread_mutex_unlock(&lock);
    return failed;
}
int renameat2(int from, const char *one, int to, const char *two, unsigned flags) {
    return moved(from, one, to, two, flags);
}
int renameat(int from, const char *one, int to, const char *two) { return moved(from, one, to, two, 0); }
int rename(const char *one, const char *two) { return moved(AT_FDCWD, one, AT_FDCWD, two, 0); }

static int removed(int folder, const char *path, int flags) {
    char full[PATH_MAX];
    int tracing = below(folder, path, full);
    if (tracing) pthread_mutex_lock(&lock);
    int failed = syscall(SYS_unlinkat, folder, path, flags);
    if (tracing && !failed) named('u', 0, full, NULL);
    if (tracing) pthread_mutex_unlock(&lock);
    return failed;
}
int unlinkat(int folder, const char *path, int flags) { return removed(folder, path, flags); }
int unlink(const char *path) { return removed(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return removed(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int folder, const char *path, mode_t mode) {
    char full[PATH_MAX];
    int tracing = below(folder, path, full);
    if (tracing) pthread_mutex_lock(&lock);
    int failed = syscall(SYS_mkdirat, folder, path, mode);
    struct stat found;
    if (tracing && !failed && !stat(full, &found)) named('d', found.st_ino, full, NULL);
    if (tracing) pthread_mutex_unlock(&lock);
    return failed;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

// C streams write from inside the C library, where nothing stands between: give them functions of ours to write with.
static ssize_t stream_write(void *fd, const char *bytes, size_t count) {
    ssize_t done = write((int)(intptr_t)fd, bytes, count);
    return done < 0 ? 0 : done;
}
static ssize_t stream_read(void *fd, char *bytes, size_t count) { return read((int)(intptr_t)fd, bytes, count); }
static int stream_seek(void *fd, off64_t *position, int whence) {
    *position = lseek((int)(intptr_t)fd, *position, whence);
    return *position < 0 ? -1 : 0;
}
static int stream_close(void *fd) { return close((int)(intptr_t)fd); }

FILE *fopen64(const char *path, const char *mode) {
    REAL(fopen64);
    char full[PATH_MAX];
    if (!below(AT_FDCWD, path, full) || (mode[0] == 'r' && !strchr(mode, '+'))) return real_fopen64(path, mode);
    int both = strchr(mode, '+') != NULL;
    int flags = (both ? O_RDWR : O_WRONLY) | (mode[0] == 'r' ? 0 : O_CREAT) | (mode[0] == 'w' ? O_TRUNC : 0) |
                (mode[0] == 'a' ? O_APPEND : 0);
    int fd = opened(AT_FDCWD, path, flags, 0666);
    if (fd < 0) return NULL;
    cookie_io_functions_t functions = {stream_read, stream_write, stream_seek, stream_close};
    return fopencookie((void *)(intptr_t)fd, mode, functions);
}
FILE *fopen(const char *path, const char *mode) { return fopen64(path, mode); }
