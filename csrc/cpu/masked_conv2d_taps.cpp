// Which taps each output plane sums: one pass over weight and mask, repeated whenever they change.
#include <algorithm>

#include "masked_conv2d_plan.h"

namespace supertickets {
namespace {

// Where a weight's kernel position lands: plane of the input, counted from the group's first, and
// element offset inside a plane.
struct Landing {
  int64_t plane, shift;
};

// One entry per weight of a filter, in dense order. `planes` are those of x.
std::vector<Landing> landings(const Conv2dShape& shape, const Planes& planes, int64_t row_pitch,
                              int64_t lanes) {
  std::vector<Landing> table;
  table.reserve(shape.taps());
  for (int64_t c = 0; c < shape.group_channels(); ++c) {
    for (int64_t ky = 0; ky < shape.kernel_height; ++ky) {
      for (int64_t kx = 0; kx < shape.kernel_width; ++kx) {
        const int64_t y = ky * shape.dilation_height, x = kx * shape.dilation_width;
        const int64_t phase_y = planes.y.phase_index[y % planes.y.stride];
        const int64_t phase_x = planes.x.phase_index[x % planes.x.stride];
        table.push_back({(c * planes.y.phases + phase_y) * planes.x.phases + phase_x,
                         y / planes.y.stride * row_pitch + x / planes.x.stride * lanes});
      }
    }
  }
  return table;
}

// Offsets into the planes of x, from the group's first plane.
std::vector<int32_t> input_offsets(const Conv2dShape& shape, const Planes& in) {
  std::vector<int32_t> offsets;
  for (const Landing& at : landings(shape, in, in.row_pitch, in.lanes)) {
    offsets.push_back(static_cast<int32_t>(at.plane * in.plane_pitch + at.shift));
  }
  return offsets;
}

int64_t group_of(const Conv2dShape& shape, int64_t filter) {
  return filter / shape.group_filters();
}

int32_t first_offset(const Conv2dShape& shape, const Planes& in, int64_t filter) {
  const int64_t planes = shape.group_channels() * in.y.phases * in.x.phases;
  return static_cast<int32_t>(group_of(shape, filter) * planes * in.plane_pitch);
}

// Where each filter's kept weights start in a list of all of them, [O + 1].
std::vector<int64_t> filter_starts(const Conv2dShape& shape, const bool* mask,
                                   const Parallel& parallel) {
  const int64_t taps = shape.taps();
  std::vector<int64_t> start(shape.filters + 1, 0);
  parallel_for(parallel, shape.filters, 8, [&](int64_t begin, int64_t end) {
    for (int64_t filter = begin; filter < end; ++filter) {
      const int64_t first = filter * taps;
      start[filter + 1] =
          mask == nullptr ? taps : std::count(mask + first, mask + first + taps, true);
    }
  });
  for (int64_t filter = 0; filter < shape.filters; ++filter) start[filter + 1] += start[filter];
  return start;
}

// Calls body(place in the list, weight of the filter, dense index) for the kept weights of one
// filter, whose places are [place, end). Entries are written without asking the mask, and written
// over until one is kept: a mask is too random for a branch.
template <class Body>
void for_each_kept(const Conv2dShape& shape, const bool* mask, int64_t filter, int64_t place,
                   int64_t end, const Body& body) {
  const int64_t first = filter * shape.taps();
  for (int64_t tap = 0; place < end; ++tap) {
    body(place, tap, first + tap);
    place += mask == nullptr || mask[first + tap] ? 1 : 0;
  }
}

}  // namespace

template <class A>
TapLists<A> forward_taps(const Conv2dShape& shape, const Planes& in, const A* weight,
                         const bool* mask, const Parallel& parallel) {
  const std::vector<int32_t> offsets = input_offsets(shape, in);
  TapLists<A> lists;
  lists.start = filter_starts(shape, mask, parallel);
  lists.taps.resize(lists.start.back());
  parallel_for(parallel, shape.filters, 8, [&](int64_t begin, int64_t end) {
    for (int64_t filter = begin; filter < end; ++filter) {
      const int32_t base = first_offset(shape, in, filter);
      for_each_kept(shape, mask, filter, lists.start[filter], lists.start[filter + 1],
                    [&](int64_t place, int64_t tap, int64_t index) {
                      lists.taps[place] = {weight[index], base + offsets[tap]};
                    });
    }
  });
  return lists;
}

template <class A>
TapLists<A> grad_input_taps(const Conv2dShape& shape, const Planes& in, const Planes& out,
                            const A* weight, const bool* mask) {
  // Row r of an x plane meets row r - shift of grad_output, which the halo moves by in.y.pad.
  const std::vector<Landing> table = landings(shape, out, in.row_pitch, in.lanes);
  const int64_t halo = in.y.pad * in.row_pitch + in.x.pad * in.lanes;
  const int64_t taps = shape.taps();
  const int64_t group_planes = shape.group_channels() * out.y.phases * out.x.phases;
  TapLists<A> lists;
  lists.start.assign(out.count() + 1, 0);
  for (int64_t filter = 0; filter < shape.filters; ++filter) {
    int64_t* count = lists.start.data() + 1 + group_of(shape, filter) * group_planes;
    const int64_t first = filter * taps;
    for (int64_t t = 0; t < taps; ++t) {
      count[table[t].plane] += mask == nullptr || mask[first + t] ? 1 : 0;
    }
  }
  for (size_t p = 1; p < lists.start.size(); ++p) lists.start[p] += lists.start[p - 1];
  lists.taps.resize(lists.start.back());
  std::vector<int64_t> next(lists.start.begin(), lists.start.end() - 1);
  for (int64_t filter = 0; filter < shape.filters; ++filter) {
    int64_t* to = next.data() + group_of(shape, filter) * group_planes;
    const int64_t base = filter * in.plane_pitch + halo;
    for (int64_t t = 0; t < taps; ++t) {
      if (mask != nullptr && !mask[filter * taps + t]) continue;
      lists.taps[to[table[t].plane]++] = {weight[filter * taps + t],
                                          static_cast<int32_t>(base - table[t].shift)};
    }
  }
  return lists;
}

NonzeroLists nonzero_lists(const Conv2dShape& shape, const Planes& in, const bool* mask,
                           const Parallel& parallel) {
  const std::vector<int32_t> offsets = input_offsets(shape, in);
  NonzeroLists lists;
  lists.start = filter_starts(shape, mask, parallel);
  lists.offset.resize(lists.start.back());
  lists.index.resize(lists.start.back());
  parallel_for(parallel, shape.filters, 8, [&](int64_t begin, int64_t end) {
    for (int64_t filter = begin; filter < end; ++filter) {
      const int32_t base = first_offset(shape, in, filter);
      for_each_kept(shape, mask, filter, lists.start[filter], lists.start[filter + 1],
                    [&](int64_t place, int64_t tap, int64_t index) {
                      lists.offset[place] = base + offsets[tap];
                      lists.index[place] = index;
                    });
    }
  });
  return lists;
}

template TapLists<float> forward_taps(const Conv2dShape&, const Planes&, const float*, const bool*,
                                      const Parallel&);
template TapLists<double> forward_taps(const Conv2dShape&, const Planes&, const double*,
                                       const bool*, const Parallel&);
template TapLists<float> grad_input_taps(const Conv2dShape&, const Planes&, const Planes&,
                                         const float*, const bool*);
template TapLists<double> grad_input_taps(const Conv2dShape&, const Planes&, const Planes&,
                                          const double*, const bool*);

}  // namespace supertickets
