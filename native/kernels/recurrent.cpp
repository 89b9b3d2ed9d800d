// The hidden part of LSTM, GRU and RNN layers, all time steps in one call: h W_hh, the gates' functions, the cell. float32, or
// bfloat16 weights and states with float32 sums and cells.
//
// What the inputs give the gates was computed for all steps at once by the GEMM. Here a thread owns strips of units with all
// their gates, at every step the same ones, so that its share of the weights stays in its caches, and nothing but the new state goes from
// core to core. A strip's sums (some rows times a vector for each gate) stay in registers until they have gone through the gates'
// functions. Every other step goes through the strips backwards: of weights that do not fit into
// the second level cache, the part that was used last is still there.
//
// Packed sequences end one after the other: a step leaves out the rows that have ended, or backwards have not begun. Tiles read the rows
// that are there side by side, so each step lays out the state for those of the next one.
//
// Both directions, and parts of a large batch, know nothing of each other: where there are enough threads they run side by side.
#include "kernels/recurrent.h"

#include <omp.h>

#include "kernels/gemm_dot.h"
#include "kernels/gemm_math.h"
#include "kernels/recurrent_gates.h"
#include "kernels/recurrent_operand.h"
#include "kernels/recurrent_team.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int W = kFloats;
constexpr int kMaxTile = kTile.rows * kTile.vectors * W;

GemmTileFunction tile_function(GemmArithmetic arithmetic, int64_t rows, int64_t vectors) {
  switch (arithmetic) {
    case GemmArithmetic::f32: return tile_of_width<Float32>(rows, vectors);
    case GemmArithmetic::bf16_widened: return tile_of_width<Widened>(rows, vectors);
    default: return dot_tile_of_width(rows, vectors);
  }
}

// `count` numbers as a whole vector, in place where they are one.
inline const float* whole(const float* from, int64_t count, float* buffer) {
  if (count == W) return from;
  for (int i = 0; i < W; i++) buffer[i] = i < count ? from[i] : 0.0f;
  return buffer;
}

// A step of a part, how many of its rows are there, the first ones, and how many at the next step.
struct Moment {
  int64_t step, time, rows, next;

  bool is_last(int64_t row) const { return row >= next; }  // of a row that is there
  bool backwards() const { return step % 2 == 1; }
};

// Of a block of rows those before `count`.
Range within(Range block, int64_t count) { return {block.begin, least(block.end, count)}; }

// Some rows of one direction, computed by a team of threads; each has an object of its own.
class Part {
 public:
  Part(const RecurrentArgs& args, int direction, Range rows, std::byte* scratch, int rank, int team)
      : a(args), weights(args.direction[direction]), rows(rows), direction(direction), team(scratch, rank, team) {
    const int64_t count = rows.end - rows.begin;
    const RecurrentMemory memory = recurrent_memory(a, count);
    blocks = ceil_div(count, recurrent_rows(recurrent_gates(a.kind), kFloats));
    char* at = reinterpret_cast<char*>(scratch);
    for (int i = 0; i < 2; i++) state[i] = {at + memory.state + i * memory.state_bytes, memory.state_bytes / count};
    cells = reinterpret_cast<float*>(at + memory.cell);
    inner = {at + memory.inner, a.projects ? (memory.bytes - memory.inner) / count : 0};
    first = a.initial || !all_finite() ? state[0] : Operand{};
    for (int i = 0; i < W; i++) start[i] = start[W + i] = 0;
  }

  void run() {
    team.run(1, false, [&](int64_t) { begin(); });
    for (int64_t step = 0; step < a.steps; step++) {
      const Moment now{step, time_of(step), rows_at(step), rows_at(step + 1)};
      if (now.rows == 0) {
        if (now.next > 0) team.run(1, false, [&](int64_t) { arrive(now); });
        continue;
      }
      hidden_part(now);
      if (a.projects) project(now);
    }
  }

 private:
  const RecurrentArgs& a;
  const RecurrentDirection& weights;
  const Range rows;
  const int direction;
  Team team;
  int64_t blocks;                  // of rows; a projection goes by those of the gates
  Operand state[2], inner, first;  // first: what the first step multiplies, without memory for zeros
  float* cells;                    // a row is as long as whole vectors
  alignas(64) float start[4 * W];
  alignas(64) float tile[kMaxTile];

  int element() const { return gemm_x_bytes(a.arithmetic); }
  int64_t steps_of(int64_t k) const { return a.arithmetic == GemmArithmetic::f32 ? k : ceil_div(k, 2); }
  int64_t strip_width(int gates) const { return recurrent_unit_vectors(gates) * W; }

