/* Loaded into a process under test (LD_PRELOAD): its wall clock is SHIM_CLOCK_MS ahead, and its disk takes SHIM_SYNC_MS longer for
 * each sync. What the process measures of both is real. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long setting(const char *name) {
  const char *text = getenv(name);
  return text ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(clock, time);
  if (clock == CLOCK_REALTIME && result == 0) {
    time->tv_sec += setting("SHIM_CLOCK_MS") / 1000;
  }
  return result;
}

static int slowly(const char *name, int file) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  usleep((useconds_t)(setting("SHIM_SYNC_MS") * 1000));
  return real(file);
}

int fdatasync(int file) { return slowly("fdatasync", file); }

int fsync(int file) { return slowly("fsync", file); }
