//! Data sets: from files to training examples in batches.
