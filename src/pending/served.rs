//! Tells whether the server has ever answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::Config;

/// A shared flag: the server has answered at least once. `Http` sets the flag. An answer with status 5xx does not
/// count, because a proxy may have sent it.
#[derive(Clone)]
pub(crate) struct Served {
    served: Arc<AtomicBool>,
    config: Arc<Config>,
}

impl Served {
    pub(crate) fn new(served: Arc<AtomicBool>, config: Arc<Config>) -> Self {
        Served { served, config }
    }

    /// Returns true if the server has answered.
    pub(crate) fn yet(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    /// The base URL of the server.
    pub(crate) fn by(&self) -> &str {
        &self.config.base_url
    }
}
