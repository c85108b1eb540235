// SPDX-License-Identifier: MIT
#include <cuda_runtime.h>
#include <sys/mman.h>

#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifndef __x86_64__
#include <ucontext.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_emulation {
namespace {

constexpr size_t kMostThreads = 1024;     // of a block, as on every GPU
constexpr size_t kFreeShared = 48 << 10;  // bytes that a kernel has without asking
constexpr size_t kPage = 4096, kStack = 64 << 10;

enum class State { ready, waiting, done };

/// A thread of a block, as a fiber.
struct Thread {
#ifdef __x86_64__
  void* at = nullptr;  // its stack pointer while others run
#else
  ucontext_t at;
#endif
  void* fake_stack = nullptr;  // the sanitizer's
  dim3 index;
  State state = State::ready;
  std::source_location barrier;  // where it waits
};

struct Machine {
  Settings settings;
  Launch last;
  std::map<const void*, int> allowed_shared;  // by kernel
  Thread threads[kMostThreads];
  Thread host;
  Thread* running = nullptr;
  const std::function<void()>* body = nullptr;
  std::unique_ptr<unsigned char[]> shared;
  unsigned char* stacks = nullptr;  // each behind a page that no one may touch
  const void* host_stack = nullptr;
  size_t host_stack_bytes = 0;

  unsigned char* stack_of(const Thread& t) const {
    return stacks + static_cast<size_t>(&t - threads) * (kPage + kStack) + kPage;
  }
};

Machine& machine() {
  static Machine m;
  return m;
}

#ifdef __x86_64__
// Pushes what a callee keeps (System V ABI, sec. 3.2.1), leaves the stack pointer in *from, and
// pops the same from `to`. glibc's swapcontext is a hundred times slower: it calls the kernel.
extern "C" void cuda_emulation_switch(void** from, void* to);
asm(R"(
  .text
  .type cuda_emulation_switch, @function
cuda_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size cuda_emulation_switch, . - cuda_emulation_switch
)");
void change(Thread& from, Thread& to) { cuda_emulation_switch(&from.at, to.at); }
#else
void change(Thread& from, Thread& to) { swapcontext(&from.at, &to.at); }
#endif

/// Goes on with a thread until it waits or ends.
void resume(Thread& thread) {
  Machine& m = machine();
  m.running = &thread;
  threadIdx = thread.index;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&m.host.fake_stack, m.stack_of(thread), kStack);
#endif
  change(m.host, thread);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(m.host.fake_stack, nullptr, nullptr);
#endif
}

/// What a thread does when its turn comes.
void arrive(Thread& thread) {
#ifdef __SANITIZE_ADDRESS__
  Machine& m = machine();
  __sanitizer_finish_switch_fiber(thread.fake_stack, &m.host_stack, &m.host_stack_bytes);
#else
  static_cast<void>(thread);
#endif
}

/// Goes back to resume(), which the thread leaves again in arrive() if it is not done.
void leave(Thread& thread) {
  Machine& m = machine();
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(
      thread.state == State::done ? nullptr : &thread.fake_stack, m.host_stack, m.host_stack_bytes);
#endif
  change(thread, m.host);
}

[[noreturn]] void thread_main() {
  Machine& m = machine();
  Thread& thread = *m.running;
  arrive(thread);
  (*m.body)();
  thread.state = State::done;
  leave(thread);
  __builtin_unreachable();
}

void begin(Thread& thread) {
  unsigned char* const stack = machine().stack_of(thread);
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(stack, kStack);  // of a thread that never ended
  thread.fake_stack = nullptr;
#endif
#ifdef __x86_64__
  // Six registers and the address to return to; there the stack is as after a call.
  void** const top = reinterpret_cast<void**>(stack + kStack) - 2;
  top[0] = reinterpret_cast<void*>(thread_main);
  top[1] = nullptr;
  thread.at = top - 6;
  std::fill(top - 6, top, nullptr);
#else
  getcontext(&thread.at);
  thread.at.uc_stack.ss_sp = stack;
  thread.at.uc_stack.ss_size = kStack;
  makecontext(&thread.at, thread_main, 0);
#endif
  thread.state = State::ready;
}

