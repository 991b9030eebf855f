// How a dynamic loss scale moves: up after a long clean run, down after an overflow.
//
// With hysteresis 1, no floor and no cap this is torch.amp.GradScaler's rule. Overflows are forgiven from a small
// credit: the scale backs off only once `hysteresis` of them have come since the last full growth interval of clean
// steps, and then at every further one. Clean steps alone do not renew the credit, so an overflow at every other step
// cannot go on for ever.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace halfops {

struct LossScale {
    float scale;
    int32_t growth_tracker;      // clean steps since the last overflow or growth
    int32_t hysteresis_tracker;  // overflows until the scale backs off; 0: it does so at the next one, too
    int64_t skipped_steps;       // overflows ever seen
};

struct LossScalePolicy {
    double growth_factor;   // > 1; a double, as torch's, so that 1.7 means the same in both
    double backoff_factor;  // in (0, 1)
    int32_t growth_interval;
    int32_t hysteresis;  // >= 1; 1 backs off at every overflow
    float min_scale;     // the floor of a back-off
    float max_scale;     // the cap of a growth
};

// A scale that was set outside [min_scale, max_scale] stays usable: it never moves further out, and never the wrong
// way. What would be no scale (0, infinity, NaN) is not taken, whatever the policy says.
HALFOPS_HD float usable_scale(float wanted, float current) {
    return wanted > 0.0f && !is_nonfinite(wanted) ? wanted : current;
}

HALFOPS_HD LossScale advance(LossScale state, bool overflowed, LossScalePolicy policy) {
    if (overflowed) {
        state.growth_tracker = 0;
        state.skipped_steps += 1;
        if (state.hysteresis_tracker > 0) state.hysteresis_tracker -= 1;
        if (state.hysteresis_tracker > 0) return state;
        const float floor = policy.min_scale < state.scale ? policy.min_scale : state.scale;
        const float lower = static_cast<float>(state.scale * policy.backoff_factor);
        state.scale = usable_scale(lower > floor ? lower : floor, state.scale);
        return state;
    }
    state.growth_tracker += 1;
    if (state.growth_tracker < policy.growth_interval) return state;
    const float cap = policy.max_scale > state.scale ? policy.max_scale : state.scale;
    const float higher = static_cast<float>(state.scale * policy.growth_factor);
    state.scale = usable_scale(higher < cap ? higher : cap, state.scale);
    state.growth_tracker = 0;
    state.hysteresis_tracker = policy.hysteresis;
    return state;
}

}  // namespace halfops
