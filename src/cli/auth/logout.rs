//! `tinkex auth logout`.

use serde_json::json;
use tinkex::credentials::{CredentialStore, StoredKey};

use super::{CONSOLE, is_of_service};
use crate::connection::App;
use crate::failure::Failure;

/// Kind of the keys that older programs created on the server: nobody else knows them.
const GENERATED: &str = "generated";

pub(super) fn run(app: &App) -> Result<(), Failure> {
    let store = CredentialStore::of_user()?;
    let mut stored = store.load()?;
    let default = stored.default_id().map(str::to_owned);
    let Some((id, key)) = default.and_then(|id| stored.remove(&id).map(|key| (id, key))) else {
        return Err(Failure::text("no default credential is stored").with_remedy("`tinkex auth login`"));
    };
    store.save(&stored)?;
    let name = key.name().unwrap_or(&id).to_owned();
    let is_revoked = key.kind() == GENERATED && revoke(&key, &name, app);
    let json = json!({ "key_id": id, "name": key.name(), "revoked": is_revoked });
    app.out.value(&json, || {
        if is_revoked {
            format!("Removed credential '{name}' and deleted its API key on the server.")
        } else {
            format!("Removed credential '{name}'. The API key is still active.")
        }
    })?;
    if !is_revoked && is_of_service(app) {
        app.hint(&format!("Delete the API key: {CONSOLE}"));
    }
    Ok(())
}

/// Deletes the key on the server. A failure is only a note: the credential is removed already.
fn revoke(key: &StoredKey, name: &str, app: &App) -> bool {
    let revoked = app
        .connect_with(|builder| builder.api_key(key.key()))
        .and_then(|it| Ok(it.service.create_rest_client().revoke_api_key()?));
    if revoked.is_err() {
        app.note(&format!("could not delete the API key '{name}' on the server"));
    }
    revoked.is_ok()
}
