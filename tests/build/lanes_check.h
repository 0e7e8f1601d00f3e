// Moving tensors into lanes and back, in every order of strides.
#pragma once

#include "cpu/masked_conv2d.h"
#include "kernel_check.h"

namespace kernel_check {

enum class Order { kNchw, kChannelsLast, kGaps, kBatchLast };
inline constexpr Order kOrders[] = {Order::kNchw, Order::kChannelsLast, Order::kGaps,
                                    Order::kBatchLast};

struct LanesCase {
  int64_t batch, channels, height, width;
};

inline Strided strided(const LanesCase& c, Order order) {
  const int64_t map = c.height * c.width, image = c.channels * map;
  const auto view = [&](int64_t n, int64_t channel, int64_t y, int64_t x) {
    return Strided{nullptr, c.batch, c.channels, c.height, c.width, n, channel, y, x};
  };
  switch (order) {
    case Order::kChannelsLast:
      return view(image, 1, c.width * c.channels, c.channels);
    case Order::kGaps:  // every second pixel of rows with one more
      return view(image * 2 + c.channels * c.height, 2 * map + c.height, 2 * c.width + 1, 2);
    case Order::kBatchLast:
      return view(1, map * c.batch, c.width * c.batch, c.batch);
    default:
      return view(image, map, c.width, 1);
  }
}

// Calls visit(element of the dense tensor, element in lanes) for every element that exists.
template <class Visit>
void for_each_element(const Strided& d, const Visit& visit) {
  for (int64_t n = 0; n < d.batch; ++n) {
    for (int64_t c = 0; c < d.channels; ++c) {
      for (int64_t y = 0; y < d.height; ++y) {
        for (int64_t x = 0; x < d.width; ++x) {
          const int64_t at = ((n / kLine * d.channels + c) * d.height + y) * d.width + x;
          visit(
              n * d.stride_batch + c * d.stride_channel + y * d.stride_height + x * d.stride_width,
              at * kLine + n % kLine);
        }
      }
    }
  }
}

inline void check_lanes(const LanesCase& item, Order order, StorageType type,
                        const Parallel& parallel, Isa isa) {
  Strided view = strided(item, order);
  int64_t last = -1;
  for_each_element(view, [&](int64_t at, int64_t) { last = std::max(last, at); });
  const Elements dense(type, last + 1), back(type, last + 1);
  const int64_t groups = (item.batch + kLine - 1) / kLine;
  const Elements lanes(type, groups * item.channels * item.height * item.width * kLine);
  for (int64_t i = 0; i < dense.count; ++i) dense.set(i, static_cast<double>(draw(1, 200)));
  lanes.fill(77);
  view.data = dense.data();
  to_lanes(view, lanes.data(), type, parallel, isa);

  std::vector<double> expected(static_cast<size_t>(lanes.count));
  for_each_element(
      view, [&](int64_t at, int64_t lane) { expected[static_cast<size_t>(lane)] = dense.get(at); });
  int64_t wrong = 0;
  for (int64_t i = 0; i < lanes.count; ++i) {
    wrong += lanes.get(i) != expected[static_cast<size_t>(i)];
  }
  const std::string name = "batch " + std::to_string(item.batch) + ", order " +
                           std::to_string(static_cast<int>(order)) + " on " + label(isa, type);
  expect(wrong == 0, "to_lanes, " + name + ": " + std::to_string(wrong) + " entries");

  constexpr double kUntouched = 255;
  back.fill(kUntouched);
  view.data = back.data();
  from_lanes(lanes.data(), view, type, parallel, isa);
  wrong = 0;
  for_each_element(view, [&](int64_t at, int64_t) {
    wrong += back.get(at) != dense.get(at);
    back.set(at, kUntouched);
  });
  for (int64_t i = 0; i < back.count; ++i) wrong += back.get(i) != kUntouched;
  expect(wrong == 0, "from_lanes, " + name + ": " + std::to_string(wrong) + " entries");
}

inline void check_lanes(const Parallel& parallel, StorageType type, Isa isa) {
  for (const Order order : kOrders) {
    for (int64_t batch = 0; batch <= 17; ++batch) {
      check_lanes({batch, 5, 3, 7}, order, type, parallel, isa);
    }
    for (const LanesCase& item : {LanesCase{33, 35, 2, 3},
                                  {16, 16, 4, 4},
                                  {3, 1, 1, 1},
                                  {9, 1, 5, 17},
                                  {5, 40, 1, 1},
                                  {4, 0, 3, 3},
                                  {20, 17, 1, 16}}) {
      check_lanes(item, order, type, parallel, isa);
    }
  }
}

}  // namespace kernel_check
