//! A run that is resumed although all of its steps are done: what is there of it is told, and nothing is made on the server.

use std::path::Path;
use std::time::SystemTime;

use serde_json::{Map, Value};
use tinkex::ServiceClient;
use tinkex::train::{CheckpointLog, CheckpointRecord, MetricsLog};
use tinkex::types::Checkpoint;

use super::ending::Ending;
use super::job::{Job, Place, Planned};
use super::log::Log;
use super::plan::Cost;
use super::samples::Samples;
use super::saved::{self, Weights};
use super::settings::{Chosen, Settings};
use super::summary::Summary;
use super::{again, best, ending, folder, held_out, left, record};
use crate::examples::Encoder;
use crate::failure::Failure;
use crate::run_folder;

/// The final checkpoint of a resumed run all of whose steps are done. `--force-resume` looks for a state to go on with, as
/// if the run had been stopped.
pub(super) fn final_record(place: &Place, chosen: &Chosen) -> Option<CheckpointRecord> {
    let Place::Resumed { dir, force: false, .. } = place else { return None };
    let log = CheckpointLog::open(dir).ok()?;
    let record = log.last_resumable().filter(|it| it.is_final && it.next_batch == Some(chosen.n_steps))?;
    Some(record.clone())
}

/// Refuses a finished run whose list of checkpoints is gone: it would be trained from the first step, as one that has not
/// saved anything.
pub(super) fn check_log(place: &Place) -> Result<(), Failure> {
    let Place::Resumed { dir, config, force: false, .. } = place else { return Ok(()) };
    let status = config.get(record::OWN).and_then(|own| own.get("status")).and_then(Value::as_str);
    if status != Some("finished") || !CheckpointLog::open(dir)?.records().is_empty() {
        return Ok(());
    }
    let log = dir.join(run_folder::LOG);
    Err(Failure::text(format!(
        "{}: the run is finished, but {} has no checkpoint",
        dir.display(),
        log.display()
    ))
    .with_remedy(format!(
        "put that file back, or `{}` trains from step 1 on",
        again::command(&[], &["--force-resume"])
    )))
}

/// The parts of a finished run that the server still has.
pub(super) struct Found {
    records: Vec<CheckpointRecord>,
    there: Vec<Checkpoint>,
    pub(super) weights: Weights,
}

/// Refuses a finished run of whose final checkpoint, `last`, nothing is there.
pub(super) fn check(
    dir: &Path,
    last: &CheckpointRecord,
    settings: &Settings,
    service: &ServiceClient,
) -> Result<Found, Failure> {
    let records = CheckpointLog::open(dir)?.records().to_vec();
    let there = saved::there(service, &records)?;
    let weights = match &there {
        Some(there) => Weights::found(last, there),
        None => Weights::new(last, &settings.final_ttl.text),
    };
    let there = there.unwrap_or_default();
    if weights.state.is_none() && weights.sampler.is_none() {
        let is_there = |record: &&CheckpointRecord| {
            let path = record.state_path.as_ref().map(ToString::to_string);
            path.is_some_and(|path| there.iter().any(|it| it.tinker_path == path))
        };
        return Err(gone(dir, &weights, records.iter().rev().find(is_there)));
    }
    Ok(Found { records, there, weights })
}

/// Tells the end of the run once more, after asking the server what it still has.
pub(super) fn tell(
    job: &Job,
    planned: Planned,
    last: &CheckpointRecord,
    service: &ServiceClient,
    encoder: &Encoder,
) -> Result<(), Failure> {
    let Place::Resumed { dir, config: old, .. } = &job.place else { return Ok(()) };
    let settings = &job.settings;
    let Found { records, there, weights } = check(dir, last, settings, service)?;
    let Planned { data, chosen, cost, config, prompts, remarks, .. } = planned;
    let n_steps = chosen.n_steps;
    let log = Log::open(dir, &job.app)?;
    remarks.iter().for_each(|remark| log.say(remark));
    log.say(&format!("run     {}, all steps are done: step {n_steps} of {n_steps}", dir.display()));
    let sizes = saved::sizes_of(&there);
    if let (Some(prompts), Some(_), Some(path)) = (prompts, &weights.sampler, &last.sampler_path) {
        let samples = Samples::new(prompts, dir.join("samples.jsonl"));
        if !samples.has(n_steps) {
            samples.add(n_steps, &service.create_sampling_client(path)?, encoder)?;
        }
    }
    finish_config(dir, old, config, n_steps)?;
    let summary = Summary::of_rows(dir)?;
    let ending = Ending {
        folder: dir,
        settings,
        chosen: &chosen,
        summary: &summary,
        weights: &weights,
        best: best::pick(&records, &summary.tests, &sizes),
        held_out: held_out::commands(&job.given, settings, dir)
            .filter(|_| weights.sampler.is_some() && !data.test.is_empty()),
        prompt: data.facts.prompt.as_ref(),
        monthly_usd: match cost {
            Cost::Known(_) | Cost::Unknown => saved::monthly_usd(service, last, &sizes),
            Cost::Free => None,
        },
    };
    ending::tell(&job.app, &ending, &log)
}

/// The failure of a run whose final checkpoint was deleted or has expired. `earlier` is the newest one that is there.
fn gone(dir: &Path, weights: &Weights, earlier: Option<&CheckpointRecord>) -> Failure {
    let path = weights.gone.last().map(String::as_str).unwrap_or_default();
    Failure::missing(format!(
        "{}: all steps are done, and the final checkpoint was deleted or has expired: {path} does not exist",
        dir.display()
    ))
    .with_remedy(left::remedy(dir, earlier))
}

/// A process that was killed after it had saved the final checkpoint could not record that the run is finished.
fn finish_config(
    dir: &Path,
    old: &Map<String, Value>,
    mut config: Map<String, Value>,
    n_steps: u64,
) -> Result<(), Failure> {
    let own = |name: &str| old.get(record::OWN).and_then(|own| own.get(name));
    if own("status").and_then(Value::as_str) == Some("finished") {
        return Ok(());
    }
    if let Some(own) = config.get_mut(record::OWN) {
        own["status"] = "finished".into();
        own["ended"] = folder::date_time(SystemTime::now()).into();
    }
    Ok(MetricsLog::open(dir, n_steps)?.write_config(&Value::Object(config))?)
}
