//! `tinkex session search`.

use std::collections::{BTreeMap, BTreeSet};

use tinkex::types::{
    FinishReason, FoundSession, SessionOwner, SessionPage, SessionSearch, SessionStatus, StatusFilter,
};
use tinkex::{RestClient, report_json};

use crate::cells::Cells;
use crate::connection::App;
use crate::failure::Failure;
use crate::limit::{self, Limit};
use crate::output::Records;
use crate::project;
use crate::table::Column;

/// Entries of a page.
const PAGE: u32 = 200;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only sessions with this name
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only the session with this id
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Only sessions with this metadata; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    metadata: Vec<(String, String)>,
    /// Only sessions with this status; may be given several times
    #[arg(long, value_name = "STATUS")]
    status: Vec<Status>,
    /// Owner: own, accessible, or the URN of a user; may be given several times
    #[arg(long, value_name = "OWNER", default_value = "own")]
    owner: Vec<String>,
    #[command(flatten)]
    limit: Limit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Status {
    Active,
    Cancelled,
    Failed,
    Finished,
    Success,
    Errored,
    Interrupted,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

pub(crate) fn run(args: &Args, app: &App) -> Result<(), Failure> {
    const COLUMNS: [Column; 8] = [
        Column::never_cut("Session ID"),
        DETAILS[0],
        DETAILS[1],
        DETAILS[2],
        DETAILS[3],
        Column::new("Size"),
        Column::spare("Project"),
        Column::spare("Owner"),
    ];
    let limit = args.limit.of(app.out.format());
    let search = args.search(app.global.project.as_deref(), limit)?;
    let connection = app.connect()?;
    let rest = connection.service.create_rest_client();
    let found = rest.search_sessions(search);
    let mut page = SessionPage::default();
    let has_more;
    (page.sessions, has_more) = limit::first(found, limit)?;
    let cells = Cells::of(app);
    let row = |it: &FoundSession| {
        let mut row = vec![it.session_id.clone()];
        row.extend(details(Some(it), cells));
        row.extend([
            cells.size(it.checkpoint_storage_bytes),
            cells.text(it.project_id.as_deref()),
            cells.text(it.owner.as_deref()),
        ]);
        row
    };
    let rows = page.sessions.iter().map(row).collect();
    let json = report_json::found_sessions(&page);
    app.out.records(&Records { columns: &COLUMNS, rows, json, list: "sessions" })?;
    project::note_if_empty(page.sessions.is_empty(), "such session", &rest, app);
    if has_more {
        app.note(&limit::note(page.sessions.len(), None, "sessions"));
    }
    Ok(())
}

/// The columns by which a person recognizes a session.
pub(super) const DETAILS: [Column; 4] =
    [Column::new("Name"), Column::new("Status"), Column::new("Created"), Column::new("Checkpoints")];

/// The cells of these columns.
pub(super) fn details(session: Option<&FoundSession>, cells: Cells) -> [String; 4] {
    [
        cells.text(session.and_then(|it| it.display_name.as_deref())),
        cells.text(session.and_then(|it| it.status.as_ref()).map(word)),
        cells.time(session.and_then(|it| it.created_at.as_ref())),
        cells.number(session.map(|it| it.checkpoints_count)),
    ]
}

/// The entries of the server's search about the newest sessions of the user, by their ids. A server without this search
/// has nothing to tell.
pub(super) fn known(ids: &[String], rest: &RestClient, app: &App) -> BTreeMap<String, FoundSession> {
    /// Sessions that may have begun since the ids were listed.
    const NEWER: usize = 20;
    if ids.is_empty() {
        return BTreeMap::new();
    }
    let wanted: BTreeSet<&String> = ids.iter().collect();
    let most = ids.len().saturating_add(NEWER);
    let search = SessionSearch { limit: limit::page_size(most, PAGE), ..Default::default() };
    let found = app.rest_briefly(rest).search_sessions(search).take(most).map_while(Result::ok);
    found.filter(|it| wanted.contains(&it.session_id)).map(|it| (it.session_id.clone(), it)).collect()
}

impl Args {
    fn search(&self, project: Option<&str>, limit: usize) -> Result<SessionSearch, Failure> {
        Ok(SessionSearch {
            session_id: self.id.clone(),
            project_ids: project.map(str::to_owned).into_iter().collect(),
            user_metadata: self.metadata.iter().cloned().collect(),
            display_name: self.name.clone(),
            owner: owner(&self.owner)?,
            statuses: statuses(&self.status),
            limit: limit::page_size(limit, PAGE),
        })
    }
}

fn owner(words: &[String]) -> Result<SessionOwner, Failure> {
    match words {
        [word] if word == "own" => Ok(SessionOwner::Own),
        [word] if word == "accessible" => Ok(SessionOwner::Accessible),
        urns if urns.iter().all(|it| it.contains(':')) => {
            Ok(SessionOwner::User { owner_urns: urns.to_vec() })
        }
        _ => Err(Failure::usage(format!("--owner is not valid: {}", words.join(" ")))
            .with_remedy("own, accessible, or URNs such as tml:user:1")),
    }
}

fn statuses(words: &[Status]) -> Vec<StatusFilter> {
    let mut reasons = Vec::new();
    let mut filters = Vec::new();
    for status in words {
        match status {
            Status::Active => filters.push(StatusFilter::Active),
            Status::Cancelled => filters.push(StatusFilter::Cancelled),
            Status::Failed => filters.push(StatusFilter::Failed),
            Status::Success => reasons.push(FinishReason::Success),
            Status::Errored => reasons.push(FinishReason::Errored),
            Status::Interrupted => reasons.push(FinishReason::Interrupted),
            Status::Finished => {}
        }
    }
    if words.contains(&Status::Finished) {
        // Without reasons: with any of them.
        filters.push(StatusFilter::ClientFinished { reasons: Vec::new() });
    } else if !reasons.is_empty() {
        filters.push(StatusFilter::ClientFinished { reasons });
    }
    filters
}

fn word(status: &SessionStatus) -> &str {
    match status {
        SessionStatus::Active => "active",
        SessionStatus::Cancelled { .. } => "cancelled",
        SessionStatus::ClientFinished { reason, .. } => reason.as_str(),
        SessionStatus::Failed { .. } => "failed",
        SessionStatus::Other(map) => map.get("type").and_then(|it| it.as_str()).unwrap_or_default(),
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_sessions_are_found_with_some_reasons_or_with_any() {
        let finished = |reasons| vec![StatusFilter::ClientFinished { reasons }];
        assert_eq!(statuses(&[]), []);
        assert_eq!(
            statuses(&[Status::Success, Status::Errored]),
            finished(vec![FinishReason::Success, FinishReason::Errored])
        );
        assert_eq!(statuses(&[Status::Success, Status::Finished]), finished(vec![]));
        assert_eq!(statuses(&[Status::Active, Status::Failed]), [StatusFilter::Active, StatusFilter::Failed]);
    }

    #[test]
    fn owners_are_words_or_urns() {
        let of = |words: &[&str]| owner(&words.iter().map(|it| it.to_string()).collect::<Vec<_>>()).ok();
        assert_eq!(of(&["own"]), Some(SessionOwner::Own));
        assert_eq!(of(&["accessible"]), Some(SessionOwner::Accessible));
        let urns = vec!["tml:user:1".to_owned(), "tml:user:2".to_owned()];
        assert_eq!(of(&["tml:user:1", "tml:user:2"]), Some(SessionOwner::User { owner_urns: urns }));
        assert_eq!((of(&["own", "accessible"]), of(&["me"])), (None, None));
    }
}
