// From tensors to what CPU kernels take.
#pragma once

#include <dlfcn.h>

#include <vector>

#include "../core/tensor.h"
#include "isa.h"
#include "masked_conv2d.h"
#include "memory_pool.h"
#include "parallel.h"

namespace supertickets {

// torch's own thread pool.
inline Parallel torch_parallel() {
  return {[](int64_t count, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context) {
            torch::stable::parallel_for(
                0, count, grain, [&](int64_t begin, int64_t end) { body(begin, end, context); });
          },
          static_cast<int64_t>(torch::stable::get_num_threads())};
}

inline Strided strided(const Tensor& tensor) {
  return {tensor.data_ptr(), tensor.size(0),   tensor.size(1),   tensor.size(2),  tensor.size(3),
          tensor.stride(0),  tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

// torch_from_blob of the stable ABI, which torch has since 2.11; null before.
inline auto torch_from_blob_if_there() {
  using FromBlob = AOTITorchError (*)(void*, int64_t, const int64_t*, const int64_t*, int64_t,
                                      int32_t, int32_t, int32_t, AtenTensorHandle*, int32_t,
                                      const uint8_t*, int64_t, void (*)(void*, void*), void*);
  static const auto function = reinterpret_cast<FromBlob>(dlsym(RTLD_DEFAULT, "torch_from_blob"));
  return function;
}

// Uninitialised, on the CPU; dimensions lie in memory in the given order, outermost first. Large
// tensors take their memory from the pool.
inline Tensor empty_in_order(const std::vector<int64_t>& size, const std::vector<size_t>& order,
                             ScalarType type) {
  std::vector<int64_t> stride(size.size());
  int64_t elements = 1;
  for (size_t i = order.size(); i-- > 0;) {
    stride[order[i]] = elements;
    elements *= std::max<int64_t>(1, size[order[i]]);
  }
  const size_t bytes = static_cast<size_t>(elements) * (type == ScalarType::Double  ? 8
                                                        : type == ScalarType::Float ? 4
                                                        : type == ScalarType::Bool  ? 1
                                                                                    : 2);
  const auto from_blob = torch_from_blob_if_there();
  if (bytes < kPoolBlock || from_blob == nullptr) {
    const bool channels_last = size.size() == 4 && order[1] != 1;
    return torch::stable::empty(size, type, std::nullopt, std::nullopt, std::nullopt,
                                channels_last ? torch::headeronly::MemoryFormat::ChannelsLast
                                              : torch::headeronly::MemoryFormat::Contiguous);
  }
  const auto shim = [](auto value) {
    return torch::stable::detail::to<int32_t>(torch::stable::detail::from(value));
  };
  AtenTensorHandle handle = nullptr;
  void* memory = pool_take(bytes);
  const auto error = from_blob(
      memory, static_cast<int64_t>(size.size()), size.data(), stride.data(), 0, shim(type),
      shim(torch::headeronly::DeviceType::CPU), -1, &handle,
      shim(torch::headeronly::Layout::Strided), nullptr, 0,
      [](void* data, void*) { pool_give(data); }, nullptr);
  if (error != AOTI_TORCH_SUCCESS) pool_give(memory);
  STABLE_TORCH_ERROR_CODE_CHECK(error);
  return Tensor(handle);
}

}  // namespace supertickets
