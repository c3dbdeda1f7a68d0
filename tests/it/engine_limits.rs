//! Limits of what a request can make the engine keep or compute.
