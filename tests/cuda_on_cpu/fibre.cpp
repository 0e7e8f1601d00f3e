#include "fibre.h"

#include <sys/mman.h>

#include <cstdlib>

#if defined(SUPERTICKETS_SANITIZE_ADDRESS)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(SUPERTICKETS_SANITIZE_THREAD)
extern "C" {
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fibre);
void __tsan_switch_to_fiber(void* fibre, unsigned flags);
void* __tsan_get_current_fiber();
void __tsan_acquire(void* object);
void __tsan_release(void* object);
}
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cuda_on_cpu {
namespace {

constexpr size_t kStackBytes = 64 << 10;

}  // namespace

#if defined(__x86_64__)
// Saves the callee-saved registers on this stack, and takes those of the other.
extern "C" void cuda_on_cpu_switch(void** save, void* load);
asm(R"(
.text
.type cuda_on_cpu_switch,@function
cuda_on_cpu_switch:
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
.size cuda_on_cpu_switch, .-cuda_on_cpu_switch
)");

namespace {

void switch_stack(Context& from, Context& to) {
  cuda_on_cpu_switch(&from.stack_pointer, to.stack_pointer);
}

void prepare_stack(Context& context, void (*entry)()) {
  constexpr int kSaved = 6;
  // At the entry the stack is as after a call: 8 bytes off a multiple of 16.
  char* top = static_cast<char*>(const_cast<void*>(context.bottom)) + context.size - 64;
  void** stack = reinterpret_cast<void**>(top);
  *--stack = nullptr;  // the entry never returns
  *--stack = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSaved; ++i) *--stack = nullptr;
  context.stack_pointer = stack;
}

void forget_stack(Context&) {}

}  // namespace
#else
namespace {

ucontext_t*& saved(Context& context) {
  if (context.stack_pointer == nullptr) context.stack_pointer = new ucontext_t;
  return reinterpret_cast<ucontext_t*&>(context.stack_pointer);
}

void switch_stack(Context& from, Context& to) { swapcontext(saved(from), saved(to)); }

void prepare_stack(Context& context, void (*entry)()) {
  ucontext_t* state = saved(context);
  getcontext(state);
  state->uc_stack.ss_sp = const_cast<void*>(context.bottom);
  state->uc_stack.ss_size = context.size;
  state->uc_link = nullptr;
  makecontext(state, entry, 0);
}

void forget_stack(Context& context) { delete saved(context); }

}  // namespace
#endif

Fibre::Fibre() {
  void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack == MAP_FAILED) std::abort();
  context_.bottom = stack;
  context_.size = kStackBytes;
#if defined(SUPERTICKETS_SANITIZE_THREAD)
  context_.thread_sanitizer = __tsan_create_fiber(0);
#endif
}

Fibre::~Fibre() {
#if defined(SUPERTICKETS_SANITIZE_THREAD)
  __tsan_destroy_fiber(context_.thread_sanitizer);
#endif
  forget_stack(context_);
  munmap(const_cast<void*>(context_.bottom), context_.size);
}

void Fibre::prepare(void (*entry)()) {
#if defined(SUPERTICKETS_SANITIZE_ADDRESS)
  __asan_unpoison_memory_region(context_.bottom, context_.size);
#endif
  prepare_stack(context_, entry);
}

void Fibre::enter(Context& from) {
#if defined(SUPERTICKETS_SANITIZE_ADDRESS)
  __sanitizer_start_switch_fiber(&from.address_sanitizer, context_.bottom, context_.size);
#endif
#if defined(SUPERTICKETS_SANITIZE_THREAD)
  __tsan_switch_to_fiber(context_.thread_sanitizer, 1);
#endif
  switch_stack(from, context_);
#if defined(SUPERTICKETS_SANITIZE_ADDRESS)
  __sanitizer_finish_switch_fiber(from.address_sanitizer, nullptr, nullptr);
#endif
}

void Fibre::leave(Context& to, bool ended) {
  static_cast<void>(ended);
#if defined(SUPERTICKETS_SANITIZE_ADDRESS)
  __sanitizer_start_switch_fiber(ended ? nullptr : &context_.address_sanitizer, to.bottom, to.size);
#endif
#if defined(SUPERTICKETS_SANITIZE_THREAD)
  __tsan_switch_to_fiber(to.thread_sanitizer, 1);
#endif
  switch_stack(context_, to);
#if defined(SUPERTICKETS_SANITIZE_ADDRESS)
  __sanitizer_finish_switch_fiber(context_.address_sanitizer, &to.bottom, &to.size);
#endif
}

void Fibre::entered(Context& from) {
  static_cast<void>(from);
#if defined(SUPERTICKETS_SANITIZE_ADDRESS)
  __sanitizer_finish_switch_fiber(nullptr, &from.bottom, &from.size);
#endif
}

Context own_context() {
  Context context;
#if defined(SUPERTICKETS_SANITIZE_THREAD)
  context.thread_sanitizer = __tsan_get_current_fiber();
#endif
  return context;
}

void release(void* object) {
  static_cast<void>(object);
#if defined(SUPERTICKETS_SANITIZE_THREAD)
  __tsan_release(object);
#endif
}

void acquire(void* object) {
  static_cast<void>(object);
#if defined(SUPERTICKETS_SANITIZE_THREAD)
  __tsan_acquire(object);
#endif
}

}  // namespace cuda_on_cpu
