// Where in a kernel an instruction stands: the emulator's errors name the kernel's line, not the wrapper's. A last,
// defaulted parameter of every wrapper that can be misused, and on a device nothing at all.
#pragma once

#if defined(HALFOPS_EMULATOR)
#include <source_location>

#define HALFOPS_ONLY_CALLED_FROM std::source_location where = std::source_location::current()
#define HALFOPS_CALLED_FROM , HALFOPS_ONLY_CALLED_FROM
#else
#define HALFOPS_ONLY_CALLED_FROM
#define HALFOPS_CALLED_FROM
#endif
