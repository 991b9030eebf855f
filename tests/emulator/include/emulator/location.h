// Where in a kernel an operation stands: every function of the emulator takes it as a default argument, so that an
// error can name the line although the kernel does not pass any.
#pragma once

#include <source_location>

namespace emulator {

using Location = std::source_location;

}  // namespace emulator
