//! `tinkex auth login`.

use tinkex::credentials::{CredentialStore, StoredKey};
use tinkex::types::ApiKeyInfo;
use tinkex::{ErrorKind, report_json};

use super::{CONSOLE, is_of_service, note_environment, secret_input};
use crate::connection::App;
use crate::failure::Failure;

/// Id of a key whose id the server does not tell.
const UNKNOWN_ID: &str = "default";

pub(super) fn run(app: &App) -> Result<(), Failure> {
    let store = CredentialStore::of_user()?;
    let mut stored = store.load()?;
    if stored.default_key().is_some() {
        return Err(Failure::text("already logged in").with_remedy("`tinkex auth logout` first"));
    }
    if is_of_service(app) {
        app.hint(&format!("Create an API key: {CONSOLE}"));
    }
    let key = secret_input::read("API key: ")?;
    let connection = app.connect_with(|builder| builder.api_key(&key))?;
    let info = match connection.service.create_rest_client().get_api_key_info() {
        Ok(info) => info,
        // Servers other than the service do not describe keys.
        Err(error) if matches!(error.kind(), ErrorKind::Incompatible | ErrorKind::NotFound) => {
            connection.service.create_rest_client().get_server_capabilities()?;
            ApiKeyInfo::default()
        }
        Err(error) if matches!(error.kind(), ErrorKind::Auth | ErrorKind::Permission) => {
            return Err(Failure::from(error).with_remedy(if is_of_service(app) {
                format!("a key from {CONSOLE}")
            } else {
                "a key that this server knows; its operator gives one".to_owned()
            }));
        }
        Err(error) => return Err(error.into()),
    };
    let json = report_json::api_key(&info);
    let id = info.key_id.map_or_else(|| UNKNOWN_ID.to_owned(), |it| it.to_string());
    let mut entry = StoredKey::new(key).detailed(json["details"].clone());
    if let Some(name) = &info.name {
        entry = entry.named(name);
    }
    if let Some(note) = &info.note {
        entry = entry.noted(note);
    }
    stored.insert(&id, entry);
    stored.set_default(&id);
    store.save(&stored)?;
    app.out.value(&json, || text(&info))?;
    note_environment(app);
    Ok(())
}

fn text(info: &ApiKeyInfo) -> String {
    let user = info.details.user_details.get("email");
    let organization = info.details.org_details.get("name");
    let who = match (user, organization) {
        (Some(user), Some(organization)) => format!("Logged in as {user} ({organization}). "),
        (Some(name), None) | (None, Some(name)) => format!("Logged in as {name}. "),
        (None, None) => String::new(),
    };
    let name = info.name.as_ref().map(|name| format!(" '{name}'")).unwrap_or_default();
    format!("{who}Stored API key{name} as the default credential.")
}