  bool all_finite() const {
    const int gates = recurrent_gates(a.kind);
    const int64_t width = strip_width(gates), strips = ceil_div(a.hidden, width);
    const auto* end = static_cast<const char*>(weights.weights) + strips * width * gates * steps_of(a.state) * 4;
    return *reinterpret_cast<const int64_t*>(end) == 1;
  }

  float* cell(int64_t row, int64_t unit) const { return cells + row * (ceil_div(a.hidden * 4, 64) * 16) + unit; }

  int64_t time_of(int64_t step) const { return direction == 1 ? a.steps - 1 - step : step; }

  // How many of the part's rows are there at a step, none after the last one.
  int64_t rows_at(int64_t step) const {
    const int64_t count = rows.end - rows.begin, time = time_of(step);
    if (step == a.steps) return 0;
    if (!a.first_row) return count;
    const int64_t here = a.first_row[time + 1] - a.first_row[time] - rows.begin;
    return here < 0 ? 0 : least(here, count);
  }

  // Where a row lies in a tensor of all time steps.
  int64_t place(int64_t time, int64_t row, int64_t step_stride, int64_t row_stride) const {
    return (a.first_row ? a.first_row[time] * row_stride : time * step_stride) + (rows.begin + row) * row_stride;
  }

  // The first row of the part in a tensor (directions, batch, size).
  int64_t offset(int64_t row, int64_t size) const { return (direction * a.batch + rows.begin + row) * size; }

  // The initial state of rows whose first step is the next one.
  void arrive(const Moment& now) {
    alignas(64) float values[W];
    for_blocks(now.next, [&](Range block) {
      for (int64_t row = block.begin < now.rows ? now.rows : block.begin; row < least(block.end, now.next); row++)
        for (int64_t unit = 0; unit < a.state; unit += W) {
          for (float& value : values) value = 0;
          if (a.initial)
            load(values, advance(a.initial, offset(row, a.state) + unit, a.initial_dtype), a.initial_dtype, 1, least(W, a.state - unit));
          store_operand(next_state(now, block, row, unit), values, a.arithmetic);
        }
    });
  }

  // Where the next step reads a row's state.
  char* next_state(const Moment& now, Range block, int64_t row, int64_t unit) const {
    return state[(now.step + 1) % 2].at(within(block, now.next), row, unit, element());
  }

  // Cells of all rows, and the state for the first step. What fills the last chunk of a row is 0, as products read it too.
  void begin() {
    const int64_t count = rows.end - rows.begin;
    for (int i = 0; i < 2; i++) __builtin_memset(state[i].data, 0, count * state[i].row_bytes);
    __builtin_memset(inner.data, 0, count * inner.row_bytes);
    __builtin_memset(cells, 0, (cell(count, 0) - cells) * sizeof(float));
    arrive({-1, -1, 0, rows_at(0)});
    const bool is_state = a.kind == RecurrentKind::gru;  // whose own h is the cell
    const void* from = is_state ? a.initial : a.initial_cell;
    const DType dtype = is_state ? a.initial_dtype : a.initial_cell_dtype;
    for (int64_t row = 0; from && row < count; row++) load(cell(row, 0), advance(from, offset(row, a.hidden), dtype), dtype, 1, a.hidden);
  }

  // The blocks of rows, each a tile's, in which the first `count` are.
  template <class F>
  void for_blocks(int64_t count, F&& body) const {
    for (int64_t b = 0; b < blocks; b++)
      if (const Range block = share(rows.end - rows.begin, b, blocks); block.begin < count) body(block);
  }

  // One phase: a product with `units` columns a gate, strip by strip, and in each the rows that are there. Sums go to `finish`, and what
  // that will read is for `fetch` to bring near meanwhile.
  template <class Fetch, class Finish>
  void product(const Moment& now, const Operand& x, const void* packed, int64_t k, int64_t units, int gates, const float* bias,
               Fetch&& fetch, Finish&& finish) {
    const bool backwards = now.backwards();
    const int wide = recurrent_unit_vectors(gates), vectors = wide * gates;
    const int64_t width = strip_width(gates), strips = ceil_div(units, width), steps = steps_of(k),
                  strip_bytes = steps * vectors * kVectorBytes;
    // The next strip is fetched into the second level evenly spread over the blocks of rows; a single block reads best without.
    int64_t running = 0;
    for_blocks(now.rows, [&](Range) { running++; });
    const int64_t lines = running > 1 ? ceil_div(4 * vectors * kVectorBytes / 64, running) : 0;
    team.run(strips, backwards, [&](int64_t strip) {
      if (strip == 0) arrive(now);
      for (int v = 0; v < vectors; v++)
        for (int lane = 0; lane < W; lane++) {
          const int64_t unit = strip * width + lane;
          start[v * W + lane] = bias && v == vectors - 1 && unit < units ? bias[unit] : 0.0f;
        }
      const int64_t next = backwards ? strip - (strip > 0) : least(strip + 1, strips - 1);
      const char* ahead = static_cast<const char*>(packed) + next * strip_bytes;
      for_blocks(now.rows, [&](Range block) {
        const int64_t end = least(block.end, now.rows);
        for (int64_t row = block.begin; row < end; row++) fetch(row, strip * width);
        GemmTile t{};
        t.rows = end - block.begin;
        t.x = x.data + block.begin * x.row_bytes;
        t.weights = static_cast<const char*>(packed) + strip * strip_bytes;
        t.steps = steps;
        t.start = start;
        t.start_stride = 0;
        t.ahead = ahead;
        t.ahead_lines = lines;
        t.sums = tile;
        t.sums_stride = vectors * W;
        if (x.data) {
          tile_function(a.arithmetic, t.rows, vectors)(t);
        } else {
          for (int64_t i = 0; i < t.rows * t.sums_stride; i++) tile[i] = start[i % t.sums_stride];
        }
        ahead += steps / 4 * lines * 64;
        for (int64_t row = block.begin; row < end; row++)
          for (int u = 0; u < wide; u++) {
            const int64_t unit = strip * width + u * W;
            if (unit < units) finish(block, row, unit, least(W, units - unit), tile + (row - block.begin) * vectors * W + u * W);
          }
      });
    });
  }

