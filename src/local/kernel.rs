//! Matrix kernels.
