//! What is said at the end of a run.

use std::path::Path;

use serde_json::{Value, json};
use tinkex::train::CheckpointRecord;

use super::plan::{count, usd};
use super::progress::clock;
use super::settings::{Chosen, Settings};
use super::summary::Summary;
use crate::connection::App;
use crate::shell_word;

/// The command that continues a run.
pub(super) fn resume_command(folder: &Path) -> String {
    format!("tinkex train --resume {}", quoted(&folder.display().to_string()))
}

/// How a run ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending<'a> {
    pub(super) settings: &'a Settings,
    pub(super) chosen: &'a Chosen,
    pub(super) summary: &'a Summary,
    pub(super) record: &'a CheckpointRecord,
    /// A prompt to try, and whether it is sent as it is.
    pub(super) prompt: Option<&'a (String, bool)>,
    pub(super) monthly_usd: Option<f64>,
    pub(super) report: Option<&'a Path>,
}

/// The lines at the end of a finished run.
pub(super) fn lines(app: &App, ending: &Ending<'_>) -> Vec<String> {
    let Ending { settings, chosen, summary, record, prompt, monthly_usd, report } = *ending;
    let totals = &summary.totals;
    let mut first = format!(
        "{} steps in {}, {} tokens trained",
        count(chosen.n_steps),
        clock(totals.seconds),
        count(totals.tokens.trained)
    );
    if 0.0 < totals.usd {
        first.push_str(&format!(", {}", usd(totals.usd)));
    }
    let mut lines = vec![first, losses(summary)];
    lines.extend(record.state_path.as_ref().map(ToString::to_string));
    if let Some(sampler) = &record.sampler_path {
        lines.push(sampler.to_string());
        let (prompt, raw) = match prompt {
            Some((text, is_raw)) => (quoted(text), if *is_raw { " --raw" } else { "" }),
            None => ("PROMPT".into(), ""),
        };
        lines.push(format!("tinkex sample -m {sampler}{}{raw} {prompt}", app.place()));
    }
    if let Some(path) = record.sampler_path.as_ref() {
        let kept = kept(settings, app.global.local.is_some(), monthly_usd);
        lines.push(format!(
            "{kept}; to change that: tinkex checkpoint set-ttl {path}{} --ttl 30d",
            app.place()
        ));
    }
    lines.extend(report.map(|path| format!("report {}", path.display())));
    lines
}

/// How long the final checkpoint is kept, and for which price.
fn kept(settings: &Settings, is_local: bool, monthly_usd: Option<f64>) -> String {
    let kept = match settings.final_ttl.text.as_str() {
        "never" => "kept until deleted".to_owned(),
        text => format!("kept for {text}"),
    };
    match monthly_usd {
        _ if is_local => kept,
        Some(cost) => format!("{kept}, for {} a month", usd(cost)),
        None => format!("{kept}, and storage is billed"),
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
    if let Some(test) = summary.final_test {
        text.push_str(&format!("; evaluation {} at the end", figure(test)));
    }
    if let Some((best, step)) = summary.best_test.filter(|best| !is_best_at_end(summary, best.0)) {
        text.push_str(&format!(", best {} before step {step}", figure(best)));
    }
    text
}

/// True if the evaluation after the last step is no worse than this one before a step.
fn is_best_at_end(summary: &Summary, best: f64) -> bool {
    summary.final_test.is_some_and(|last| last <= best)
}

fn figure(loss: f64) -> String {
    if loss != 0.0 && loss.abs() < 1e-3 { format!("{loss:.1e}") } else { format!("{loss:.4}") }
}

pub(super) fn to_json(ending: &Ending<'_>, folder: &Path) -> Value {
    let Ending { chosen, summary, record, report, .. } = *ending;
    json!({
        "folder": super::dataset::absolute(folder),
        "n_steps": chosen.n_steps,
        "seconds": summary.totals.seconds,
        "n_trained_tokens": summary.totals.tokens.trained,
        "usd": summary.totals.usd,
        "loss": summary.last_loss,
        "best_loss": summary.best_loss.map(|best| best.0),
        "eval_loss": summary.final_test,
        "best_eval_loss": summary.best_test.map(|best| best.0).into_iter().chain(summary.final_test).reduce(f64::min),
        "state_path": record.state_path.as_ref().map(ToString::to_string),
        "sampler_path": record.sampler_path.as_ref().map(ToString::to_string),
        "report": report.map(|path| path.display().to_string()),
    })
}

/// A word for a shell; one that begins like an option is seen to be none.
fn quoted(word: &str) -> String {
    if word.starts_with('-') { shell_word::in_quotes(word) } else { shell_word::quoted(word) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_resume_can_be_pasted() {
        assert_eq!(resume_command(Path::new("runs/a-1")), "tinkex train --resume runs/a-1");
        assert_eq!(quoted("-x"), "'-x'");
        assert_eq!(resume_command(Path::new("it's here")), r"tinkex train --resume 'it'\''s here'");
    }
}
