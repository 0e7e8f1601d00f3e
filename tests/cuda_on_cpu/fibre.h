// A stack of its own that can be left and entered again, known to the sanitizers.
#pragma once

#include <cstddef>

namespace cuda_on_cpu {

// Where a stack was left.
struct Context {
  void* stack_pointer = nullptr;
  void* address_sanitizer = nullptr;  // its fake stack
  void* thread_sanitizer = nullptr;   // its fibre
  const void* bottom = nullptr;
  size_t size = 0;
};

class Fibre {
 public:
  Fibre();
  ~Fibre();
  Fibre(const Fibre&) = delete;
  Fibre& operator=(const Fibre&) = delete;

  // `entry` runs at the first enter(), and must end with leave(true).
  void prepare(void (*entry)());
  void enter(Context& from);            // returns when the fibre leaves
  void leave(Context& to, bool ended);  // returns at the next enter()
  static void entered(Context& from);   // first call of an entry

 private:
  Context context_;
};

// The context of the OS thread's own stack.
Context own_context();

// What happened before release(object) is seen after acquire(object), for ThreadSanitizer.
void release(void* object);
void acquire(void* object);

}  // namespace cuda_on_cpu
