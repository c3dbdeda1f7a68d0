//! Checks of the REST client: lists, checkpoints, sessions and the account.
//!
//! `revoke_api_key` has no check, because it would revoke the key that the other checks need.

use tinkex::types::{AccessScope, CopyOptions, ExternalPath, SessionSearch, Ttl};

use super::context::{Context, Found, Trouble, fine, note, wrong};
use super::training::ONE_HOUR;
use super::{Check, endpoint, probe};

/// Name of a project that does not exist.
pub(super) const NO_PROJECT: &str = "doctor-no-such-project";

pub(super) fn checks() -> Vec<Check> {
    vec![
        endpoint("healthz", |context| note(context.rest.healthz()?)),
        endpoint("RestClient.get_server_capabilities", |context| {
            context.rest.get_server_capabilities()?;
            fine()
        }),
        endpoint("get_api_key_info", |context| {
            context.rest.get_api_key_info()?;
            fine()
        }),
        endpoint("whoami", |context| {
            context.rest.whoami()?;
            fine()
        }),
        endpoint("list_training_runs", |context| {
            let page = context.rest.list_training_runs().first_page()?;
            note(format!("{} on the first page", page.items.len()))
        }),
        endpoint("list_training_runs, page by page", |context| {
            let first = context.rest.list_training_runs().page(1, 0)?;
            match first.items.len() {
                0 | 1 => {
                    context.rest.list_training_runs().page_size(2).take(5).collect::<Result<Vec<_>, _>>()?;
                    fine()
                }
                n => note(format!("a page of 1 has {n} entries")),
            }
        }),
        endpoint("access_scope", |context| {
            context.rest.clone().access_scope(AccessScope::Accessible).list_training_runs().page(1, 0)?;
            fine()
        }),
        endpoint("get_training_run", |context| {
            let id = context.training()?.model_id().to_string();
            let run = context.rest.get_training_run(&id)?;
            same("run", &id, &run.training_run_id)
        }),
        endpoint("get_training_run_by_tinker_path", |context| {
            context.rest.get_training_run_by_tinker_path(&context.state()?)?;
            fine()
        }),
        endpoint("get_weights_info_by_tinker_path", |context| {
            let info = context.rest.get_weights_info_by_tinker_path(&context.state()?)?;
            note(info.base_model.unwrap_or_default())
        }),
        endpoint("get_sampler", |context| {
            let sampler = context.sampling()?;
            let known = context.rest.get_sampler(sampler.sampling_session_id())?;
            note(known.base_model.unwrap_or_default())
        }),
        endpoint("list_checkpoints", |context| {
            let path = context.state()?;
            let listed = context.rest.list_checkpoints(path.run_id())?;
            if listed.iter().any(|checkpoint| checkpoint.path().is_ok_and(|it| it.name() == path.name())) {
                note(format!("{} checkpoints", listed.len()))
            } else {
                wrong(format!("{path} is not among the {} listed checkpoints", listed.len()))
            }
        }),
        endpoint("list_user_checkpoints", |context| {
            context.rest.list_user_checkpoints().first_page()?;
            fine()
        }),
        endpoint("keep_last", |context| {
            let plan = context.rest.keep_last(context.state()?.run_id(), 1)?;
            note(format!("would delete {}", plan.delete.len()))
        }),
        endpoint("set_checkpoint_ttl_from_tinker_path", |context| {
            let path = context.state()?;
            context.rest.set_checkpoint_ttl_from_tinker_path(&path, ONE_HOUR)?;
            context.rest.set_checkpoint_ttl_from_tinker_path(&path, Ttl::Never)?;
            fine()
        }),
        endpoint("publish_checkpoint_from_tinker_path", |context| {
            context.rest.publish_checkpoint_from_tinker_path(&context.state()?)?;
            context.made().published = true;
            fine()
        }),
        endpoint("unpublish_checkpoint_from_tinker_path", |context| {
            if !context.made().published {
                return Err(Trouble::Needs("publish_checkpoint_from_tinker_path"));
            }
            context.rest.unpublish_checkpoint_from_tinker_path(&context.state()?)?;
            fine()
        }),
        endpoint("get_checkpoint_archive_url", |context| {
            context.rest.get_checkpoint_archive_url(&context.weights()?)?;
            fine()
        }),
        probe("get_external_weights_urls", |context| {
            let path = format!("tinker://{}/external_weights/doctor-none", context.state()?.run_id());
            context.rest.get_external_weights_urls(&path.parse::<ExternalPath>()?)?;
            fine()
        }),
        probe("copy_weights", |context| {
            let destination_project_id = Some(NO_PROJECT.into());
            let options = CopyOptions { destination_project_id, ttl: ONE_HOUR, ..Default::default() };
            let copy = context.rest.copy_weights(&context.weights()?, &options)?;
            // Insert at the front: the checks that delete one checkpoint take it from the end, and they would fail if
            // the server does not know the copy.
            context.made().to_delete.insert(0, copy);
            note("copied into a project that does not exist")
        }),
        endpoint("list_sessions", |context| {
            let page = context.rest.list_sessions().first_page()?;
            note(format!("{} on the first page", page.items.len()))
        }),
        endpoint("get_session", |context| {
            context.rest.get_session(&some_session(context)?)?;
            fine()
        }),
        probe("assign_session_project", |context| {
            context.rest.assign_session_project("doctor-no-such-session", NO_PROJECT)?;
            fine()
        }),
        probe("export_session_trace", |context| {
            context.rest.export_session_trace("doctor-no-such-session")?;
            fine()
        }),
        endpoint("search_sessions", |context| {
            let search = SessionSearch { limit: 1, ..Default::default() };
            context.rest.search_sessions(search).page(None)?;
            fine()
        }),
    ]
}

/// Checks of the methods that delete. They delete the checkpoints that the other checks saved.
pub(super) fn cleaning() -> Vec<Check> {
    vec![
        endpoint("delete_checkpoint_from_tinker_path", |context| {
            let Some(path) = context.made().to_delete.pop() else { return nothing_saved() };
            context.rest.delete_checkpoint_from_tinker_path(&path)?;
            fine()
        }),
        endpoint("delete_checkpoint", |context| {
            let Some(path) = context.made().to_delete.pop() else { return nothing_saved() };
            context.rest.delete_checkpoint(path.run_id(), &path.checkpoint_id())?;
            fine()
        }),
        endpoint("delete_checkpoints", |context| {
            let paths = std::mem::take(&mut context.made().to_delete);
            if paths.is_empty() {
                return nothing_saved();
            }
            let n = paths.len();
            let mut missing = 0;
            for (_, deleted) in context.rest.delete_checkpoints(paths) {
                match deleted {
                    Err(error) if error.http_status() == Some(404) && missing + 1 < n => missing += 1,
                    other => other?,
                }
            }
            note(format!("{} deleted", n - missing))
        }),
    ]
}

fn nothing_saved() -> Found {
    Err(Trouble::Needs("save_state"))
}

fn same(what: &str, requested: &str, got: &str) -> Found {
    if requested == got { fine() } else { wrong(format!("requested the {what} {requested}, got {got:?}")) }
}

/// The id of an existing session.
fn some_session(context: &Context) -> Result<String, Trouble> {
    match context.rest.list_sessions().next() {
        Some(id) => Ok(id?),
        None => Err(Trouble::Wrong("the list of sessions is empty".into())),
    }
}
