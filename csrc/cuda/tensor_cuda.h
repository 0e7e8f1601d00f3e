// From tensors to what CUDA launchers take.
#pragma once

#include <dlfcn.h>

#include "../core/tensor.h"
#include "runtime.h"

// Operators are registered for CUDA tensors; in tests under a name of their own for CPU tensors.
#if defined(SUPERTICKETS_CUDA_ON_CPU)
#define SUPERTICKETS_CUDA_IMPL(m) STABLE_TORCH_LIBRARY_IMPL(supertickets_cuda_on_cpu, CPU, m)
#else
#include <torch/csrc/stable/accelerator.h>
#define SUPERTICKETS_CUDA_IMPL(m) STABLE_TORCH_LIBRARY_IMPL(supertickets, CUDA, m)
#endif

namespace supertickets::cuda {

#if defined(SUPERTICKETS_CUDA_ON_CPU)
// The device of a tensor is current while this lives; stream() is torch's current one.
class OnDevice {
 public:
  explicit OnDevice(const Tensor&) {}
  cudaStream_t stream() const { return nullptr; }
};
#else
class OnDevice {
 public:
  explicit OnDevice(const Tensor& tensor)
      : guard_(tensor.get_device_index()), index_(tensor.get_device_index()) {}

  // The function is in torch's CUDA libraries alone, which a CPU build of torch lacks.
  cudaStream_t stream() const {
    using Function = AOTITorchError (*)(int32_t, void**);
    static const auto function =
        reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream"));
    STD_TORCH_CHECK(function != nullptr, "supertickets: this torch has no CUDA streams");
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(function(index_, &stream));
    return static_cast<cudaStream_t>(stream);
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  int32_t index_;
};
#endif

inline void check_launch(const char* op, cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, op, ": CUDA says: ", cudaGetErrorString(error));
}

// Uninitialised device memory for one operator call.
inline Tensor workspace(const Tensor& like, int64_t bytes) {
  return torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
}

}  // namespace supertickets::cuda
