//! What the files of a run say about it: its state, its totals, the sentence at the top.

use super::read::Run;
use super::series::Point;
use super::text::{amount, figure, grouped, span, usd};

/// Names under which programs write the metrics, the usual one first.
pub(crate) const TRAIN: [&str; 4] = ["train_mean_nll", "train/mean_nll", "train_loss", "loss"];
pub(crate) const TEST: [&str; 4] = ["test/nll", "eval/nll", "test/mean_nll", "eval_loss"];
const DPO_TEST: [&str; 1] = ["test/dpo_loss"];
/// The evaluation after the last step.
const FINAL_TEST: [&str; 1] = ["tinkex/final_test_loss"];
pub(crate) const REWARD: [&str; 3] = ["env/all/reward/total", "reward/total", "reward"];
const TOKENS: [&str; 2] = ["num_tokens", "tokens/trained"];

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Finished,
    Running,
    Interrupted,
    Failed,
    Empty,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Finished => "finished",
            State::Running => "running",
            State::Interrupted => "interrupted",
            State::Failed => "failed",
            State::Empty => "no steps",
        }
    }
}

/// The curve that a run is judged by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Objective {
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) points: Vec<Point>,
    /// Evaluations by the number of steps that were done before them.
    pub(crate) test: Vec<Point>,
    /// Lower is better.
    pub(crate) falls: bool,
}

/// A number of the head of the page, with what it is and a remark.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tile {
    pub(crate) label: &'static str,
    pub(crate) value: String,
    pub(crate) remark: String,
}

pub(crate) fn state(run: &Run) -> State {
    let recorded = run.own("status").and_then(|it| it.as_str()).unwrap_or_default();
    let is_final = run.checkpoints.iter().any(|it| {
        it.get("final").and_then(|it| it.as_bool()) == Some(true)
            || it.get("name").and_then(|it| it.as_str()) == Some("final")
    });
    match recorded {
        _ if run.is_running => State::Running,
        "finished" | "success" => State::Finished,
        "interrupted" => State::Interrupted,
        "failed" | "error" => State::Failed,
        _ if is_final => State::Finished,
        _ if run.rows.is_empty() => State::Empty,
        _ => State::Interrupted,
    }
}

pub(crate) fn objective(run: &Run) -> Objective {
    let of = |title, unit, names: &[&str], tests: &[&str], falls| {
        // A row has the evaluation before its step, and the last one also that after it.
        let mut test = run.points_before(tests);
        test.extend(run.points(&FINAL_TEST).last().filter(|_| falls));
        Objective { title, unit, points: run.points(names), test, falls }
    };
    let usual = of("Training loss", "nats per token", &TRAIN, &TEST, true);
    let dpo = of("Preference loss", "", &["dpo_loss"], &DPO_TEST, true);
    let reward = of("Reward", "", &REWARD, &[], false);
    if !dpo.points.is_empty() {
        dpo
    } else if usual.points.is_empty() && !reward.points.is_empty() {
        reward
    } else {
        usual
    }
}

impl Objective {
    fn better(&self, points: &[Point]) -> Option<Point> {
        let finite = points.iter().filter(|it| it.1.is_finite());
        let by = |a: &&Point, b: &&Point| a.1.total_cmp(&b.1);
        if self.falls { finite.min_by(by) } else { finite.max_by(by) }.copied()
    }

    /// The best point of the curve.
    pub(crate) fn best(&self) -> Option<Point> {
        self.better(&self.points)
    }

    pub(crate) fn best_test(&self) -> Option<Point> {
        self.better(&self.test)
    }

    /// The curve in words, for readers who do not see it.
    pub(crate) fn summary(&self) -> String {
        let mut text = in_words("", &self.points);
        if let (Some(best), Some(last)) = (self.best_test(), self.test.last()) {
            text.push_str(&format!(
                "; evaluation: {} values, last {}, best {} {}",
                self.test.len(),
                figure(last.1),
                figure(best.1),
                after(best.0)
            ));
        }
        text
    }
}

/// When an evaluation was made.
pub(crate) fn after(steps: f64) -> String {
    match steps {
        0.0 => "before the training".into(),
        1.0 => "after 1 step".into(),
        steps => format!("after {} steps", grouped(steps)),
    }
}

/// A series in words.
pub(crate) fn in_words(label: &str, points: &[Point]) -> String {
    let finite: Vec<Point> = points.iter().filter(|it| it.1.is_finite()).copied().collect();
    let by = |a: &&Point, b: &&Point| a.1.total_cmp(&b.1);
    let (Some(first), Some(last)) = (finite.first(), finite.last()) else {
        return format!("{label}no values");
    };
    let (Some(low), Some(high)) = (finite.iter().min_by(by), finite.iter().max_by(by)) else {
        return String::new();
    };
    format!(
        "{label}from {} at step {} to {} at step {}, lowest {} at step {}, highest {} at step {}",
        figure(first.1),
        grouped(first.0),
        figure(last.1),
        grouped(last.0),
        figure(low.1),
        grouped(low.0),
        figure(high.1),
        grouped(high.0)
    )
}

