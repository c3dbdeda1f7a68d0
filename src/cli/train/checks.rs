//! What keeps a run from beginning, or from going on as it began.

use serde_json::{Map, Value};
use tinkex::ServiceClient;
use tinkex::local::{Options, Server};
use tinkex::train::CheckpointLog;

use super::args::LossKind;
use super::job::{Job, Place};
use super::settings::{Chosen, NANO};
use super::{again, ending, folder, record};
use crate::counted::counted;
use crate::failure::Failure;
use crate::wording;

impl Job {
    /// The failure of reading the data of a run that were on stdin when it began.
    pub(super) fn explained(&self, failure: Failure) -> Failure {
        let Place::Resumed { dir, .. } = &self.place else { return failure };
        if failure.remedy().is_some() || !failure.summary().starts_with("stdin") {
            return failure;
        }
        let resume = ending::resume_command(dir);
        failure.with_remedy(format!("`{resume}`, with the data that the run has read from stdin"))
    }

    /// Refuses a reference for a loss that has none. A run of an earlier version may have one, and is resumed.
    pub(super) fn check_reference(&self, chosen: &Chosen) -> Result<(), Failure> {
        match (&self.settings.reference, &self.place, chosen.loss) {
            (Some(reference), Place::New { .. }, LossKind::Sft) => Err(Failure::usage(format!(
                "--reference {reference} is for --loss dpo: sft has no reference"
            ))
            .with_remedy("leave --reference out, or train on preference data")),
            _ => Ok(()),
        }
    }

    /// Lets an engine without a folder judge the form of the adapter, as that of the run would when it begins: a dry run
    /// leaves nothing in the folder of that one.
    pub(super) fn check_adapter(&self) -> Result<(), Failure> {
        let is_new = matches!(self.place, Place::New { .. }) && self.settings.from.is_none();
        if self.app.global.local.is_none() || !is_new || self.given.get("rank").is_none() {
            return Ok(());
        }
        let engine = Server::start(Options::default())?;
        wording::engine_is_at(engine.url());
        let client = ServiceClient::builder().no_proxy();
        let service = client.base_url(engine.url()).api_key(engine.api_key()).build()?;
        service.create_lora_training_client(NANO, self.settings.lora)?;
        Ok(())
    }

    /// The number of steps after which a resumed run goes on.
    pub(super) fn n_done(&self) -> u64 {
        let Place::Resumed { dir, .. } = &self.place else { return 0 };
        let log = CheckpointLog::open(dir).ok();
        log.and_then(|log| log.last_resumable()?.next_batch).unwrap_or(0)
    }

    /// Refuses a number of steps that is less than the `n_done` of which the state of a resumed run is made.
    pub(super) fn check_steps(&self, chosen: &Chosen, n_done: u64) -> Result<(), Failure> {
        if n_done <= chosen.n_steps {
            return Ok(());
        }
        let failure = Failure::usage(format!(
            "the run would have {}, and its last state is that after {n_done}",
            counted(chosen.n_steps, "step")
        ));
        let is_by_steps = self.settings.max_steps.is_some_and(|max| max < n_done);
        let command = if is_by_steps {
            again::command(&[again::MAX_STEPS], &["--max-steps", &n_done.to_string()])
        } else {
            let epochs = n_done.div_ceil(chosen.batches_per_epoch.max(1)).to_string();
            again::command(&[again::EPOCHS], &["--epochs", &epochs])
        };
        Err(failure.with_remedy(format!("`{command}` ends it there")))
    }

    /// Refuses to resume a run that would not go on as it began. Returns what differs all the same, in lines.
    pub(super) fn check_same(
        &self,
        config: &Map<String, Value>,
        chosen: &Chosen,
    ) -> Result<Vec<String>, Failure> {
        let Place::Resumed { dir, config: old, asked, force } = &self.place else { return Ok(Vec::new()) };
        let differences = record::differences(old, config);
        if !differences.is_empty() && !force {
            let text = format!("the run began with other settings:\n  {}", differences.join("\n  "));
            let as_begun = if record::can_go_on_as_begun(old, config) {
                format!("`{}` goes on with the files of the run; ", ending::resume_command(dir))
            } else {
                String::new()
            };
            let go_on = again::command(&[], &["--force-resume"]);
            let (config, out) = (dir.join("config.json"), folder::beside(dir));
            let (config, out) = (config.display().to_string(), out.display().to_string());
            let anew = again::command(
                &[again::RESUME, again::FORCE_RESUME, again::CONFIG],
                &["--config", &config, "--out", &out],
            );
            return Err(Failure::usage(text).with_remedy(format!(
                "{as_begun}`{go_on}` goes on all the same; `{anew}` begins a new run"
            )));
        }
        let mut remarks: Vec<String> = differences.iter().map(|it| format!("warning: {it}")).collect();
        let own = |object: &Map<String, Value>, name: &str| object.get(record::OWN)?.get(name)?.as_u64();
        let (was, is) = (own(old, "n_steps"), own(config, "n_steps"));
        if let (Some(was), Some(is)) = (was, is)
            && was != is
        {
            remarks.push(format!(
                "note: the run now has {is} steps, not {was}: from here on the learning rate follows the new number"
            ));
        }
        let is_asked = |name: &str| asked.get(name).is_some();
        if let Some(max) = self.settings.max_steps
            && was == is
            && is_asked("epochs")
            && !is_asked("max-steps")
            && max < chosen.epochs.saturating_mul(chosen.batches_per_epoch)
        {
            remarks.push(format!(
                "note: --epochs {} trains no further: the run has --max-steps {max}, and --max-steps {} would be all of them",
                chosen.epochs,
                chosen.epochs.saturating_mul(chosen.batches_per_epoch)
            ));
        }
        if self.app.global.local.is_some() && own(old, "threads") != own(config, "threads") {
            let text = "warning: another number of processors: the engine adds in another order, so that losses differ in their last digits";
            remarks.push(text.into());
        }
        Ok(remarks)
    }
}
