//! `tinkex auth`.

mod login;
mod logout;
mod secret_input;

use std::time::Duration;

use serde_json::json;
use tinkex::report_json;

use super::cells::Cells;
use super::connection::App;
use super::doctor::credential_source;
use super::failure::Failure;

/// Page of the service where keys are created and deleted.
const CONSOLE: &str = "https://tinker.thinkingmachines.ai/keys";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Store an API key, which is read from the terminal or from stdin
    Login,
    /// Remove the stored API key
    Logout,
    /// Check whether there is a credential and whether the server accepts it
    Status,
    /// Show the user and the organization of the credential
    Whoami,
}

pub(crate) fn run(args: Args, app: &App) -> Result<(), Failure> {
    match args.command {
        Command::Login => login::run(app),
        Command::Logout => logout::run(app),
        Command::Status => status(app),
        Command::Whoami => whoami(app),
    }
}

/// True if the key is for the service, and not for a server that the user names.
fn is_of_service(app: &App) -> bool {
    let names_server = std::env::var_os("TINKER_BASE_URL").is_some_and(|it| !it.is_empty());
    app.global.base_url.is_none() && app.global.local.is_none() && !names_server
}

/// Says which variables of the environment are used instead of the stored key.
fn note_environment(app: &App) {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|it| !it.is_empty());
    for name in ["TINKER_API_KEY", "TINKER_CREDENTIAL_CMD"].iter().filter(|name| is_set(name)) {
        app.note(&format!("{name} is set and is used instead of the stored key"));
    }
}

/// The result is on stdout; a failure with its remedy follows on stderr.
fn status(app: &App) -> Result<(), Failure> {
    /// A server that does not answer for so long counts as not accessible.
    const LIMIT: Duration = Duration::from_secs(20);
    let limit = app.global.timeout.unwrap_or(LIMIT);
    let connection = app.connect_with(|builder| {
        builder.timeouts(|it| {
            (it.submit, it.exchange) = (limit, it.exchange.min(limit));
            (it.connect, it.first_contact) = (it.connect.min(limit), it.first_contact.min(limit));
        })
    });
    let has_credential = connection.is_ok();
    // A credential of the wrong form is there and cannot be used; the failure says why.
    let source = if has_credential { None } else { credential_source(&app.global) };
    let access = connection.and_then(|it| {
        it.service.create_rest_client().get_server_capabilities()?;
        Ok(())
    });
    let word = |yes: bool| if yes { "yes" } else { "no" };
    let mut json = json!({ "credentials_available": has_credential, "tinker_accessible": access.is_ok() });
    if let Some(source) = &source {
        json["unusable_credential"] = source.as_str().into();
    }
    app.out.value(&json, || {
        let credential = format!("Credentials available: {}", word(has_credential));
        if let Some(source) = &source {
            format!("{credential}; set, and not usable: {source}")
        } else if has_credential {
            format!("{credential}\nTinker accessible: {}", word(access.is_ok()))
        } else {
            credential
        }
    })?;
    access
}

fn whoami(app: &App) -> Result<(), Failure> {
    let connection = app.connect()?;
    let identity = connection.service.create_rest_client().whoami()?;
    let cells = Cells::of(app);
    let rows = vec![
        ("Email", cells.text(identity.email.as_deref())),
        ("User", identity.user_urn.clone()),
        ("Organization", cells.text(identity.org_urn.as_deref())),
    ];
    app.out.properties(rows, report_json::identity(&identity))
}
