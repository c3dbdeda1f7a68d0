//! What is said at the end of a run.

use std::path::Path;

use serde_json::{Value, json};
use tinkex::train::CheckpointRecord;

use super::best::{self, Evaluation};
use super::plan::usd;
use super::progress::clock;
use super::settings::{Chosen, Settings};
use super::summary::Summary;
use crate::connection::App;
use crate::counted::counted;
use crate::shell_word;

/// The command that continues a run.
pub(super) fn resume_command(folder: &Path) -> String {
    format!("tinkex train --resume {}", quoted(&folder.display().to_string()))
}

/// How a run ended.
#[derive(Clone, Debug)]
pub(super) struct Ending<'a> {
    pub(super) settings: &'a Settings,
    pub(super) chosen: &'a Chosen,
    pub(super) summary: &'a Summary,
    pub(super) record: &'a CheckpointRecord,
    /// The checkpoint nearest to the best evaluation.
    pub(super) best: Option<&'a CheckpointRecord>,
    /// Commands that evaluate on the lines that were held out.
    pub(super) held_out: Option<String>,
    /// A prompt to try, and whether it is sent as it is.
    pub(super) prompt: Option<&'a (String, bool)>,
    pub(super) monthly_usd: Option<f64>,
    pub(super) report: Option<&'a Path>,
}

/// The lines at the end of a finished run.
pub(super) fn lines(app: &App, ending: &Ending<'_>) -> Vec<String> {
    let Ending { settings, chosen, summary, record, prompt, monthly_usd, report, .. } = *ending;
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
    lines.extend(record.state_path.as_ref().map(ToString::to_string));
    if let Some(sampler) = &record.sampler_path {
        lines.push(sampler.to_string());
        let (prompt, raw) = match prompt {
            Some((text, is_raw)) => (quoted(text), if *is_raw { " --raw" } else { "" }),
            None => ("PROMPT".into(), ""),
        };
        lines.push(format!("tinkex sample -m {sampler}{}{raw} {prompt}", app.place()));
    }
    lines.extend(
        ending.held_out.as_ref().map(|commands| format!("evaluate on the held-out lines: {commands}")),
    );
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
    match ending.best.filter(|near| !near.is_final) {
        Some(near) => {
            let when = after(near.next_batch.unwrap_or(0));
            let text = format!("the evaluation got worse; the checkpoint nearest to the best one, {when}:");
            [text].into_iter().chain(best::path(near)).collect()
        }
        None => vec![
            "the evaluation got worse, and no earlier checkpoint is nearer to the best one than the final one; \
             a smaller --save-every keeps more of them"
                .into(),
        ],
    }
}

fn figure(loss: f64) -> String {
    if loss != 0.0 && loss.abs() < 1e-3 { format!("{loss:.1e}") } else { format!("{loss:.4}") }
}

pub(super) fn to_json(ending: &Ending<'_>, folder: &Path) -> Value {
    let Ending { chosen, summary, record, report, best, .. } = *ending;
    json!({
        "folder": super::dataset::absolute(folder),
        "n_steps": chosen.n_steps,
        "seconds": summary.totals.seconds,
        "n_trained_tokens": summary.totals.tokens.trained,
        "usd": summary.totals.usd,
        "loss": summary.last_loss,
        "best_loss": summary.best_loss.map(|best| best.0),
        "eval_loss": summary.final_test,
        "best_eval_loss": summary.best_test.map(|best| best.loss),
        "best_eval_steps": summary.best_test.map(|best| best.n_done),
        "best_eval_checkpoint": best.and_then(best::path),
        "state_path": record.state_path.as_ref().map(ToString::to_string),
        "sampler_path": record.sampler_path.as_ref().map(ToString::to_string),
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
        assert_eq!(resume_command(Path::new("it's here")), r"tinkex train --resume 'it'\''s here'");
    }
}
