//! Connects an example to a service or to the built-in engine.

use std::path::PathBuf;

use tinkex::{Error, ServiceClient};

/// A connected service, and what it needs.
pub(crate) struct Connection {
    pub(crate) service: ServiceClient,
    /// The base model to train.
    pub(crate) base_model: String,
    /// Keeps the built-in engine alive.
    #[cfg(feature = "local")]
    _server: Option<tinkex::local::Server>,
}

/// The base model to train: `TINKEX_BASE_MODEL`, or the engine's small model.
pub(crate) fn base_model() -> String {
    std::env::var("TINKEX_BASE_MODEL").unwrap_or_else(|_| "tinkex/nano".into())
}

/// Connects to the service that `TINKER_BASE_URL` and `TINKER_API_KEY` set, with the base model `TINKEX_BASE_MODEL`.
/// Without these variables, starts the built-in engine with its own small model, which keeps its checkpoints in
/// `engine_folder`, or until it ends if that is `None`.
#[cfg_attr(not(feature = "local"), allow(unused_variables, reason = "only the engine has a folder"))]
pub(crate) fn connect(engine_folder: Option<PathBuf>) -> Result<Connection, Error> {
    let base_model = base_model();
    #[cfg(feature = "local")]
    if std::env::var_os("TINKER_BASE_URL").is_none() && std::env::var_os("TINKER_API_KEY").is_none() {
        let options = tinkex::local::Options { data_dir: engine_folder, ..Default::default() };
        let server = tinkex::local::Server::start(options)?;
        let service = ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
        return Ok(Connection { service, base_model, _server: Some(server) });
    }
    Ok(Connection {
        service: ServiceClient::builder().build()?,
        base_model,
        #[cfg(feature = "local")]
        _server: None,
    })
}
