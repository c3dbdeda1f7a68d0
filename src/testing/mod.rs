//! Tools for tests of programs that use tinkex: a scripted server, in memory or over a real socket, and a clock that a
//! test can advance. Feature `testing`; may change in a minor version.
//!
//! # Example: a server that fails once
//! ```
//! use tinkex::testing::{Act, FakeServer};
//!
//! let server = FakeServer::new();
//! server.next("/api/v1/get_server_capabilities", Act::status(503, "busy"));
//! let service = server.in_memory().build()?;
//! assert_eq!(service.get_server_capabilities()?.supported_models.len(), 1);
//! assert_eq!(server.requests_to("/api/v1/get_server_capabilities").len(), 2);
//! # Ok::<(), tinkex::Error>(())
//! ```

mod answers;
#[doc(hidden)]
pub mod codecs;
mod fake;
mod memory;
mod records;
mod tcp;

pub use crate::sync::clock::{Clock, VirtualClock};
#[cfg(not(all(test, shuttle)))]
pub use crate::sync::spawn::RefusedThreads;
pub use fake::{Act, FakeServer, Seen};
pub use tcp::Listening;
