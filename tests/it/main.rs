//! Integration tests.

mod engine_http;
