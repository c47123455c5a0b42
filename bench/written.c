/* What a process and its children give to write(2) and its kin, by file: preloaded (LD_PRELOAD) by bench/written.py.

   /proc/PID/io counts what reaches the disk by pages, and says many times too much of a file that was just copied. This
   counts what the process asked for. In $WRITTEN_DIR each process has a file of slots, which it maps: a name, and the
   bytes. Sockets and pipes are a slot each; what finds no slot is in the first one. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define SLOTS 256
#define NAME 240

struct slot {
    unsigned long long bytes;
    char name[NAME + 8];
};

static struct slot *slots;
static pid_t owner;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* A file of this process' own; after a fork the child gets one, too. */
static int ready(void) {
    if (slots && owner == getpid()) return 1;
    char path[4096];
    const char *directory = getenv("WRITTEN_DIR");
    if (!directory) return 0;
    owner = getpid();
    snprintf(path, sizeof path, "%s/%d", directory, (int)owner);
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, SLOTS * sizeof(struct slot))) return 0;
    slots = mmap(0, SLOTS * sizeof(struct slot), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (slots == MAP_FAILED) return slots = 0, 0;
    strcpy(slots[0].name, "others");
    return 1;
}

static void name_of(int file, char *name) {
    struct stat there;
    char link[64];
    strcpy(name, "others");
    if (fstat(file, &there)) return;
    if (S_ISSOCK(there.st_mode)) { strcpy(name, "socket"); return; }
    if (!S_ISREG(there.st_mode)) { strcpy(name, "pipe"); return; }
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, name, NAME);
    if (length > 0) name[length] = 0;
}

static void count(int file, ssize_t bytes) {
    if (bytes <= 0) return;
    char name[NAME + 8];
    name_of(file, name);
    pthread_mutex_lock(&mutex);
    if (ready()) {
        int at = 0;
        for (int slot = 0; slot < SLOTS; slot++) {
            if (!slots[slot].name[0]) strcpy(slots[slot].name, name);
            if (!strcmp(slots[slot].name, name)) { at = slot; break; }
        }
        slots[at].bytes += (unsigned long long)bytes;
    }
    pthread_mutex_unlock(&mutex);
}

#define COUNTED(call, given, passed, file)                                                                             \
    ssize_t call given {                                                                                               \
        static ssize_t(*real) given;                                                                                   \
        if (!real) real = (ssize_t(*) given)dlsym(RTLD_NEXT, #call);                                                   \
        ssize_t bytes = real passed;                                                                                   \
        count(file, bytes);                                                                                            \
        return bytes;                                                                                                  \
    }

COUNTED(write, (int file, const void *from, size_t size), (file, from, size), file)
COUNTED(pwrite, (int file, const void *from, size_t size, off_t at), (file, from, size, at), file)
COUNTED(pwrite64, (int file, const void *from, size_t size, off64_t at), (file, from, size, at), file)
COUNTED(writev, (int file, const struct iovec *from, int parts), (file, from, parts), file)
COUNTED(pwritev, (int file, const struct iovec *from, int parts, off_t at), (file, from, parts, at), file)
COUNTED(pwritev64, (int file, const struct iovec *from, int parts, off64_t at), (file, from, parts, at), file)
COUNTED(send, (int file, const void *from, size_t size, int flags), (file, from, size, flags), file)
COUNTED(sendto,
        (int file, const void *from, size_t size, int flags, const struct sockaddr *to, socklen_t length),
        (file, from, size, flags, to, length), file)
COUNTED(sendmsg, (int file, const struct msghdr *message, int flags), (file, message, flags), file)
COUNTED(sendfile, (int file, int from, off_t *at, size_t size), (file, from, at, size), file)
COUNTED(sendfile64, (int file, int from, off64_t *at, size_t size), (file, from, at, size), file)
COUNTED(copy_file_range,
        (int from, off64_t *at, int file, off64_t *to, size_t size, unsigned int flags),
        (from, at, file, to, size, flags), file)
