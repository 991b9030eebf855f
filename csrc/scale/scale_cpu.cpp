#include "scale/scale_cpu.h"

#include <atomic>
#include <vector>

#include "core/chunks.h"
#include "core/cpu_variant.h"
#include "core/finite.h"
#include "core/shape.h"

namespace halfops::scale::cpu {
namespace {

constexpr int64_t kPiece = 1 << 16;  // elements that a thread takes at once
static_assert(kPiece % kChunk == 0, "a chunk is one thread's");

const CpuEngine& engine() {
#if defined(__x86_64__)
    return pick(&kPortable, &kAvx2, &kAvx512);
#else
    return kPortable;
#endif
}

struct Piece {
    int64_t tensor, begin, end, chunk;  // chunk: its first one, counted through the whole list
};

// Every tensor cut into pieces, and the pieces cut into tasks of about kPiece elements: one parallel region serves the
// whole list, and thousands of tiny tensors are as well balanced as a large one.
struct Plan {
    std::vector<Piece> pieces;
    std::vector<int64_t> tasks;  // first piece of each, and the end
    int64_t chunks = 0;

    template <class AnySpan>
    Plan(const AnySpan* tensors, int64_t count) {
        int64_t in_task = kPiece;
        for (int64_t t = 0; t < count; ++t) {
            for (int64_t begin = 0; begin < tensors[t].numel; begin += kPiece) {
                const int64_t end = smaller(begin + kPiece, tensors[t].numel);
                if (in_task + (end - begin) > kPiece) {
                    tasks.push_back(static_cast<int64_t>(pieces.size()));
                    in_task = 0;
                }
                in_task += end - begin;
                pieces.push_back({t, begin, end, chunks});
                chunks += ceil_div(end - begin, kChunk);
            }
        }
        tasks.push_back(static_cast<int64_t>(pieces.size()));
    }

    template <class F>
    void run(const Parallel& parallel, const F& each) const {
        parallel(static_cast<int64_t>(tasks.size()) - 1, 1, [&](int64_t begin, int64_t end) {
            for (int64_t p = tasks[begin]; p < tasks[end]; ++p) each(pieces[p]);
        });
    }
};

template <class AnySpan>
void add_up(const AnySpan* tensors, int64_t count, const std::vector<ChunkStats>& of_chunk, StatsOut out) {
    const ChunkStats* stats = of_chunk.data();
    for (int64_t t = 0; t < count; ++t) {
        const int64_t chunks = ceil_div(tensors[t].numel, kChunk);
        int64_t zeros = 0;
        for (int64_t c = 0; c < chunks; ++c) zeros += stats[c].zeros;
        double* row = out.per_tensor + 3 * t;
        row[0] = add_chunks(chunks, [&](int64_t c) { return stats[c].sum_of_squares; });
        row[1] = is_finite(row[0]) ? 0.0 : 1.0;
        row[2] = static_cast<double>(zeros);
        stats += chunks;
    }
    const double total = add_members(count, [&](int64_t t) { return out.per_tensor[3 * t]; });
    for (int64_t t = 0; t < count; ++t) out.per_tensor[3 * t] = one_nan(out.per_tensor[3 * t]);
    *out.sum_of_squares = one_nan(total);
    *out.found_inf = is_finite(total) ? 0.0f : 1.0f;
}

}  // namespace

void nonfinite_check(const Span* tensors, int64_t count, const Parallel& parallel, float* found_inf) {
    std::atomic<bool> found = false;
    Plan(tensors, count).run(parallel, [&](const Piece& piece) {
        if (found.load(std::memory_order_relaxed)) return;
        if (engine().any_nonfinite(tensors[piece.tensor], piece.begin, piece.end)) {
            found.store(true, std::memory_order_relaxed);
        }
    });
    *found_inf = found.load() ? 1.0f : 0.0f;
}

void grad_stats(const Span* tensors, int64_t count, bool count_zeros, const Parallel& parallel, StatsOut out) {
    const Plan plan(tensors, count);
    std::vector<ChunkStats> of_chunk(static_cast<size_t>(plan.chunks));
    plan.run(parallel, [&](const Piece& piece) {
        engine().grad_stats(tensors[piece.tensor], piece.begin, piece.end, count_zeros, &of_chunk[piece.chunk]);
    });
    add_up(tensors, count, of_chunk, out);
}

void unscale(const MutableSpan* tensors, int64_t count, float inv_scale, bool count_zeros, const Parallel& parallel,
             StatsOut out) {
    const Plan plan(tensors, count);
    std::vector<ChunkStats> of_chunk(static_cast<size_t>(plan.chunks));
    plan.run(parallel, [&](const Piece& piece) {
        engine().unscale(tensors[piece.tensor], piece.begin, piece.end, inv_scale, count_zeros, &of_chunk[piece.chunk]);
    });
    add_up(tensors, count, of_chunk, out);
}

void scale_update(LossScalePointers state, const float* found_inf, LossScalePolicy policy) {
    const LossScale before = {*state.scale, *state.growth_tracker, *state.hysteresis_tracker, *state.skipped_steps};
    const LossScale after = advance(before, *found_inf != 0.0f, policy);
    *state.scale = after.scale;
    *state.growth_tracker = after.growth_tracker;
    *state.hysteresis_tracker = after.hysteresis_tracker;
    *state.skipped_steps = after.skipped_steps;
}

}  // namespace halfops::scale::cpu
