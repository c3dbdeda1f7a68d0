//! What is said at the end of a run.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::best::{self, Evaluation, Pick};
use super::log::Log;
use super::plan::usd;
use super::progress::clock;
use super::saved::Weights;
use super::settings::{Chosen, Settings};
use super::summary::Summary;
use crate::args::Progress;
use crate::connection::App;
use crate::counted::counted;
use crate::failure::Failure;
use crate::shell_word;

/// The command that continues a run, which reads the data again.
pub(crate) fn resume_command(folder: &Path) -> String {
    let command = format!("tinkex train --resume {}", quoted(&folder.display().to_string()));
    let config = super::record::read(folder).unwrap_or_default();
    let reads_stdin = ["data", "eval-data"]
        .iter()
        .filter_map(|name| config.get(*name))
        .any(|files| files == "-" || files.as_array().is_some_and(|all| all.iter().any(|file| file == "-")));
    if reads_stdin { command + " < FILE" } else { command }
}

/// A prompt of the data to try a model with.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Prompt {
    pub(super) text: String,
    /// It is sent as it is.
    pub(super) is_raw: bool,
    /// What the examples say before it: the model has not learned to answer without.
    pub(super) system: Option<String>,
}

impl Prompt {
    /// The arguments of `tinkex sample`, with a space before them.
    fn words(&self) -> String {
        let raw = if self.is_raw { " --raw" } else { "" };
        // The values may begin as options do, such as a list of rules.
        let system = self.system.as_deref().map(|it| format!(" --system={}", quoted(it)));
        let end = if self.text.starts_with('-') { " --" } else { "" };
        format!("{raw}{}{end} {}", system.unwrap_or_default(), quoted(&self.text))
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub(super) struct Ending<'a> {
    pub(super) folder: &'a Path,
    pub(super) settings: &'a Settings,
    pub(super) chosen: &'a Chosen,
    pub(super) summary: &'a Summary,
    /// What is there of the final checkpoint.
    pub(super) weights: &'a Weights,
    /// The checkpoint with the best evaluation, as far as is known.
    pub(super) best: Option<Pick<'a>>,
    /// Commands that evaluate on the lines that were held out.
    pub(super) held_out: Option<String>,
    /// A prompt to try.
    pub(super) prompt: Option<&'a Prompt>,
    pub(super) monthly_usd: Option<f64>,
}

/// Tells how a run ended, and writes its report.
pub(super) fn tell(app: &App, ending: &Ending<'_>, log: &Log) -> Result<(), Failure> {
    let report = ending.settings.report.then(|| write_report(ending.folder, log)).flatten();
    let lines = lines(app, ending, report.as_deref());
    for line in &lines {
        log.write(line);
    }
    if app.global.progress == Progress::Json {
        for line in &lines {
            app.note(line);
        }
        // After the rows of the steps, as one more line of JSON.
        return app.out.line(&to_json(ending, report.as_deref()).to_string());
    }
    app.out.value(&to_json(ending, report.as_deref()), || lines.join("\n"))
}

/// Writes the report. A run is not worse without one.
pub(super) fn write_report(folder: &Path, log: &Log) -> Option<PathBuf> {
    match crate::report::write(folder) {
        Ok(path) => Some(path),
        Err(failure) => {
            log.say(&format!("warning: no report: {}", failure.summary()));
            None
        }
    }
}

/// The lines at the end of a finished run.
fn lines(app: &App, ending: &Ending<'_>, report: Option<&Path>) -> Vec<String> {
    let Ending { chosen, summary, weights, prompt, monthly_usd, .. } = *ending;
    let totals = &summary.totals;
    let mut first = format!(
        "{} in {}, {} trained",
        counted(chosen.n_steps, "step"),
        clock(totals.seconds),
        counted(totals.tokens.trained, "token")
    );
    if 0.0 < totals.usd {
        first.push_str(&format!(", {}", usd(totals.usd)));
    }
    let mut lines = vec![first, losses(summary)];
    lines.extend(better_checkpoint(ending));
    lines.extend(weights.state.clone());
    if let Some(sampler) = &weights.sampler {
        lines.push(sampler.clone());
        let words = prompt.map_or_else(|| " PROMPT".into(), Prompt::words);
        lines.push(format!("tinkex sample -m {sampler}{}{words}", app.place()));
    }
    lines.extend(
        ending.held_out.as_ref().map(|commands| format!("evaluate on the held-out lines: {commands}")),
    );
    // Both are kept, and the state is the larger one.
    let saved: Vec<&str> = weights.sampler.iter().chain(&weights.state).map(String::as_str).collect();
    if !saved.is_empty() {
        let kept = kept(&weights.kept, app.global.local.is_some(), monthly_usd);
        lines.push(format!(
            "{kept}; to change that: tinkex checkpoint set-ttl {}{} --ttl 30d",
            saved.join(" "),
            app.place()
        ));
    }
    for path in &weights.gone {
        lines.push(format!("{path} is no longer there"));
    }
    if weights.sampler.is_none() {
        lines.push(format!("new weights to sample from: `{}` does one more step", one_more_step(ending)));
    }
    lines.extend(report.map(|path| format!("report {}", path.display())));
    lines
}

/// The command that trains a finished run for one more step.
fn one_more_step(ending: &Ending<'_>) -> String {
    let n_steps = ending.chosen.n_steps + 1;
    let epochs = n_steps.div_ceil(ending.chosen.batches_per_epoch.max(1));
    format!("{} --epochs {epochs} --max-steps {n_steps}", resume_command(ending.folder))
}

/// How long the final checkpoint is kept, and for which price.
fn kept(kept: &str, is_local: bool, monthly_usd: Option<f64>) -> String {
    match monthly_usd {
        _ if is_local => kept.to_owned(),
        Some(0.0) => format!("{kept}, free"),
        Some(cost) => format!("{kept}, for {} a month", usd(cost)),
        None => format!("{kept}; what storage costs is unknown"),
    }
}

fn losses(summary: &Summary) -> String {
    let mut text = match summary.last_loss {
        Some(loss) => format!("loss {} at the last step", figure(loss)),
        None => "no loss".into(),
    };
    if let Some((best, step)) = summary.best_loss {
        text.push_str(&format!(", best {} at step {step}", figure(best)));
    }
    match (summary.final_test, summary.best_test) {
        (Some(last), Some(best)) if is_worse(last, best) => {
            text.push_str(&format!(
                "; evaluation {} at the end, best {} {}",
                figure(last),
                figure(best.loss),
                after(best.n_done)
            ));
        }
        (Some(last), Some(_)) => {
            text.push_str(&format!("; evaluation {} at the end, the best of all", figure(last)));
        }
        _ => {}
    }
    // That of the training gives each example the same weight by default.
    let per_token = summary.final_per_token.map(figure);
    if let Some(nll) = per_token.filter(|nll| summary.final_test.map(figure).as_ref() != Some(nll)) {
        text.push_str(&format!("; {nll} if each token counts the same, as for `tinkex eval`"));
    }
    text
}

/// True if an evaluation is worse than the best one, as far as is shown.
fn is_worse(last: f64, best: Evaluation) -> bool {
    (last.is_nan() || best.loss < last) && figure(last) != figure(best.loss)
}

fn after(n_done: u64) -> String {
    match n_done {
        0 => "before the first step".into(),
        n => format!("after {}", counted(n, "step")),
    }
}

/// If the evaluation got worse, the checkpoint to take instead of the final one, whole on a line of its own.
fn better_checkpoint(ending: &Ending<'_>) -> Vec<String> {
    let (Some(last), Some(best)) = (ending.summary.final_test, ending.summary.best_test) else {
        return Vec::new();
    };
    if !is_worse(last, best) {
        return Vec::new();
    }
    let n_steps = Some(ending.chosen.n_steps);
    match ending.best.filter(|best| best.record.next_batch != n_steps) {
        Some(Pick { record, loss }) => {
            let when = after(record.next_batch.unwrap_or(0));
            let text = match loss {
                Some(loss) => format!(
                    "the evaluation got worse; the checkpoint with the best evaluation, {} {when}:",
                    figure(loss)
                ),
                None => format!(
                    "the evaluation got worse; the checkpoint nearest to the best one, {when}, not evaluated itself:"
                ),
            };
            [text].into_iter().chain(best::path(record)).collect()
        }
        None => vec![
            "the evaluation got worse, and no earlier checkpoint is known to be better than the final one; a smaller --save-every keeps more of them"
                .into(),
        ],
    }
}

fn figure(loss: f64) -> String {
    if loss != 0.0 && loss.abs() < 1e-3 { format!("{loss:.1e}") } else { format!("{loss:.4}") }
}

fn to_json(ending: &Ending<'_>, report: Option<&Path>) -> Value {
    let Ending { chosen, summary, weights, best, .. } = *ending;
    json!({
        "folder": super::dataset::absolute(ending.folder),
        "n_steps": chosen.n_steps,
        "seconds": summary.totals.seconds,
        "n_trained_tokens": summary.totals.tokens.trained,
        "usd": summary.totals.usd,
        "loss": summary.last_loss,
        "best_loss": summary.best_loss.map(|best| best.0),
        "eval_loss": summary.final_test,
        "eval_loss_per_token": summary.final_per_token,
        "best_eval_loss": summary.best_test.map(|best| best.loss),
        "best_eval_steps": summary.best_test.map(|best| best.n_done),
        "best_eval_checkpoint": best.and_then(|best| best::path(best.record)),
        "best_eval_checkpoint_steps": best.and_then(|best| best.record.next_batch),
        "best_eval_checkpoint_loss": best.and_then(|best| best.loss),
        "state_path": weights.state,
        "sampler_path": weights.sampler,
        "expires_at": weights.expires_at.as_ref().map(ToString::to_string),
        "report": report.map(|path| path.display().to_string()),
    })
}

/// A word for a shell; one that begins like an option is seen to be none.
pub(super) fn quoted(word: &str) -> String {
    if word.starts_with('-') { shell_word::in_quotes(word) } else { shell_word::quoted(word) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_resume_can_be_pasted() {
        assert_eq!(resume_command(Path::new("runs/a-1")), "tinkex train --resume runs/a-1");
        assert_eq!(quoted("-x"), "'-x'");
        let mut prompt = Prompt { text: "who?".into(), is_raw: true, system: None };
        assert_eq!(prompt.words(), " --raw 'who?'");
        (prompt.is_raw, prompt.system) = (false, Some("Be brief.".into()));
        assert_eq!(prompt.words(), " --system='Be brief.' 'who?'");
        (prompt.text, prompt.system) = ("- 1?".into(), Some("- Be brief.".into()));
        assert_eq!(prompt.words(), " --system='- Be brief.' -- '- 1?'");
        assert_eq!(resume_command(Path::new("it's here")), r"tinkex train --resume 'it'\''s here'");
    }
}
