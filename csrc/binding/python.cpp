// Ten thousand identity comparisons a step: 3 ms as Python code, a twentieth of that here. CPython's limited API only.
//
// Nothing below runs Python code while it walks (identity is compared, not equality), so nothing changes underneath.
#include "binding/python.h"

namespace halfops::binding {
namespace {

// Every key and value of a dictionary of dictionaries, in order: see(object) -> whether to go on. An entry that is no
// dictionary counts as a whole.
template <class See>
bool walk_entries(PyObject* state, const See& see) {
    PyObject *key, *entry, *name, *value;
    Py_ssize_t outer = 0;
    while (PyDict_Next(state, &outer, &key, &entry)) {
        if (!see(key)) return false;
        if (!PyDict_Check(entry)) {
            if (!see(entry)) return false;
            continue;
        }
        Py_ssize_t inner = 0;
        while (PyDict_Next(entry, &inner, &name, &value)) {
            if (!see(name) || !see(value)) return false;
        }
    }
    return true;
}

// Every item of some lists, in order. Tuples do as well.
template <class See>
bool walk_items(PyObject* lists, const See& see) {
    const Py_ssize_t count = PyList_Size(lists);
    for (Py_ssize_t i = 0; i < count; ++i) {
        PyObject* list = PyList_GetItem(lists, i);
        const bool tuple = PyTuple_Check(list) != 0;
        const Py_ssize_t size = tuple ? PyTuple_Size(list) : PyList_Size(list);
        for (Py_ssize_t k = 0; k < size; ++k) {
            if (!see(tuple ? PyTuple_GetItem(list, k) : PyList_GetItem(list, k))) return false;
        }
    }
    return true;
}

bool wanted_type(bool ok, const char* name, const char* wanted, PyObject* got) {
    if (!ok) PyErr_Format(PyExc_TypeError, "%s: got %R, wanted %s", name, got, wanted);
    return ok;
}

bool check_state(PyObject* state) {
    return wanted_type(PyDict_Check(state), "state", "a dict", reinterpret_cast<PyObject*>(Py_TYPE(state)));
}

bool check_lists(PyObject* lists) {
    if (!wanted_type(PyList_Check(lists), "lists", "a list", reinterpret_cast<PyObject*>(Py_TYPE(lists)))) return false;
    for (Py_ssize_t i = 0; i < PyList_Size(lists); ++i) {
        PyObject* list = PyList_GetItem(lists, i);
        const bool ok = PyList_Check(list) || PyTuple_Check(list);
        if (!wanted_type(ok, "lists", "lists or tuples in it", reinterpret_cast<PyObject*>(Py_TYPE(list)))) {
            return false;
        }
    }
    return true;
}

template <class Walk>
PyObject* collect(const Walk& walk) {
    PyObject* list = PyList_New(0);
    if (list == nullptr) return nullptr;
    const bool complete = walk([&](PyObject* each) { return PyList_Append(list, each) == 0; });
    PyObject* tuple = complete ? PyList_AsTuple(list) : nullptr;
    Py_DECREF(list);
    return tuple;
}

template <class Walk>
PyObject* compare(PyObject* remembered, const Walk& walk) {
    const Py_ssize_t size = PyTuple_Size(remembered);
    Py_ssize_t at = 0;
    const bool same = walk([&](PyObject* each) { return at < size && PyTuple_GetItem(remembered, at++) == each; });
    return PyBool_FromLong(same && at == size);
}

bool two_arguments(PyObject* arguments, PyObject** first, PyObject** remembered) {
    if (!PyArg_ParseTuple(arguments, "OO", first, remembered)) return false;
    return wanted_type(PyTuple_Check(*remembered), "remembered", "a tuple",
                       reinterpret_cast<PyObject*>(Py_TYPE(*remembered)));
}

PyObject* entries(PyObject*, PyObject* state) {
    if (!check_state(state)) return nullptr;
    return collect([&](const auto& see) { return walk_entries(state, see); });
}

PyObject* same_entries(PyObject*, PyObject* arguments) {
    PyObject *state, *remembered;
    if (!two_arguments(arguments, &state, &remembered) || !check_state(state)) return nullptr;
    return compare(remembered, [&](const auto& see) { return walk_entries(state, see); });
}

PyObject* items(PyObject*, PyObject* lists) {
    if (!check_lists(lists)) return nullptr;
    return collect([&](const auto& see) { return walk_items(lists, see); });
}

PyObject* same_items(PyObject*, PyObject* arguments) {
    PyObject *lists, *remembered;
    if (!two_arguments(arguments, &lists, &remembered) || !check_lists(lists)) return nullptr;
    return compare(remembered, [&](const auto& see) { return walk_items(lists, see); });
}

}  // namespace

PyMethodDef python_functions[] = {
    {"entries", entries, METH_O, "All keys and values of a dict of dicts as one tuple, in order."},
    {"same_entries", same_entries, METH_VARARGS, "Whether entries(state) would be the very objects of a tuple."},
    {"items", items, METH_O, "All items of a list of lists as one tuple, in order."},
    {"same_items", same_items, METH_VARARGS, "Whether items(lists) would be the very objects of a tuple."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace halfops::binding
