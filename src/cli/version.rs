//! `tinkex version`.

use serde_json::json;

use super::connection::App;
use super::failure::Failure;

pub(crate) fn run(app: &App) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    app.out.value(&json!({ "version": version }), || format!("tinkex {version}"))
}
