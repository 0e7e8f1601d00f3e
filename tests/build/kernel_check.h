// What the kernel checks share: the verdict, random numbers, threads, and tensors in heap blocks of
// exactly the size that the kernels are promised.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/storage_type.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"

namespace kernel_check {

using namespace supertickets;

inline int failures = 0;
inline std::mt19937_64 engine(0);  // one fixed stream: the run is the same every time

inline void expect(bool good, const std::string& what) {
  if (good) return;
  ++failures;
  std::fprintf(stderr, "wrong: %s\n", what.c_str());
}

inline int64_t draw(int64_t low, int64_t high) {
  return low + static_cast<int64_t>(engine() % static_cast<uint64_t>(high - low + 1));
}

// --- Threads -------------------------------------------------------------------------------------

template <int kThreads, bool kTwice>
void run_on_threads(int64_t count, int64_t grain, void (*body)(int64_t, int64_t, void*),
                    void* context) {
  const int64_t pieces = std::clamp<int64_t>(count / std::max<int64_t>(grain, 1), 1, kThreads);
  std::vector<std::thread> workers;
  for (int64_t i = 0; i < pieces; ++i) {
    for (int copy = 0; copy < (kTwice ? 2 : 1); ++copy) {
      workers.emplace_back(body, count * i / pieces, count * (i + 1) / pieces, context);
    }
  }
  for (std::thread& worker : workers) worker.join();
}

inline Parallel alone() {
  return {[](int64_t count, int64_t, void (*body)(int64_t, int64_t, void*), void* context) {
            body(0, count, context);
          },
          1};
}
inline Parallel three_threads() { return {run_on_threads<3, false>, 3}; }
inline Parallel colliding_threads() { return {run_on_threads<2, true>, 2}; }

// --- Stored values: integers so small that every type holds them and their sums exactly
// ------------

inline int64_t bytes_of(StorageType type) {
  return type == StorageType::kFloat64 ? 8 : type == StorageType::kFloat32 ? 4 : 2;
}

inline uint16_t encode_half(double value) {
  if (value == 0) return std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return 0x7e01;
  const uint16_t sign = value < 0 ? 0x8000 : 0;
  if (std::isinf(value)) return sign | 0x7c00;
  int exponent = 0;
  const double fraction = std::frexp(std::fabs(value), &exponent);  // [0.5, 1)
  return static_cast<uint16_t>(sign + ((exponent + 14) << 10) + static_cast<int>(fraction * 2048) -
                               1024);
}

inline double decode_half(uint16_t bits) {
  const int magnitude = bits & 0x7fff;
  const double value =
      magnitude == 0 ? 0 : std::ldexp(1024 + (magnitude & 0x3ff), (magnitude >> 10) - 25);
  return bits & 0x8000 ? -value : value;
}

inline void store(void* at, StorageType type, double value) {
  const float narrow = static_cast<float>(value);
  uint32_t bits = 0;
  std::memcpy(&bits, &narrow, sizeof(bits));
  const uint16_t brain = static_cast<uint16_t>(bits >> 16), half = encode_half(value);
  const void* from[] = {&narrow, &brain, &half, &value};
  std::memcpy(at, from[static_cast<int>(type)], static_cast<size_t>(bytes_of(type)));
}

inline double load(const void* at, StorageType type) {
  uint32_t bits = 0;
  uint16_t half = 0;
  float narrow = 0;
  double value = 0;
  switch (type) {
    case StorageType::kFloat64:
      std::memcpy(&value, at, sizeof(value));
      return value;
    case StorageType::kFloat16:
      std::memcpy(&half, at, sizeof(half));
      return decode_half(half);
    case StorageType::kBFloat16:
      std::memcpy(&half, at, sizeof(half));
      bits = static_cast<uint32_t>(half) << 16;
      break;
    default:
      std::memcpy(&bits, at, sizeof(bits));
  }
  std::memcpy(&narrow, &bits, sizeof(narrow));
  return narrow;
}

// Elements of one storage type in a heap block of exactly their size.
struct Elements {
  StorageType type;
  int64_t count;

  Elements(StorageType type_, int64_t count_, size_t alignment = alignof(std::max_align_t))
      : type(type_),
        count(count_),
        memory_(static_cast<char*>(::operator new[](static_cast<size_t>(count_ * bytes_of(type_)),
                                                    std::align_val_t{alignment})),
                Free{std::align_val_t{alignment}}) {}
  Elements(StorageType type_, const std::vector<double>& values)
      : Elements(type_, static_cast<int64_t>(values.size())) {
    for (int64_t i = 0; i < count; ++i) set(i, values[static_cast<size_t>(i)]);
  }

  char* data() const { return memory_.get(); }
  char* at(int64_t i) const { return data() + i * bytes_of(type); }
  double get(int64_t i) const { return load(at(i), type); }
  void set(int64_t i, double value) const { store(at(i), type, value); }
  void fill(double value) const {
    for (int64_t i = 0; i < count; ++i) set(i, value);
  }

 private:
  struct Free {
    std::align_val_t alignment;
    void operator()(char* memory) const { ::operator delete[](memory, alignment); }
  };
  std::unique_ptr<char[], Free> memory_;
};

inline constexpr StorageType kTypes[] = {StorageType::kFloat32, StorageType::kBFloat16,
                                         StorageType::kFloat16, StorageType::kFloat64};

inline std::string label(Isa isa, StorageType type) {
  return std::string(isa_name(isa)) + ", type " + std::to_string(static_cast<int>(type));
}

}  // namespace kernel_check
