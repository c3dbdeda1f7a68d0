//! Whether the server has answered at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::Config;

/// Tells, now and later, whether the server itself has answered. The flag belongs to the `Http` that sets it.
#[derive(Clone)]
pub(crate) struct Served {
    served: Arc<AtomicBool>,
    config: Arc<Config>,
}

impl Served {
    pub(crate) fn new(served: Arc<AtomicBool>, config: Arc<Config>) -> Self {
        Served { served, config }
    }

    /// The server has answered.
    pub(crate) fn yet(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    /// The base URL of the server.
    pub(crate) fn by(&self) -> &str {
        &self.config.base_url
    }
}
