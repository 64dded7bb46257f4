/*
 * Preloaded into the process that the crash tests kill: knows what that process has really made durable.
 *
 * A killed process keeps the page cache, so what it wrote and never synced is there afterwards, and a missing fsync
 * would go unnoticed. This library notes every successful fsync and fdatasync with the size that the file had before
 * the call; the test then cuts files back to that size, as a loss of power would.
 *
 *   FSYNC_RECORD     the file to append "<size> <path>\n" to, one line for each sync
 *   FSYNC_NAMES      if set, the file to append "0 <path>\n" to, one line for each file in a folder that is synced
 *   FSYNC_COPIES     if set, the folder to keep what was synced of files that are overwritten in place, under their paths
 *                    with '!' for '/'
 *   FSYNC_SKIP       paths that end so are not synced at all, while the caller is told they were: the fsync taken out
 *   FSYNC_FAIL       syncs of paths that end so fail with EIO, or where FSYNC_FULL is set with ENOSPC ...
 *   FSYNC_FAIL_WHEN  ... from the moment this file exists
 *   FSYNC_HOLD_WHEN  while this file exists no sync begins, as on a disk that stands still: so that a kill finds writes
 *                    that are not synced
 *   FSYNC_HELD       the file to append "<size> <path>\n" to, one line for each sync that is held
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int ends_with(const char *path, const char *variable)
{
    const char *end = getenv(variable);
    size_t length = strlen(path);

    return end && strlen(end) <= length && strcmp(path + length - strlen(end), end) == 0;
}

static int must_fail(const char *path)
{
    const char *when = getenv("FSYNC_FAIL_WHEN");

    return when && ends_with(path, "FSYNC_FAIL") && access(when, F_OK) == 0;
}

static void record(const char *variable, const char *path, long long size)
{
    const char *to = getenv(variable);
    char line[PATH_MAX + 32];
    int length = snprintf(line, sizeof line, "%lld %s\n", size, path);
    int fd = to ? open(to, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;

    /* One write for a line: lines of several threads do not mix. */
    if (fd < 0 || write(fd, line, (size_t)length) != length)
        abort();
    close(fd);
}

/* What was in a folder before it was synced is there after a loss of power. */
static void record_names(DIR *folder, const char *path)
{
    struct dirent *entry;
    char name[PATH_MAX + NAME_MAX + 2];

    while ((entry = readdir(folder))) {
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        record("FSYNC_NAMES", name, 0);
    }
}

static int is_overwritten(const char *path)
{
    const char *const ends[] = {"/POSITION", "/cursor", ".marks", ".new"};
    size_t length = strlen(path);

    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (strlen(ends[i]) <= length && strcmp(path + length - strlen(ends[i]), ends[i]) == 0)
            return 1;
    return 0;
}

/* Copies a file as it is before its sync: what comes while that runs may not be covered. */
static void copy_to(const char *draft, const char *path, long long size)
{
    int from = open(path, O_RDONLY | O_CLOEXEC);
    int to = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    char *bytes = malloc((size_t)size + 1);
    ssize_t length;

    if (from < 0 || to < 0 || !bytes)
        abort();
    length = pread(from, bytes, (size_t)size, 0);
    if (length < 0 || write(to, bytes, (size_t)length) != length)
        abort();
    free(bytes);
    close(from);
    close(to);
}

/* Returns when syncs are not held, or no longer. */
static void hold(const char *path, const struct stat *before)
{
    const struct timespec a_moment = {.tv_nsec = 5 * 1000 * 1000};
    const char *when = getenv("FSYNC_HOLD_WHEN");

    if (!when || access(when, F_OK) != 0)
        return;
    if (S_ISREG(before->st_mode))
        record("FSYNC_HELD", path, (long long)before->st_size);
    while (access(when, F_OK) == 0)
        nanosleep(&a_moment, NULL);
}

/* The sync of a file that is overwritten in place, and the copy that goes with it. One at a time: of two syncs the copy of
 * the later one must stay. */
static int sync_and_copy(int fd, long number, const char *copies, const char *path, long long size)
{
    static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
    char draft[PATH_MAX + 32], copy[PATH_MAX];
    int prefix = snprintf(copy, sizeof copy, "%s/", copies);
    int result;

    snprintf(copy + prefix, sizeof copy - (size_t)prefix, "%s", path);
    for (char *at = copy + prefix; *at; at++)
        if (*at == '/')
            *at = '!';
    snprintf(draft, sizeof draft, "%s.draft", copy);
    pthread_mutex_lock(&turn);
    copy_to(draft, path, size);
    result = (int)syscall(number, fd);
    if (result == 0 && rename(draft, copy) != 0)
        abort();
    pthread_mutex_unlock(&turn);
    return result;
}

static int sync_with(int fd, long number)
{
    char link[64], path[PATH_MAX];
    const char *copies = getenv("FSYNC_COPIES");
    struct stat before;
    ssize_t length;
    DIR *folder;
    int result;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0 || fstat(fd, &before) != 0)
        return (int)syscall(number, fd);
    path[length] = '\0';
    hold(path, &before);
    if (must_fail(path)) {
        errno = getenv("FSYNC_FULL") ? ENOSPC : EIO;
        return -1;
    }
    if (ends_with(path, "FSYNC_SKIP"))
        return 0;
    /* Listed before the call: what comes while it runs may not be covered. */
    folder = getenv("FSYNC_NAMES") && S_ISDIR(before.st_mode) ? opendir(path) : NULL;
    if (copies && is_overwritten(path))
        result = sync_and_copy(fd, number, copies, path, (long long)before.st_size);
    else
        result = (int)syscall(number, fd);
    if (folder) {
        int kept = errno;

        if (result == 0)
            record_names(folder, path);
        closedir(folder);
        errno = kept;
    }
    if (result == 0 && S_ISREG(before.st_mode)) {
        int kept = errno;

        record("FSYNC_RECORD", path, (long long)before.st_size);
        errno = kept;
    }
    return result;
}

int fsync(int fd)
{
    return sync_with(fd, SYS_fsync);
}

int fdatasync(int fd)
{
    return sync_with(fd, SYS_fdatasync);
}
