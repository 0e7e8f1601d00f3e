// Layouts of maps, and the operators between them.
#include "maps_cuda.h"

namespace supertickets::cuda {

namespace {

int64_t group_count(int64_t batch) { return (batch + kInner - 1) / kInner; }

Tensor empty_lanes(const Tensor& like, const std::array<int64_t, 4>& size) {
  return torch::stable::new_empty(like, {size[0], size[1], size[2], size[3], kInner});
}

LanesParams lanes_params(const Tensor& map, const Tensor& lanes) {
  return {map.data_ptr(), map.size(0),           map.size(1),      map.size(2),
          map.size(3),    map.stride(0),         map.stride(1),    map.stride(2),
          map.stride(3),  is_channels_last(map), lanes.data_ptr(), storage_type(map.scalar_type())};
}

}  // namespace

Tensor empty_map(const Tensor& like, const std::array<int64_t, 4>& size, bool channels_last) {
  const auto [batch, channels, height, width] = size;
  if (!channels_last) return torch::stable::new_empty(like, {batch, channels, height, width});
  const Tensor memory = torch::stable::new_empty(like, {batch, height, width, channels});
  return torch::stable::transpose(torch::stable::transpose(memory, 1, 3), 2, 3);
}

Tensor lanes_of(const char* op, const Tensor& x, cudaStream_t stream) {
  Tensor lanes = empty_lanes(x, {group_count(x.size(0)), x.size(1), x.size(2), x.size(3)});
  check_launch(op, to_lanes(lanes_params(x, lanes), stream));
  return lanes;
}

void put_lanes(const char* op, const Tensor& lanes, const Tensor& to, cudaStream_t stream) {
  check_launch(op, from_lanes(lanes_params(to, lanes), stream));
}

Tensor readable(const char* op, const Tensor& x, Layout layout, cudaStream_t stream) {
  if (is_lanes(x) || layout == Layout::kPixels) return torch::stable::contiguous(x);
  return lanes_of(op, x, stream);
}

Output::Output(const Tensor& x, const std::array<int64_t, 4>& size, Layout layout)
    : result_(is_lanes(x) ? empty_lanes(x, size) : empty_map(x, size, is_channels_last(x))),
      written_(result_) {
  if (is_lanes(x)) return;
  if (layout == Layout::kLanes) {
    written_ = empty_lanes(x, {group_count(size[0]), size[1], size[2], size[3]});
  } else if (is_channels_last(x)) {
    written_ = empty_map(x, size, false);
  }
}

Tensor Output::finish(const char* op, cudaStream_t stream) {
  if (is_lanes(written_) && !is_lanes(result_)) {
    put_lanes(op, written_, result_, stream);
  } else if (written_.data_ptr() != result_.data_ptr()) {
    torch::stable::copy_(result_, written_);
  }
  return result_;
}

namespace {

Tensor to_lanes_cuda(const Tensor& x) {
  constexpr const char* kOp = "to_lanes";
  check_floating(kOp, "x", x, x);
  sizes4(kOp, "x", x);
  const OnDevice device(x);
  return lanes_of(kOp, x, device.stream());
}

Tensor from_lanes_cuda(const Tensor& lanes, int64_t batch, bool channels_last) {
  constexpr const char* kOp = "from_lanes";
  check_floating(kOp, "lanes", lanes, lanes);
  check_lanes(kOp, lanes, batch);
  const OnDevice device(lanes);
  Tensor x = empty_map(lanes, {batch, lanes.size(1), lanes.size(2), lanes.size(3)}, channels_last);
  put_lanes(kOp, torch::stable::contiguous(lanes), x, device.stream());
  return x;
}

}  // namespace
}  // namespace supertickets::cuda

SUPERTICKETS_CUDA_IMPL(m) {
  m.impl("to_lanes", TORCH_BOX(&supertickets::cuda::to_lanes_cuda));
  m.impl("from_lanes", TORCH_BOX(&supertickets::cuda::from_lanes_cuda));
}