/// The mean of the last values, a tenth of all: a single batch says little.
pub(crate) fn recent(points: &[Point]) -> Option<f64> {
    let finite: Vec<f64> = points.iter().map(|it| it.1).filter(|it| it.is_finite()).collect();
    mean(&finite[finite.len() - finite.len().div_ceil(10).min(50)..])
}

fn mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() { None } else { Some(values.iter().sum::<f64>() / values.len() as f64) }
}

/// The means of the first and of the last values, and the number of values of each.
fn ends(points: &[Point]) -> Option<(f64, f64, usize)> {
    let finite: Vec<f64> = points.iter().map(|it| it.1).filter(|it| it.is_finite()).collect();
    let n = finite.len().div_ceil(10).min(10);
    Some((mean(&finite[..n])?, mean(&finite[finite.len() - n..])?, n))
}

/// Number of tokens that went through the model.
pub(crate) fn tokens(run: &Run) -> Option<f64> {
    run.last(&["tokens/cumulative/trained"]).or_else(|| run.sum(&TOKENS))
}

/// Number of steps of which times are the mean: results of steps that were submitted ahead come together, so that the
/// first of them seems slow and the others take no time. 1 if nothing was submitted ahead.
pub(crate) fn steps_together(run: &Run) -> usize {
    let ahead = run.config.get("submit-ahead").and_then(|it| it.as_u64()).unwrap_or(0);
    usize::try_from(ahead).unwrap_or(usize::MAX).saturating_add(1)
}

/// Tokens per second at each step: the mean of some steps if they were submitted ahead.
pub(crate) fn speed(run: &Run) -> Vec<Point> {
    let of = |row: &super::read::Row| {
        let tokens = TOKENS.iter().find_map(|name| row.values.get(*name)).copied()?;
        let seconds = row.values.get("time/step").or_else(|| row.values.get("time/total")).copied()?;
        (tokens.is_finite() && seconds.is_finite()).then_some((row.done, tokens, seconds))
    };
    let rows: Vec<(f64, f64, f64)> = run.rows.iter().filter_map(of).collect();
    if rows.is_empty() {
        return run.points(&["tinkex/tokens_per_s", "tokens_per_s"]);
    }
    let width = match steps_together(run) {
        1 => 1,
        n => crate::train::speed_window(n - 1),
    };
    let speed = |i: usize| {
        let from = (i + 1).saturating_sub(width.div_ceil(2)).min(rows.len().saturating_sub(width));
        let near = &rows[from..rows.len().min(from + width)];
        let sum = |of: fn(&(f64, f64, f64)) -> f64| near.iter().map(of).sum::<f64>();
        (rows[i].0, sum(|row| row.1) / sum(|row| row.2))
    };
    (0..rows.len()).map(speed).filter(|it| it.1.is_finite()).collect()
}

/// Seconds of the whole run. `time/total` is the time since the start in some programs, which falls when the run is
/// resumed, and the time of the step in others.
pub(crate) fn seconds(run: &Run) -> Option<f64> {
    let values: Vec<f64> = run.points(&["time/total"]).into_iter().map(|it| it.1).collect();
    let n_falls = values.windows(2).filter(|it| it[1] < it[0]).count();
    if values.is_empty() || values.iter().any(|it| !it.is_finite()) {
        return run.sum(&["time/step"]);
    }
    if n_falls <= run.resumes.len() {
        let before_falls: f64 = values.windows(2).filter(|it| it[1] < it[0]).map(|it| it[0]).sum();
        return Some(before_falls + values[values.len() - 1]);
    }
    Some(values.iter().sum())
}

pub(crate) fn cost(run: &Run) -> Option<f64> {
    run.last(&["cost/cumulative_usd"]).or_else(|| run.sum(&["cost/step_usd"]))
}

/// Number of steps that were done.
pub(crate) fn steps(run: &Run) -> usize {
    run.rows.len()
}

pub(crate) fn model(run: &Run) -> String {
    run.setting(&["model_name", "model", "base_model"]).unwrap_or_else(|| "unknown model".into())
}

