//! The state with which a resumed run goes on, and what is left of the run.

use std::path::Path;

use serde_json::{Value, json};
use tinkex::ServiceClient;
use tinkex::train::{CheckpointLog, CheckpointRecord};

use super::dataset::Dataset;
use super::plan::{Cost, Tokens, amount, usd};
use super::saved::Listed;
use super::settings::{Chosen, Settings};
use super::{again, folder};
use crate::counted::{count, counted};
use crate::failure::Failure;

/// The newest states of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    /// The newest one that is there.
    pub(super) state: Option<CheckpointRecord>,
    /// The newest one that was saved, if it is gone.
    gone: Option<CheckpointRecord>,
}

impl Origin {
    /// Asks the server for the states of a run until it has one. Without a server, the newest one counts as there.
    pub(super) fn of(dir: &Path, service: Option<&ServiceClient>) -> Result<Self, Failure> {
        let mut origin = Origin::default();
        let log = CheckpointLog::open(dir)?;
        // Many states may have expired: after the first one, lists tell of the others.
        let mut listed: Option<Listed> = None;
        for record in log.records().iter().rev() {
            let Some(path) = &record.state_path else { continue };
            // Another failure is not about the state: the run tells it when it begins.
            let asked = |service: &ServiceClient| {
                let info = service.create_rest_client().get_weights_info_by_tinker_path(path);
                info.is_err_and(|error| error.is_not_found())
            };
            let is_gone = service.is_some_and(|service| {
                let lists = origin.gone.is_some().then(|| {
                    listed.get_or_insert_with(|| Listed::of(service, log.records())).lacks(path.as_str())
                });
                lists.flatten().unwrap_or_else(|| asked(service))
            });
            if !is_gone {
                origin.state = Some(record.clone());
                break;
            }
            origin.gone.get_or_insert_with(|| record.clone());
        }
        Ok(origin)
    }

    /// The number of steps that are done.
    pub(super) fn n_done(&self) -> u64 {
        self.state.as_ref().and_then(|record| record.next_batch).unwrap_or(0)
    }

    /// Refuses to do steps again whose state was saved, and was deleted or has expired since, unless `force` is set. What
    /// a process did after its last save is done again without a question.
    pub(super) fn check(&self, dir: &Path, force: bool) -> Result<(), Failure> {
        let Some((record, path)) = self.gone.as_ref().and_then(|it| Some((it, it.state_path.as_ref()?)))
        else {
            return Ok(());
        };
        let n_saved = record.next_batch.unwrap_or(0);
        if self.state.is_some() && (force || n_saved <= self.n_done()) {
            return Ok(());
        }
        let saved = counted(n_saved, "step");
        Err(Failure::missing(format!(
            "{}: the state after {saved} was deleted or has expired: {path} does not exist",
            dir.display()
        ))
        .with_remedy(remedy(dir, self.state.as_ref())))
    }
}

/// Remedy for a run whose last state is gone. `earlier` is the newest one that is there.
pub(super) fn remedy(dir: &Path, earlier: Option<&CheckpointRecord>) -> String {
    if let Some(record) = earlier {
        return format!(
            "`{}` goes on after {}, with the newest state that is there",
            again::command(&[again::FORCE_RESUME], &["--force-resume"]),
            counted(record.next_batch.unwrap_or(0), "step")
        );
    }
    let (config, out) = (dir.join("config.json"), folder::beside(dir));
    let with = ["--config", &config.display().to_string(), "--out", &out.display().to_string()];
    format!("`{}` trains it once more", again::command(&[again::RESUME, again::FORCE_RESUME], &with))
}

/// The work that a resumed run still has.
#[derive(Clone, Debug)]
pub(super) struct Left {
    state: Option<String>,
    n_done: u64,
    n_steps: u64,
    /// The final checkpoint is saved.
    is_finished: bool,
    n_examples: u64,
    /// Without samples.
    tokens: Tokens,
    /// The price of the tokens if it is known.
    pub(super) usd: Option<f64>,
    is_free: bool,
}

impl Left {
    pub(super) fn of(
        origin: &Origin,
        is_finished: bool,
        settings: &Settings,
        chosen: &Chosen,
        data: &Dataset,
        cost: Cost,
    ) -> Result<Self, Failure> {
        let (n_examples, tokens) = if is_finished {
            (0, Tokens::default())
        } else {
            amount(settings, chosen, data, origin.n_done())?
        };
        Ok(Left {
            state: origin.state.as_ref().and_then(|it| Some(it.state_path.as_ref()?.to_string())),
            n_done: origin.n_done(),
            n_steps: chosen.n_steps,
            is_finished,
            n_examples,
            tokens,
            usd: cost.usd(tokens),
            is_free: cost == Cost::Free,
        })
    }

    /// The same for a run whose last state is gone.
    pub(super) fn without_state(self) -> Self {
        Left { state: None, ..self }
    }

    fn n_left(&self) -> u64 {
        self.n_steps.saturating_sub(self.n_done)
    }

    /// Lines of the plan.
    pub(super) fn lines(&self) -> Vec<String> {
        let Left { n_done, n_steps, .. } = self;
        let origin = match &self.state {
            Some(state) if self.is_finished => {
                format!("all steps are done: step {n_done} of {n_steps}, saved as {state}")
            }
            None if self.is_finished => format!("all steps are done: step {n_done} of {n_steps}"),
            Some(state) => format!("goes on after step {n_done} of {n_steps}, with {state}"),
            None => "begins again with step 1: no state was saved".into(),
        };
        let total = count(self.tokens.trained + self.tokens.prefilled);
        let left = match self.n_left() {
            _ if self.is_finished => "nothing".into(),
            0 => "no step: the final checkpoint is to be saved".into(),
            n => {
                let examples = counted(self.n_examples, "example");
                let price = match self.usd {
                    _ if self.is_free => ", free".into(),
                    Some(value) => format!(", about {}", usd(value)),
                    None => String::new(),
                };
                format!("{}, {examples}, {total} tokens{price}", counted(n, "step"))
            }
        };
        vec![format!("resume  {origin}"), format!("left    {left}")]
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "n_steps_done": self.n_done,
            "state_path": self.state,
            "is_finished": self.is_finished,
            "n_steps_left": self.n_left(),
            "n_examples_left": self.n_examples,
            "n_trained_tokens_left": self.tokens.trained,
            "n_prefill_tokens_left": self.tokens.prefilled,
            "usd_left": self.usd,
        })
    }
}
