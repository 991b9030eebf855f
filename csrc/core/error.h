// Errors are sentences: what was asked for, what came, and the way out. Host only.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace halfops {

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    throw std::runtime_error(text.str());
}

template <class... Parts>
void check(bool ok, const Parts&... parts) {
    if (!ok) fail(parts...);
}

}  // namespace halfops
