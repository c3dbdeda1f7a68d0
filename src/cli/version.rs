//! `tinkex version`.

use serde_json::json;

use super::connection::App;
use super::failure::Failure;

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn run(app: &App) -> Result<(), Failure> {
    app.out.value(&json!({ "name": "tinkex", "version": VERSION }), || format!("tinkex {VERSION}"))
}
