//! Locks, queues and threads.
