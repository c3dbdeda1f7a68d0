//! The project of `--project`, when nothing in it is found.

use std::collections::BTreeSet;
use std::env::VarError;
use std::time::Duration;

use tinkex::RestClient;
use tinkex::types::{SessionOwner, SessionSearch};

use super::connection::App;
use super::failure::Failure;
use super::logger;
use super::shell_word::quoted;

const VARIABLE: &str = "TINKER_PROJECT_ID";

/// Reads the id of a project. A blank one, such as that of a variable that is not set, would mean all projects.
pub(crate) fn parse(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("the id is blank") } else { Ok(text.to_owned()) }
}

/// The project of the environment.
pub(crate) fn of_environment() -> Result<Option<String>, Failure> {
    match std::env::var(VARIABLE) {
        Ok(project) => Ok(Some(project).filter(|project| !project.trim().is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => {
            Err(Failure::usage(format!("{VARIABLE} is not UTF-8")).with_remedy("--project with the id"))
        }
    }
}

/// Sessions whose projects are looked at.
const LOOKED_AT: u32 = 200;

/// Time for a question whose answer is only of help.
const LIMIT: Duration = Duration::from_secs(10);

/// Says that a list is empty because of the project, whose id may be mistyped: servers do not tell that. The projects that
/// are known are those of the user's sessions.
pub(crate) fn note_if_empty(is_empty: bool, what: &str, rest: &RestClient, app: &App) {
    let Some(project) = app.global.project.as_deref().filter(|_| is_empty) else { return };
    app.note(&note(project, what, &known(rest)));
}

/// The projects of the user's sessions.
fn known(rest: &RestClient) -> BTreeSet<String> {
    let search = SessionSearch { owner: SessionOwner::Own, limit: LOOKED_AT, ..Default::default() };
    let most = usize::try_from(LOOKED_AT).unwrap_or(usize::MAX);
    // A server without this search has nothing to tell.
    let sessions = rest.search_sessions(search).take(most).map_while(Result::ok);
    sessions.filter_map(|it| it.project_id).collect()
}

/// Remedy where a project is needed: names those that are known.
pub(crate) fn remedy(app: &App) -> String {
    // What this connection meets has nothing to do with the failure.
    let known = logger::silently(|| {
        let connection = app.connect_with(|it| it.timeouts(|it| it.operation = it.operation.min(LIMIT)));
        connection.map(|it| known(&it.service.create_rest_client())).unwrap_or_default()
    });
    let options: Vec<String> = known.iter().map(|id| format!("--project {}", quoted(id))).collect();
    match options.len() {
        0 => "--project with the id that the console shows, or the same in TINKER_PROJECT_ID".into(),
        1 => format!("{}, the project of your sessions", options[0]),
        _ => format!("{}: your sessions are in these", options.join(" or ")),
    }
}

fn note(project: &str, what: &str, known: &BTreeSet<String>) -> String {
    let others: Vec<&str> = known.iter().map(String::as_str).filter(|it| *it != project).collect();
    let known = match (known.contains(project), others.as_slice()) {
        (true, _) => "; it has sessions".to_owned(),
        (false, []) => String::new(),
        (false, others) => format!("; your sessions are in the projects {}", others.join(", ")),
    };
    format!("note: no {what} is in the project {project}{known}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_that_may_be_meant_are_named() {
        let known = |ids: &[&str]| ids.iter().map(|it| it.to_string()).collect::<BTreeSet<_>>();
        let of = |ids| note("p", "run", &known(ids));
        assert_eq!(of(&[]), "note: no run is in the project p");
        assert_eq!(
            of(&["a", "b"]),
            "note: no run is in the project p; your sessions are in the projects a, b"
        );
        assert_eq!(of(&["a", "p"]), "note: no run is in the project p; it has sessions");
    }
}