/// The numbers below n in the order of the settings.
std::vector<unsigned> turns(unsigned n, std::mt19937_64& random) {
  std::vector<unsigned> out(n);
  std::iota(out.begin(), out.end(), 0u);
  switch (machine().settings.order) {
    case Order::forward:
      break;
    case Order::reverse:
      std::reverse(out.begin(), out.end());
      break;
    case Order::shuffled:
      std::shuffle(out.begin(), out.end(), random);
      break;
  }
  return out;
}

std::string describe(const Thread& t) {
  const std::string who = "thread " + std::to_string(t.index.x) + " of block (" +
                          std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ")";
  if (t.state == State::done) return who + " has ended";
  return who + " waits at " + t.barrier.file_name() + ":" + std::to_string(t.barrier.line());
}

/// Runs the threads of a block to their ends; false where they meet at different barriers.
bool run_block(unsigned threads, std::mt19937_64& random) {
  Machine& m = machine();
  for (unsigned i = 0; i < threads; ++i) {
    m.threads[i].index = dim3(i, 0, 0);
    begin(m.threads[i]);
  }
  for (;;) {
    for (const unsigned i : turns(threads, random)) resume(m.threads[i]);
    const Thread& first = m.threads[0];
    for (unsigned i = 1; i < threads; ++i) {
      const Thread& t = m.threads[i];
      if (t.state == first.state &&
          (t.state == State::done || t.barrier.line() == first.barrier.line()))
        continue;
      m.last.failure = describe(first) + ", " + describe(t);
      return false;
    }
    if (first.state == State::done) return true;
  }
}

}  // namespace

Settings& settings() { return machine().settings; }
const Launch& last_launch() { return machine().last; }

cudaError_t allow_shared(const void* kernel, int bytes) {
  if (bytes < 0 || bytes > settings().shared_memory) return cudaErrorInvalidValue;
  machine().allowed_shared[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t& config,
                   const void* kernel,
                   const std::function<void()>& thread) {
  Machine& m = machine();
  const dim3 grid = config.gridDim, block = config.blockDim;
  m.last = {.grid = grid, .shared_bytes = config.dynamicSmemBytes, .failure = {}};
  if (grid.x == 0 || grid.y == 0 || grid.y > 65535 || grid.z != 1 || block.x == 0 ||
      block.x > kMostThreads || block.y != 1 || block.z != 1)
    return cudaErrorInvalidConfiguration;
  const auto allowed = m.allowed_shared.find(kernel);
  const size_t most = allowed == m.allowed_shared.end()
                          ? kFreeShared
                          : std::max(kFreeShared, static_cast<size_t>(allowed->second));
  if (config.dynamicSmemBytes > most) return cudaErrorInvalidValue;
  if (m.stacks == nullptr) {
    m.stacks = static_cast<unsigned char*>(mmap(nullptr,
                                                kMostThreads * (kPage + kStack),
                                                PROT_READ | PROT_WRITE,
                                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                                                -1,
                                                0));
    if (m.stacks == MAP_FAILED) std::abort();
    for (const Thread& t : m.threads)
      if (mprotect(m.stack_of(t) - kPage, kPage, PROT_NONE) != 0) std::abort();
  }
  gridDim = grid;
  blockDim = block;
  m.body = &thread;
  std::mt19937_64 random(m.settings.seed);
  for (const unsigned i : turns(grid.x * grid.y, random)) {
    blockIdx = dim3(i % grid.x, i / grid.x, 0);
    m.shared.reset(new unsigned char[config.dynamicSmemBytes]);
    std::memset(m.shared.get(), 0xFF, config.dynamicSmemBytes);
    if (!run_block(block.x, random)) return cudaErrorLaunchFailure;
  }
  m.shared.reset();
  return cudaSuccess;
}

}  // namespace cuda_emulation

void* emulated_shared_memory() { return cuda_emulation::machine().shared.get(); }

void __syncthreads(std::source_location place) {
  using namespace cuda_emulation;
  Thread& thread = *machine().running;
  thread.barrier = place;
  thread.state = State::waiting;
  leave(thread);
  arrive(thread);
  thread.state = State::ready;
}
