// Work shared among torch's own OpenMP threads, which wait for it between torch's products and would keep a core from
// threads of ours.

#pragma once

extern "C" {  // of the OpenMP library that torch loaded; without one, one thread
__attribute__((weak)) void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned);
__attribute__((weak)) int omp_get_thread_num();
__attribute__((weak)) int omp_get_num_threads();
}

namespace {

// body(thread, first, end) for parts of 0 ... count - 1, one for each of up to `threads` threads
template <class Body>
void split(long count, long threads, Body body) {
  if (threads < 2 || count < 2 * threads || !GOMP_parallel || !omp_get_thread_num || !omp_get_num_threads)
    return body(0, 0, count);
  struct Work { Body &body; long count; } work = {body, count};
  GOMP_parallel([](void *shared) {
    Work &work = *(Work *)shared;
    long thread = omp_get_thread_num(), all = omp_get_num_threads();
    work.body(thread, work.count * thread / all, work.count * (thread + 1) / all);
  }, &work, threads, 0);
}

}  // namespace
