#include "core/error.h"
#include "optim/optim.h"

namespace halfops::optim {
namespace {

template <class Rule>
RuleInfo info_of() {
    RuleInfo info{Rule::kName, {}, {}};
    for (const char* name : Rule::kHyperNames) info.hypers.push_back(name);
    for (int k = 0; k < Rule::kStates; ++k) info.states.push_back(Rule::kStateNames[k]);
    return info;
}

template <class... Rules>
std::vector<RuleInfo> infos_of(update::RuleList<Rules...>) {
    return {info_of<Rules>()...};
}

}  // namespace

const std::vector<RuleInfo>& rules() {
    static const std::vector<RuleInfo> all = infos_of(update::AllRules{});
    return all;
}

int rule_index(const std::string& name) {
    std::string known;
    for (size_t i = 0; i < rules().size(); ++i) {
        if (rules()[i].name == name) return static_cast<int>(i);
        known += (i == 0 ? "" : ", ") + rules()[i].name;
    }
    fail("rule: got '", name, "', wanted one of ", known);
}

}  // namespace halfops::optim