  void hidden_part(const Moment& now) {
    const int gates = recurrent_gates(a.kind);
    const Unit function = unit_of(a.kind);
    const float* inputs = a.gates + place(now.time, 0, a.gates_step, a.gates_row) + direction * gates * a.hidden;
    const int64_t last = recurrent_unit_vectors(gates) * W - 1;
    const auto fetch = [&](int64_t row, int64_t unit) {
      const float* from = inputs + row * a.gates_row + unit;
      for (int g = 0; g < gates; g++)
        for (int64_t i = 0; i <= last; i += last) __builtin_prefetch(from + g * a.hidden + i);
    };
    product(now, now.step == 0 ? first : state[now.step % 2], weights.weights, a.state, a.hidden, gates, weights.bias, fetch,
            [&](Range block, int64_t row, int64_t unit, int64_t count, const float* sums) {
              alignas(64) float h[W], padded[4][W];
              const float* given[4];
              for (int g = 0; g < gates; g++) given[g] = whole(inputs + row * a.gates_row + g * a.hidden + unit, count, padded[g]);
              function(sums, given, cell(row, unit), h);
              if (a.final_cell && now.is_last(row))
                store(advance(a.final_cell, offset(row, a.hidden) + unit, a.final_cell_dtype), cell(row, unit), a.final_cell_dtype, 1,
                      count);
              if (a.projects)
                store_operand(inner.at(within(block, now.rows), row, unit, element()), h, a.arithmetic);
              else
                give(now, block, row, unit, count, h);
            });
  }

  void project(const Moment& now) {
    product(
        now, inner, weights.projection, a.hidden, a.state, 1, nullptr, [](int64_t, int64_t) {},
        [&](Range block, int64_t row, int64_t unit, int64_t count, const float* sums) {
          alignas(64) float h[W];
          for (int i = 0; i < W; i++) h[i] = sums[i];
          give(now, block, row, unit, count, h);
        });
  }

  // A vector of the new state: to the next step, and out.
  void give(const Moment& now, Range block, int64_t row, int64_t unit, int64_t count, const float* h) {
    if (!now.is_last(row)) store_operand(next_state(now, block, row, unit), h, a.arithmetic);
    const int64_t at = place(now.time, row, a.output_step, a.output_row) + direction * a.state + unit;
    store(advance(a.output, at, a.output_dtype), h, a.output_dtype, 1, count);
    if (now.is_last(row)) store(advance(a.final, offset(row, a.state) + unit, a.final_dtype), h, a.final_dtype, 1, count);
  }
};

}  // namespace

void recurrent(const RecurrentArgs& a) {
  const int64_t parts = a.directions * a.row_parts;
  for (int64_t i = 0; i < parts; i++) __builtin_memset(a.scratch + i * a.part_bytes, 0, recurrent_memory(a, 1).state);
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
  {
    // Every part gets as many threads; where that does not come out even, all threads compute one part after the other.
    const int threads = omp_get_num_threads(), thread = omp_get_thread_num();
    const int64_t teams = threads % parts == 0 ? parts : threads > 1 && parts % threads == 0 ? threads : 1;
    const int team = static_cast<int>(threads / teams);
    for (int64_t i = thread / team; i < parts; i += teams) {
      const Range rows = share(a.batch, i % a.row_parts, a.row_parts);
      Part(a, static_cast<int>(i / a.row_parts), rows, a.scratch + i * a.part_bytes, thread % team, team).run();
    }
  }
}

}  // namespace drystone::DRYSTONE_ISA
