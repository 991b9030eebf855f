#include "scale/scale_cpu.h"

#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "core/cpu_variant.h"
#include "core/shape.h"

namespace halfops::scale::cpu {
namespace {

constexpr int64_t kPiece = 1 << 16;  // elements; a sum's pieces are added up in order, so this is part of its value

const CpuEngine& engine() {
#if defined(__x86_64__)
    return pick(&kPortable, &kAvx2, &kAvx512);
#else
    return kPortable;
#endif
}

struct Piece {
    int64_t tensor, begin, end;
};

// Every tensor cut into pieces, and the pieces cut into tasks of about kPiece elements: one parallel region serves the
// whole list, and thousands of tiny tensors are as well balanced as a large one.
struct Plan {
    std::vector<Piece> pieces;
    std::vector<int64_t> tasks;  // first piece of each, and the end

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
                pieces.push_back({t, begin, end});
            }
        }
        tasks.push_back(static_cast<int64_t>(pieces.size()));
    }

    template <class F>
    void run(const Parallel& parallel, const F& each) const {
        parallel(static_cast<int64_t>(tasks.size()) - 1, 1, [&](int64_t begin, int64_t end) {
            for (int64_t p = tasks[begin]; p < tasks[end]; ++p) each(p, pieces[p]);
        });
    }
};

double one_nan(double sum) { return std::isnan(sum) ? std::numeric_limits<double>::quiet_NaN() : sum; }

void add_up(const Plan& plan, const std::vector<PieceStats>& of_piece, int64_t count, StatsOut out) {
    double total = 0;
    size_t p = 0;
    for (int64_t t = 0; t < count; ++t) {
        double sum = 0;
        int64_t zeros = 0;
        for (; p < plan.pieces.size() && plan.pieces[p].tensor == t; ++p) {
            sum += of_piece[p].sum_of_squares;
            zeros += of_piece[p].zeros;
        }
        double* row = out.per_tensor + 3 * t;
        row[0] = one_nan(sum);
        row[1] = std::isfinite(sum) ? 0.0 : 1.0;
        row[2] = static_cast<double>(zeros);
        total += sum;
    }
    *out.sum_of_squares = one_nan(total);
    *out.found_inf = std::isfinite(total) ? 0.0f : 1.0f;
}

}  // namespace

void nonfinite_check(const Span* tensors, int64_t count, const Parallel& parallel, float* found_inf) {
    std::atomic<bool> found = false;
    Plan(tensors, count).run(parallel, [&](int64_t, const Piece& piece) {
        if (found.load(std::memory_order_relaxed)) return;
        if (engine().any_nonfinite(tensors[piece.tensor], piece.begin, piece.end)) {
            found.store(true, std::memory_order_relaxed);
        }
    });
    *found_inf = found.load() ? 1.0f : 0.0f;
}

void grad_stats(const Span* tensors, int64_t count, bool count_zeros, const Parallel& parallel, StatsOut out) {
    const Plan plan(tensors, count);
    std::vector<PieceStats> of_piece(plan.pieces.size());
    plan.run(parallel, [&](int64_t p, const Piece& piece) {
        of_piece[p] = engine().grad_stats(tensors[piece.tensor], piece.begin, piece.end, count_zeros);
    });
    add_up(plan, of_piece, count, out);
}

void unscale(const MutableSpan* tensors, int64_t count, float inv_scale, bool count_zeros, const Parallel& parallel,
             StatsOut out) {
    const Plan plan(tensors, count);
    std::vector<PieceStats> of_piece(plan.pieces.size());
    plan.run(parallel, [&](int64_t p, const Piece& piece) {
        of_piece[p] = engine().unscale(tensors[piece.tensor], piece.begin, piece.end, inv_scale, count_zeros);
    });
    add_up(plan, of_piece, count, out);
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