pub(crate) fn tiles(run: &Run, objective: &Objective) -> Vec<Tile> {
    let mut tiles = Vec::new();
    let mut add = |label, value: Option<String>, remark: String| {
        if let Some(value) = value {
            tiles.push(Tile { label, value, remark });
        }
    };
    let at = |point: Option<Point>| point.map(|it| format!("step {}", grouped(it.0))).unwrap_or_default();
    let is_nll = objective.title == "Training loss";
    let (last, best_label) = match objective.title {
        "Training loss" => ("Final NLL", "Best NLL"),
        "Reward" => ("Final reward", "Best reward"),
        _ => ("Final loss", "Best loss"),
    };
    add(last, recent(&objective.points).map(figure), "mean of the last tenth".into());
    let best = objective.best();
    add(best_label, best.map(|it| figure(it.1)), at(best));
    let test = objective.best_test();
    add("Best evaluation", test.map(|it| figure(it.1)), test.map(|it| after(it.0)).unwrap_or_default());
    let judged = objective.test.last().map(|it| it.1).or_else(|| recent(&objective.points));
    let of = if objective.test.is_empty() { "of training" } else { "of the last evaluation" };
    let perplexity = judged.filter(|it| is_nll && *it < 50.0).map(|it| figure(it.exp()));
    add("Perplexity", perplexity, of.into());
    let accuracy: Vec<Point> = run.points(&["accuracy"]);
    add("Accuracy", recent(&accuracy).map(percent), "chosen above rejected".into());
    // The cookbook's `num_loss_tokens` is a sum of weights, and those of an example may sum to 1.
    let trained = run.sum(&["tinkex/num_trained_tokens"]).map(|it| format!("{} of them trained", amount(it)));
    let weights = || run.sum(&["num_loss_tokens"]).map(|it| format!("weights sum to {}", figure(it)));
    let remark = trained.or_else(weights).unwrap_or_default();
    add("Tokens", tokens(run).filter(|it| 0.0 < *it).map(amount), remark);
    let time = seconds(run);
    let per_step = time.map(|it| it / steps(run).max(1) as f64).map(|it| format!("{} a step", span(it)));
    add("Time", time.map(span), per_step.unwrap_or_default());
    let speed = speed(run);
    let mut sorted: Vec<f64> = speed.iter().map(|it| it.1).filter(|it| it.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    add("Tokens a second", sorted.get(sorted.len() / 2).map(|it| figure(*it)), "median".into());
    let cost = cost(run);
    let per_step = cost.map(|it| format!("{} a step", usd(it / steps(run).max(1) as f64)));
    add("Cost", cost.map(usd), per_step.unwrap_or_default());
    tiles
}

pub(crate) fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// The run in a sentence or two.
pub(crate) fn lede(run: &Run, objective: &Objective) -> String {
    let n = steps(run);
    if n == 0 {
        return "No step has been logged yet.".into();
    }
    let what = match objective.title {
        "Training loss" => "the training loss",
        "Preference loss" => "the preference loss",
        _ => "the reward",
    };
    let steps = if n == 1 { "In 1 step".into() } else { format!("In {} steps", grouped(n as f64)) };
    let n_broken = objective.points.iter().filter(|it| !it.1.is_finite()).count();
    let mut text = match ends(&objective.points) {
        Some((value, ..)) if n == 1 => format!("In 1 step {what} was {}", figure(value)),
        Some((from, to, n_of)) => {
            let verb = if to < from { "fell" } else { "rose" };
            let of = match n_of {
                1 => "the first and the last step".into(),
                n_of => format!("means of the first and the last {n_of} steps"),
            };
            format!("{steps} {what} {verb} from {} to {} ({of})", figure(from), figure(to))
        }
        _ if objective.points.is_empty() => format!("{steps} no loss was logged"),
        _ => format!("{steps} {what} was never a finite number"),
    };
    if let Some(best) = objective.best_test() {
        text.push_str(&format!("; the best evaluation was {} {}", figure(best.1), after(best.0)));
        if let Some(last) = objective.test.last().filter(|it| 1.02 * best.1 < it.1) {
            text.push_str(&format!(", and the last one {}", figure(last.1)));
        }
    }
    text.push('.');
    if 0 < n_broken && n_broken < objective.points.len() {
        text.push_str(&format!(
            " In {} of the steps the loss was not a finite number.",
            grouped(n_broken as f64)
        ));
    }
    text
}

/// What a reader should know before trusting the numbers.
pub(crate) fn warnings(run: &Run, objective: &Objective) -> Vec<String> {
    let mut all = Vec::new();
    let broken: Vec<f64> = objective.points.iter().filter(|it| !it.1.is_finite()).map(|it| it.0).collect();
    if let Some(first) = broken.first() {
        let (n, first) = (broken.len(), grouped(*first));
        let n = if n == 1 { "1 step".into() } else { format!("{} steps", grouped(n as f64)) };
        all.push(format!("The loss is not a finite number in {n}, first in step {first}: lower the learning rate, or look for examples without trained tokens."));
    }
    if let (Some(best), Some(last)) = (objective.best_test(), objective.test.last())
        && 3 <= objective.test.len()
        && best.1 * 1.05 < last.1
    {
        all.push(format!(
            "The evaluation was best {}, and got worse from {} to {}: the run fits its examples more than it learns. An earlier checkpoint may be the better one.",
            after(best.0),
            figure(best.1),
            figure(last.1)
        ));
    }
    let count =
        |name: &str| run.own("data").and_then(|it| it.get(name)).and_then(|it| it.as_u64()).unwrap_or(0);
    for (name, what) in [("n_truncated", "cut to the longest length"), ("n_dropped", "left out")] {
        let n = count(name);
        if 0 < n {
            all.push(format!("{} of the examples were {what}.", grouped(n as f64)));
        }
    }
    if let Some(own) = run.own("warnings").and_then(|it| it.as_array()) {
        all.extend(own.iter().filter_map(|it| it.as_str()).map(str::to_owned));
    }
    all.extend(run.gaps.iter().cloned());
    all.extend(run.logged.iter().cloned());
    all.truncate(60);
    all
}
