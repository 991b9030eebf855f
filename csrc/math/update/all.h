// Every optimizer rule. A new one is a header beside these and one name in the list at the end.
//
// A rule has: kName; kHyperNames, the columns of its hyper-parameters in the order of its Hyper (all doubles, flags are
// 0 or 1); kStateNames, its fp32 moments; prepare(), once per tensor and step, in double; apply(), once per element, of
// the gradient as it came (scaled), the fp32 weight and the moments. A rule that needs the norms of weight and update
// says kNeedsNorms and has measure() and with_norms() (lamb.h).
#pragma once

#include <cstdint>

#include "math/update/adam.h"
#include "math/update/lamb.h"
#include "math/update/lion.h"
#include "math/update/sgd.h"

namespace halfops::update {

template <class... Rules>
struct RuleList {};

template <class Rule, class = void>
inline constexpr bool kNeedsNorms = false;
template <class Rule>
inline constexpr bool kNeedsNorms<Rule, decltype(static_cast<void>(Rule::kNeedsNorms))> = Rule::kNeedsNorms;

template <class Rule>
inline constexpr int kHypers = static_cast<int>(sizeof(Rule::kHyperNames) / sizeof(Rule::kHyperNames[0]));

inline constexpr int kMaxStates = 2;

using AllRules = RuleList<AdamW, Adam, Sgd, SgdMomentum, Lion, Lamb>;

}  // namespace halfops::update
