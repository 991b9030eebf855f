// The few functions of the extension module itself: walks over Python's own containers, which no op can do.
#pragma once

#include <Python.h>

namespace halfops::binding {

extern PyMethodDef python_functions[];

}  // namespace halfops::binding
