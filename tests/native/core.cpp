// The core alone, which needs no Python, torch or oneDNN: a part of `make test` and `make sanitize`.
//
// Each test goes through many small problems and compares with what the words of the header say, element by element.
#include <omp.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <future>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/forkable_mutex.h"
#include "core/isa.h"
#include "core/memory.h"
#include "core/program.h"
#include "core/snapshot.h"
#include "core/tensor.h"
#include "kernels/gemm_rows.h"
#include "kernels/recurrent.h"
#include "kernels/walk_inline.h"
#include "steps/axes.h"

namespace {

using namespace drystone;
using namespace drystone::DRYSTONE_ISA;

int failures = 0;

// Says where, with which numbers, and goes on.
#define CHECK(condition, ...) \
  if (!(condition)) failed(__FILE__, __LINE__, #condition, {__VA_ARGS__})

void failed(const char* file, int line, const char* condition, const std::vector<int64_t>& numbers) {
  std::printf("%s:%d: not %s", file, line, condition);
  for (int64_t number : numbers) std::printf(" | %lld", static_cast<long long>(number));
  std::printf("\n");
  if (++failures > 20) std::exit(1);
}

bool throws(const std::function<void()>& act) {
  try {
    act();
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

// Each index of `sizes` once, the last axis the fastest.
void each_index(const Dims& sizes, const std::function<void(const Dims&)>& body) {
  for (int64_t size : sizes)
    if (size == 0) return;
  Dims index(sizes.size());
  for (;;) {
    body(index);
    size_t axis = sizes.size();
    while (axis > 0 && ++index[axis - 1] == sizes[axis - 1]) index[--axis] = 0;
    if (axis == 0) return;
  }
}

int64_t dot(const Dims& a, const Dims& b) {
  int64_t sum = 0;
  for (size_t i = 0; i < a.size(); i++) sum += a[i] * b[i];
  return sum;
}

void shares_cover_everything_once() {
  for (int64_t total = 0; total < 70; total++) {
    for (int64_t parts = 1; parts < 20; parts++) {
      int64_t at = 0;
      for (int64_t i = 0; i < parts; i++) {
        const Range part = share(total, i, parts);
        CHECK(part.begin == at, total, i, parts);
        at = part.end;
        const int64_t size = part.end - part.begin;
        CHECK(size == total / parts || size == ceil_div(total, parts), total, i, parts);
      }
      CHECK(at == total, total, parts);
    }
  }
  const int64_t most = int64_t{1} << 62;  // beyond it, not even bytes are counted
  CHECK(share(most, 2, 3).end == most);
}

void row_blocks_fit_their_tile() {
  for (GemmArithmetic arithmetic : {GemmArithmetic::f32, GemmArithmetic::bf16_dot, GemmArithmetic::bf16_tiles}) {
    const GemmTileSize tile = gemm_tile(arithmetic, kFloats);
    GemmArgs args{};
    args.arithmetic = arithmetic;
    for (int64_t total = 1; total < 200; total++) {
      const int64_t blocks = row_blocks(args, total);
      int64_t at = 0;
      for (int64_t i = 0; i < blocks; i++) {
        const Range block = row_block(args, total, i, blocks);
        CHECK(block.begin == at, tile.rows, total, i);
        at = block.end;
        const int64_t size = block.end - block.begin;
        CHECK(size >= (blocks > 1 ? tile.unit : 1) && size <= tile.rows, tile.rows, total, i);
        CHECK(i == 0 || size % tile.unit == 0, tile.rows, total, i);
      }
      CHECK(at == total, tile.rows, total);
    }
  }
}

void recurrent_memory_does_not_overlap() {
  for (GemmArithmetic arithmetic : {GemmArithmetic::f32, GemmArithmetic::bf16_widened, GemmArithmetic::bf16_dot}) {
    for (int64_t size : {1, 15, 16, 17, 33}) {
      for (int64_t rows : {1, 3}) {
        RecurrentArgs args{};
        args.arithmetic = arithmetic;
        args.threads = 3;
        args.state = size;
        args.hidden = size + 5;
        args.projects = true;
        const int64_t element = gemm_x_bytes(arithmetic);
        const RecurrentMemory memory = recurrent_memory(args, rows);
        CHECK(memory.state >= recurrent_line_bytes * (1 + args.threads), size, rows);
        CHECK(memory.state_bytes >= rows * args.state * element, size, rows);
        CHECK(memory.cell >= memory.state + 2 * memory.state_bytes, size, rows);
        CHECK(memory.inner >= memory.cell + rows * args.hidden * 4, size, rows);
        CHECK(memory.bytes >= memory.inner + rows * args.hidden * element, size, rows);
        for (int64_t offset : {memory.state, memory.state_bytes, memory.cell, memory.inner, memory.bytes})
          CHECK(offset % 64 == 0, size, rows);
      }
    }
  }
}

void walks_count_and_address() {
  for (const Dims& sizes : {Dims{}, Dims{7}, Dims{3, 4}, Dims{2, 1, 5}, Dims{2, 3, 2, 2, 3, 2}}) {
    Walk walk{.axes = static_cast<int>(sizes.size()), .sizes = {}, .strides = {}};
    Dims strides(sizes.size());
    for (size_t i = 0; i < sizes.size(); i++) {
      walk.sizes[i] = sizes[i];
      walk.strides[1][i] = strides[i] = static_cast<int64_t>(i % 2 ? 0 : 100 - 7 * i);
    }
    int64_t step = 0;
    each_index(sizes, [&](const Dims& index) {
      CHECK(offset_of(walk, step, 1) == dot(index, strides), step);
      step++;
    });
    CHECK(count_of(walk) == step, step);
  }
}

// Where an element lies, by the definition of a format.
int64_t address(const TensorDesc& desc, Dims index) {
  int64_t in_block = 0;
  if (desc.format.block > 1) {
    in_block = index[1] % desc.format.block;
    index[1] /= desc.format.block;
  }
  return dot(index, desc.strides) + in_block;
}

std::vector<int64_t> addresses(const TensorDesc& desc) {
  std::vector<int64_t> all;
  each_index(desc.shape, [&](const Dims& index) { all.push_back(address(desc, index)); });
  return all;
}

std::vector<TensorDesc> dense_tensors() {
  std::vector<TensorDesc> descs;
  for (int64_t c : {1, 3, 8, 16, 17, 24, 32}) {
    for (const Dims& shape :
         {Dims{2, c}, Dims{1, c, 1}, Dims{2, c, 3}, Dims{1, c, 1, 1}, Dims{2, c, 2, 3}, Dims{1, c, 2, 1, 3}, Dims{0, c, 4}}) {
      for (const Format& format : formats)
        if (format == Format::plain || shape.size() > 2) descs.push_back(TensorDesc::dense(DType::f32, format, shape));
    }
  }
  return descs;
}

void dense_tensors_fill_their_memory() {
  for (const TensorDesc& desc : dense_tensors()) {
    const int64_t c = desc.shape[1], block = desc.format.block;
    std::vector<int64_t> all = addresses(desc);
    CHECK(desc.is_dense() && desc.numel() == static_cast<int64_t>(all.size()), c, block);
    std::sort(all.begin(), all.end());
    CHECK(std::adjacent_find(all.begin(), all.end()) == all.end(), c, block);
    CHECK(desc.has_padding() == (c % block != 0), c, block);
    CHECK(desc.bytes() == desc.numel() / c * desc.padded_channels() * 4, c, block);
    CHECK(all.empty() || (all.front() == 0 && all.back() < desc.bytes() / 4), c, block);

    std::vector<int64_t> lying;  // padding included
    const Physical as_it_lies = physical(desc);
    each_index(as_it_lies.sizes, [&](const Dims& index) { lying.push_back(dot(index, as_it_lies.strides)); });
    CHECK(static_cast<int64_t>(lying.size()) * 4 == desc.bytes(), c, block);
    for (size_t i = 0; i < lying.size(); i++) CHECK(lying[i] == static_cast<int64_t>(i), c, block);
  }
}

void same_memory_is_the_same_bytes() {
  for (const TensorDesc& a : dense_tensors()) {
    for (const TensorDesc& b : dense_tensors()) {
      if (a.shape != b.shape || a.numel() == 0) continue;
      CHECK(same_memory(a, b) == (a.bytes() == b.bytes() && addresses(a) == addresses(b)), a.rank(), a.shape[1], a.format.block,
            b.format.block);
    }
  }
}

void blocks_are_walked_in_the_order_of_channels() {
  for (const TensorDesc& desc : dense_tensors()) {
    for (int64_t block : {1, 8, 16}) {
      const int64_t c = desc.shape[1];
      if (c % block != 0) continue;
      Dims strides;
      if (throws([&] { strides = strides_with_block(desc, block); })) {
        CHECK(desc.format.block > 1 && desc.format.block != block, c, block, desc.format.block);
        continue;
      }
      const Dims sizes = sizes_with_block(desc.shape, block);
      CHECK(sizes.size() == strides.size(), c, block, desc.format.block);
      std::vector<int64_t> walked, expected;
      each_index(sizes, [&](const Dims& index) { walked.push_back(dot(index, strides)); });
      each_index(desc.shape, [&](const Dims& index) { expected.push_back(address(desc, index)); });
      CHECK(walked == expected, c, block, desc.format.block);
    }
  }
}

void collapsing_keeps_every_step() {
  const auto walk = [](const std::vector<Axis>& axes) {
    Dims sizes;
    for (const Axis& axis : axes) sizes.push_back(axis.size);
    std::vector<Dims> steps;
    each_index(sizes, [&](const Dims& index) {
      Dims offsets(2);
      for (size_t i = 0; i < axes.size(); i++)
        for (int operand = 0; operand < 2; operand++) offsets[operand] += index[i] * axes[i].strides[operand];
      steps.push_back(offsets);
    });
    return steps;
  };
  // Strides that do and do not go on from one axis to the next, in either operand, and a broadcast one.
  for (int64_t size : {1, 2, 3}) {
    for (int64_t a : {12, 13}) {
      for (int64_t b : {0, 4, 12}) {
        for (int group : {0, 1}) {
          const std::vector<Axis> axes = {{2, {a * size, b * size}, 0}, {size, {a, b}, group}, {3, {4, 4}, group}, {4, {1, 1}, 0}};
          const std::vector<Axis> merged = collapse(axes);
          CHECK(walk(merged) == walk(axes), size, a, b, group);
          // The first two go together always, within a group; so do the last two.
          CHECK(merged.size() <= (group == 0 || size == 1 ? 3u : 4u) - (group == 0), size, a, b, group,
                static_cast<int64_t>(merged.size()));
        }
      }
    }
  }
}

void impossible_shapes_are_refused() {
  const int64_t large = int64_t{1} << 31;
  CHECK(throws([&] { TensorDesc::dense(DType::f32, Format::plain, {large, large}); }));
  CHECK(throws([&] { TensorDesc::dense(DType::f64, Format::plain, {large, large / 2 / 4}); }) == false);
  CHECK(throws([&] { TensorDesc::dense(DType::f32, Format::channels_last, {2, -1, 3}); }));
  CHECK(throws([&] { TensorDesc::dense(DType::f32, Format::channels_last, {2, 3}); }));
  CHECK(throws([&] { TensorDesc::dense(DType::f32, formats[2], {1, std::numeric_limits<int64_t>::max(), 1}); }));
  TensorDesc wide = TensorDesc::dense(DType::f32, Format::plain, {2, 2});
  wide.strides = {std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::max()};
  CHECK(throws([&] { wide.bytes(); }));
}

constexpr uint32_t bits(std::initializer_list<int> set) {
  uint32_t word = 0;
  for (int bit : set) word |= uint32_t{1} << bit;
  return word;
}

// The bits of Intel's and AMD's manuals.
void features_need_all_their_bits() {
  const Cpu all{.leaf1_ecx = ~0u, .leaf7_ebx = ~0u, .leaf7_ecx = ~0u, .leaf7_edx = ~0u, .leaf7_1_eax = ~0u, .xcr0 = ~0u};
  const uint32_t every = (1u << static_cast<int>(Feature::count)) - 1;
  const uint32_t of_avx2 = mask_of(Feature::avx2) | mask_of(Feature::avx_vnni);
  const uint32_t of_amx = mask_of(Feature::amx_bf16) | mask_of(Feature::amx_int8), of_avx512 = every & ~of_avx2;
  CHECK(features_of(all, Level::none) == 0);
  CHECK(features_of(all, Level::avx2) == of_avx2);
  CHECK(features_of(all, Level::avx512) == (every & ~of_amx));
  CHECK(features_of(all, Level::amx) == every);
  CHECK(features_of({}, Level::amx) == 0);

  struct Lost {
    uint32_t Cpu::* word;
    uint32_t bits;
    uint32_t features;
  };
  const Lost table[] = {
      {&Cpu::leaf1_ecx, bits({12, 29}), every},
      {&Cpu::leaf7_ebx, bits({5}), every},
      {&Cpu::leaf7_ebx, bits({16, 17, 30, 31}), of_avx512},
      {&Cpu::leaf7_ecx, bits({11}), mask_of(Feature::avx512_vnni)},
      {&Cpu::leaf7_edx, bits({22}), mask_of(Feature::amx_bf16)},
      {&Cpu::leaf7_edx, bits({23}), mask_of(Feature::avx512_fp16)},
      {&Cpu::leaf7_edx, bits({24}), of_amx},
      {&Cpu::leaf7_edx, bits({25}), mask_of(Feature::amx_int8)},
      {&Cpu::leaf7_1_eax, bits({4}), mask_of(Feature::avx_vnni)},
      {&Cpu::leaf7_1_eax, bits({5}), mask_of(Feature::avx512_bf16)},
      {&Cpu::xcr0, bits({1, 2}), every},
      {&Cpu::xcr0, bits({5, 6, 7}), of_avx512},
      {&Cpu::xcr0, bits({17, 18}), of_amx},
  };
  for (auto word : {&Cpu::leaf1_ecx, &Cpu::leaf7_ebx, &Cpu::leaf7_ecx, &Cpu::leaf7_edx, &Cpu::leaf7_1_eax, &Cpu::xcr0}) {
    for (int bit = 0; bit < 32; bit++) {
      uint32_t lost = 0;
      for (const Lost& row : table)
        if (row.word == word && row.bits >> bit & 1) lost |= row.features;
      Cpu cpu = all;
      cpu.*word &= ~(1u << bit);
      CHECK(features_of(cpu, Level::amx) == (every & ~lost), bit, lost);
    }
  }
}

// What it is asked, and how.
struct Recorder : Step {
  struct Seen {
    void* slot;
    bool exact;
  };
  std::vector<Seen>* seen;
  bool suspects;
  Recorder(std::vector<Seen>* seen, bool suspects) : seen(seen), suspects(suspects) {}
  void run(const Run& run, StepState*) const override {
    seen->push_back({run.slots[0], run.exact});
    if (suspects) *run.suspect = true;
  }
};

void frames_bind_slots_and_keep_suspicion_for_one_call() {
  std::vector<Recorder::Seen> seen;
  auto program = std::make_shared<Program>();
  program->add(std::make_shared<Recorder>(&seen, false), {1});
  program->add(std::make_shared<Recorder>(&seen, true), {0}, true);
  program->add(std::make_shared<Recorder>(&seen, false), {1});
  CHECK(program->slot_count() == 2 && program->size() == 3);
  CHECK(throws([&] { Frame(program, {nullptr}, {}, nullptr, 1); }));
  CHECK(throws([&] { Frame(program, {nullptr, nullptr}, {{2, 0, 0}}, nullptr, 1); }));
  int kept = 0;
  std::byte argument[16];
  Frame frame(program, {&kept, nullptr}, {{1, 0, 8}}, nullptr, omp_get_max_threads());
  for (int call = 0; call < 2; call++) {
    seen.clear();
    frame.bind({reinterpret_cast<uintptr_t>(argument)});
    frame.run(0, 100);
    CHECK(seen.size() == 3, call);
    CHECK(seen[0].slot == argument + 8 && seen[1].slot == &kept && seen[2].slot == argument + 8, call);
    CHECK(!seen[0].exact && seen[1].exact && seen[2].exact, call);
  }
}

void memory_is_aligned() {
  for (int64_t size : {int64_t{0}, int64_t{1}, int64_t{64}, int64_t{4097}, int64_t{2} << 20, (int64_t{4} << 20) + 1}) {
    const Memory memory(size);
    const auto address = reinterpret_cast<uintptr_t>(memory.data());
    CHECK(memory.bytes() == size && address % (size < int64_t{2} << 20 ? 64 : 2 << 20) == 0, size);
    std::memset(memory.data(), 1, size);
  }
}

void snapshots_tell_what_changed() {
  char a[3] = "ab", b[5] = "cdef";
  const auto place = [](char* data, size_t count) { return std::pair{reinterpret_cast<uintptr_t>(data), count}; };
  const Snapshot snapshot({place(a, 2), place(a, 0), place(b, 3), place(b + 3, 1)});
  CHECK(snapshot.changed().empty() && snapshot.unchanged());
  b[3] = 'x';
  CHECK(snapshot.changed() == std::vector<size_t>{3} && !snapshot.unchanged());
  a[1] = 'y';
  CHECK((snapshot.changed() == std::vector<size_t>{0, 3}));
  CHECK(Snapshot({}).changed().empty() && Snapshot({place(nullptr, 0)}).changed().empty());
}

// A thread has the mutex while the process forks; the child, in which that thread does not go on, takes it all the same.
void forked_children_find_mutexes_free() {
  static ForkableMutex first, second;
  std::promise<void> held;
  bool finished = false;
  std::thread holder([&] {
    std::lock_guard lock(second);
    held.set_value();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    finished = true;
  });
  held.get_future().wait();
  const pid_t child = fork();
  if (child == 0) {
    alarm(10);
    for (ForkableMutex* mutex : {&first, &second}) std::lock_guard lock(*mutex);
    _exit(finished ? 0 : 2);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, status);
  holder.join();
  for (ForkableMutex* mutex : {&first, &second}) std::lock_guard lock(*mutex);
}

}  // namespace

int main() {
  shares_cover_everything_once();
  row_blocks_fit_their_tile();
  recurrent_memory_does_not_overlap();
  walks_count_and_address();
  dense_tensors_fill_their_memory();
  same_memory_is_the_same_bytes();
  blocks_are_walked_in_the_order_of_channels();
  collapsing_keeps_every_step();
  impossible_shapes_are_refused();
  features_need_all_their_bits();
  frames_bind_slots_and_keep_suspicion_for_one_call();
  memory_is_aligned();
  snapshots_tell_what_changed();
  forked_children_find_mutexes_free();
  return failures != 0;
}
