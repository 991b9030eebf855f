"""What nvcc made of the kernels: its report, PTX and SASS. `python -m cuda_code.report` in tests/ prints figures."""
