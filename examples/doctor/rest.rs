//! Lists, checkpoints, sessions and the account.
//!
//! `revoke_api_key` is not tried: it would end the key with which everything else is asked.

use tinkex::types::{AccessScope, CopyOptions, ExternalPath, SessionSearch, Ttl};

use super::patient::{Found, Patient, Trouble, fine, told, wrong};
use super::training::ONE_HOUR;
use super::{Check, endpoint, probe};

/// The name of a project that nobody has.
pub(super) const NO_PROJECT: &str = "doctor-no-such-project";

pub(super) fn checks() -> Vec<Check> {
    vec![
        endpoint("healthz", |it| told(it.rest.healthz()?)),
        endpoint("RestClient.get_server_capabilities", |it| {
            it.rest.get_server_capabilities()?;
            fine()
        }),
        endpoint("get_api_key_info", |it| {
            it.rest.get_api_key_info()?;
            fine()
        }),
        endpoint("whoami", |it| {
            it.rest.whoami()?;
            fine()
        }),
        endpoint("list_training_runs", |it| {
            let page = it.rest.list_training_runs().first_page()?;
            told(format!("{} on the first page", page.items.len()))
        }),
        endpoint("list_training_runs, page by page", |it| {
            let first = it.rest.list_training_runs().page(1, 0)?;
            match first.items.len() {
                0 | 1 => {
                    it.rest.list_training_runs().page_size(2).take(5).collect::<Result<Vec<_>, _>>()?;
                    fine()
                }
                n => told(format!("a page of 1 has {n} entries")),
            }
        }),
        endpoint("access_scope", |it| {
            it.rest.clone().access_scope(AccessScope::Accessible).list_training_runs().page(1, 0)?;
            fine()
        }),
        endpoint("get_training_run", |it| {
            let id = it.training()?.model_id().to_string();
            let run = it.rest.get_training_run(&id)?;
            same("run", &id, &run.training_run_id)
        }),
        endpoint("get_training_run_by_tinker_path", |it| {
            it.rest.get_training_run_by_tinker_path(&it.state()?)?;
            fine()
        }),
        endpoint("get_weights_info_by_tinker_path", |it| {
            let info = it.rest.get_weights_info_by_tinker_path(&it.state()?)?;
            told(info.base_model.unwrap_or_default())
        }),
        endpoint("get_sampler", |it| {
            let sampler = it.sampling()?;
            let known = it.rest.get_sampler(sampler.sampling_session_id())?;
            told(known.base_model.unwrap_or_default())
        }),
        endpoint("list_checkpoints", |it| {
            let path = it.state()?;
            let listed = it.rest.list_checkpoints(path.run_id())?;
            match listed.iter().any(|it| it.path().is_ok_and(|it| it.name() == path.name())) {
                true => told(format!("{} checkpoints", listed.len())),
                false => wrong(format!("{path} is not among the {} that are listed", listed.len())),
            }
        }),
        endpoint("list_user_checkpoints", |it| {
            it.rest.list_user_checkpoints().first_page()?;
            fine()
        }),
        endpoint("keep_last", |it| {
            let plan = it.rest.keep_last(it.state()?.run_id(), 1)?;
            told(format!("would delete {}", plan.delete.len()))
        }),
        endpoint("set_checkpoint_ttl_from_tinker_path", |it| {
            let path = it.state()?;
            it.rest.set_checkpoint_ttl_from_tinker_path(&path, ONE_HOUR)?;
            it.rest.set_checkpoint_ttl_from_tinker_path(&path, Ttl::Never)?;
            fine()
        }),
        endpoint("publish_checkpoint_from_tinker_path", |it| {
            it.rest.publish_checkpoint_from_tinker_path(&it.state()?)?;
            it.made().published = true;
            fine()
        }),
        endpoint("unpublish_checkpoint_from_tinker_path", |it| {
            if !it.made().published {
                return Err(Trouble::Needs("publish_checkpoint_from_tinker_path"));
            }
            it.rest.unpublish_checkpoint_from_tinker_path(&it.state()?)?;
            fine()
        }),
        endpoint("get_checkpoint_archive_url", |it| {
            it.rest.get_checkpoint_archive_url(&it.weights()?)?;
            fine()
        }),
        probe("get_external_weights_urls", |it| {
            let path = format!("tinker://{}/external_weights/doctor-none", it.state()?.run_id());
            it.rest.get_external_weights_urls(&path.parse::<ExternalPath>()?)?;
            fine()
        }),
        probe("copy_weights", |it| {
            let destination_project_id = Some(NO_PROJECT.into());
            let options = CopyOptions { destination_project_id, ttl: ONE_HOUR, ..Default::default() };
            let copy = it.rest.copy_weights(&it.weights()?, &options)?;
            // Last to be deleted: a server that copies into any project may not have it.
            it.made().litter.insert(0, copy);
            told("into a project that does not exist")
        }),
        endpoint("list_sessions", |it| {
            let page = it.rest.list_sessions().first_page()?;
            told(format!("{} on the first page", page.items.len()))
        }),
        endpoint("get_session", |it| {
            it.rest.get_session(&some_session(it)?)?;
            fine()
        }),
        probe("assign_session_project", |it| {
            it.rest.assign_session_project("doctor-no-such-session", NO_PROJECT)?;
            fine()
        }),
        probe("export_session_trace", |it| {
            it.rest.export_session_trace("doctor-no-such-session")?;
            fine()
        }),
        endpoint("search_sessions", |it| {
            let search = SessionSearch { limit: 1, ..Default::default() };
            it.rest.search_sessions(search).page(None)?;
            fine()
        }),
    ]
}

/// Deletes what the other checks saved, by each of the verbs that can.
pub(super) fn cleaning() -> Vec<Check> {
    vec![
        endpoint("delete_checkpoint_from_tinker_path", |it| {
            let Some(path) = it.made().litter.pop() else { return nothing() };
            it.rest.delete_checkpoint_from_tinker_path(&path)?;
            fine()
        }),
        endpoint("delete_checkpoint", |it| {
            let Some(path) = it.made().litter.pop() else { return nothing() };
            it.rest.delete_checkpoint(path.run_id(), &path.checkpoint_id())?;
            fine()
        }),
        endpoint("delete_checkpoints", |it| {
            let paths = std::mem::take(&mut it.made().litter);
            if paths.is_empty() {
                return nothing();
            }
            let n = paths.len();
            let mut gone = 0;
            for (_, deleted) in it.rest.delete_checkpoints(paths) {
                match deleted {
                    Err(error) if error.http_status() == Some(404) && gone + 1 < n => gone += 1,
                    other => other?,
                }
            }
            told(format!("{} deleted", n - gone))
        }),
    ]
}

fn nothing() -> Found {
    Err(Trouble::Needs("save_state"))
}

fn same(what: &str, asked: &str, got: &str) -> Found {
    match asked == got {
        true => fine(),
        false => wrong(format!("asked for the {what} {asked}, got {got:?}")),
    }
}

/// A session that exists.
fn some_session(it: &Patient) -> Result<String, Trouble> {
    match it.rest.list_sessions().next() {
        Some(id) => Ok(id?),
        None => Err(Trouble::Wrong("this session is not listed".into())),
    }
}
