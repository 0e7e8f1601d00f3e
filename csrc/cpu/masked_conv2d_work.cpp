#include "masked_conv2d_work.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>

namespace supertickets {
namespace {

bool is_pointwise(const Correlation& c) {
  const auto trivial = [](const Axis& a) {
    return a.shift.size() == 1 && a.shift[0] == 0 && a.in_step == 1 && a.out_step == 1 &&
           a.out_first == 0 && a.count == a.in_size;
  };
  return trivial(c.y) && trivial(c.x);
}

bool is_one_run(const Strided& t) { return t.stride_height == t.width * t.stride_width; }

// A convolution of single pixels knows no rows: in lanes the map becomes one row, of pixels it
// becomes rows of 16, the last of which may be shorter.
void flatten(Work& work) {
  if (!is_pointwise(work.correlation) || !is_one_run(work.in) || !is_one_run(work.out)) return;
  const int64_t pixels = work.in.height * work.in.width;
  const bool lanes = work.params.layout != Layout::kPixels;
  const int64_t width = lanes ? pixels : kLine;
  const int64_t height = (pixels + width - 1) / width;
  if (!lanes) work.last_width = pixels - (height - 1) * width;
  for (Strided* t : {&work.in, &work.out}) {
    t->height = height;
    t->width = width;
    t->stride_height = width * t->stride_width;
  }
  Axis& y = work.correlation.y;
  Axis& x = work.correlation.x;
  y.count = y.in_size = height;
  x.count = x.in_size = width;
}

std::vector<Piece> cut(const Correlation& c, const Tiling& t) {
  std::vector<Piece> pieces;
  const int64_t tile_rows = t.rows * t.fold, tile_columns = t.lanes ? t.columns : t.segment();
  for (int64_t row = 0; row < c.y.count; row += tile_rows) {
    const int64_t rows = std::min(t.rows, c.y.count - row);
    for (int64_t column = 0; column < c.x.count; column += tile_columns) {
      const int64_t columns = t.lanes ? std::min(t.columns, c.x.count - column) : 1;
      pieces.push_back({row, rows, column, columns});
    }
  }
  return pieces;
}

}  // namespace

void Scratch::Free::operator()(void* memory) const { std::free(memory); }

void* Scratch::bytes(size_t count) {
  constexpr size_t kHugePage = size_t{2} << 20;
  const size_t bytes = (count / kHugePage + 1) * kHugePage;
  if (bytes > size_) {
    memory_.reset(std::aligned_alloc(kHugePage, bytes));
    size_ = memory_ == nullptr ? 0 : bytes;
    if (memory_ == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    madvise(memory_.get(), bytes, MADV_HUGEPAGE);  // a wish, not a need
#endif
  }
  return memory_.get();
}

int64_t element_bytes(StorageType storage) {
  return storage == StorageType::kFloat64 ? 8 : storage == StorageType::kFloat32 ? 4 : 2;
}

void Window::move_to(int64_t row, int64_t column) {
  const int64_t slots_y = static_cast<int64_t>(t_.y.position.size());
  const int64_t slots_x = static_cast<int64_t>(t_.x.position.size());
  rows_.resize(t_.fold * slots_y);
  row_mask_.resize(t_.fold * slots_y);
  for (int64_t part = 0; part < t_.fold; ++part) {
    for (int64_t y = 0; y < slots_y; ++y) {
      const int64_t at = (row + part * t_.rows) * c_.y.in_step + t_.y.position[y];
      const bool inside = at >= 0 && at < c_.y.in_size;
      rows_[part * slots_y + y] = inside ? at * in_.stride_height : kOutside;
      const int64_t width = at == c_.y.in_size - 1 ? last_width_ : kLine;
      row_mask_[part * slots_y + y] = (uint32_t{1} << width) - 1;
    }
  }
  columns_.resize(slots_x);
  column_mask_.resize(slots_x);
  for (int64_t x = 0; x < slots_x; ++x) {
    const int64_t at = column * c_.x.in_step + t_.x.position[x];
    if (t_.lanes) {
      columns_[x] = at >= 0 && at < c_.x.in_size ? at * in_.stride_width : kOutside;
      continue;
    }
    columns_[x] = at * in_.stride_width;
    column_mask_[x] = 0;
    for (int64_t i = 0; i < t_.segment(); ++i) {  // outputs outside the map read nothing either
      const int64_t pixel = at + i * c_.x.in_step;
      const bool inside = pixel >= 0 && pixel < c_.x.in_size && column + i < c_.x.count;
      column_mask_[x] |= static_cast<uint32_t>(inside) << i;
    }
  }
}

FillJob Window::job(int64_t group, const Block& block, const MaskedConv2dParams& params,
                    void* buffer) const {
  const StorageType storage = params.storage;
  const int64_t image = group * (params.layout == Layout::kImages ? kLine : 1);
  const int64_t at = image * in_.stride_batch + block.channel * in_.stride_channel;
  return {static_cast<const char*>(in_.data) + at * element_bytes(storage),
          in_.stride_channel,
          block.channels,
          buffer,
          t_.channel_pitch,
          static_cast<int64_t>(t_.y.position.size()),
          static_cast<int64_t>(t_.x.position.size()),
          rows_.data(),
          columns_.data(),
          t_.fold,
          in_.stride_width * c_.x.in_step,
          column_mask_.data(),
          row_mask_.data(),
          in_.stride_batch,
          std::min(kLine, in_.batch - image)};
}

Prefetch Ahead::look(const FillJob& next, const MaskedConv2dParams& params) {
  if (params.layout != Layout::kLanes) return {};
  const int64_t bytes = element_bytes(params.storage);
  int64_t first = 0, last = next.slots_x - 1;
  while (first < last && next.columns[first] == kOutside) ++first;
  while (last > first && next.columns[last] == kOutside) --last;
  if (next.slots_x == 0 || next.columns[first] == kOutside) return {};  // all of it is padding
  rows_.assign(next.rows, next.rows + next.slots_y);
  for (int64_t& row : rows_) {
    if (row != kOutside) row = (row + next.columns[first]) * bytes;
  }
  return {static_cast<const char*>(next.from),
          next.channel_step * bytes,
          rows_.data(),
          next.slots_y,
          next.channels * next.slots_y,
          (last - first + 1) * kLine * bytes};
}

template <class A>
Work plan_work(const MaskedConv2dParams& params, const Correlation& correlation, const Strided& in,
               const Strided& out) {
  Work work{params, correlation, {}, in, out, kLine, {}, 1};
  flatten(work);
  TileForm form;
  if (params.packed != nullptr) {
    form = Packed(params.packed).header().form();
  } else {
    form = best_form(work.correlation, params.layout != Layout::kPixels,
                     Kernels<A>::lines(work.kernels()), sizeof(A));
    form.shares = work.kernels().shares_taps;
  }
  work.tiling = tile_correlation(work.correlation, form, sizeof(A));
  work.pieces = cut(work.correlation, work.tiling);
  return work;
}

template Work plan_work<float>(const MaskedConv2dParams&, const Correlation&, const Strided&,
                               const Strided&);
template Work plan_work<double>(const MaskedConv2dParams&, const Correlation&, const Strided&,
                                const Strided&);

Pairs pairs_of(const Section& section, int64_t part, int64_t parts) {
  constexpr int64_t kUnit = 8;  // whole lines of channels are written fastest
  const int64_t units = (section.runs() + kUnit - 1) / kUnit;
  const int64_t first = units * part / parts * kUnit;
  const int64_t end = std::min(units * (part + 1) / parts * kUnit, section.runs());
  return {first, end - first, section.plane + 2 * first,
          std::min(2 * end, section.planes) - 2 * first};
}

}  // namespace supertickets
