//! What a training program needs around the protocol.
