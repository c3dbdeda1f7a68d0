//! The charts of a run.

use super::facts::{self, Objective};
use super::read::Run;
use super::series::{self, Point, fit};
use super::svg::{Chart, Layer, Line, Mark, Shape};
use super::text::{figure, span};

/// Colors by what they show.
const BLUE: usize = 0;
const ORANGE: usize = 1;
const GREEN: usize = 2;
const PURPLE: usize = 3;
/// Most columns of a stacked chart.
const MAX_BINS: usize = 120;
/// The kind of the marks where a run was resumed.
const RESUME: &str = "resume";
/// Most marks of one kind: more of them would be a bar.
const MAX_MARKS: usize = 200;

/// First and last step of a run, counted from 1.
pub(crate) fn steps(run: &Run) -> (f64, f64) {
    let step = |row: Option<&super::read::Row>| row.map_or(0.0, |it| it.done);
    (step(run.rows.first()), step(run.rows.last()))
}

/// The charts, with at most `n` points a line.
pub(crate) fn of(run: &Run, objective: &Objective, n: usize) -> Vec<Chart> {
    let steps = steps(run);
    let marks = marks(run);
    let simple = |title: &str, unit, color, points: Vec<Point>| {
        let note = points.last().map(|it| figure(it.1)).unwrap_or_default();
        let summary = facts::in_words("", &points);
        let points = fit(&points, n);
        let line = Line { label: String::new(), color, shape: Shape::Line, points, note };
        Chart { title: title.into(), unit, lines: vec![line], steps, summary, ..Default::default() }
    };
    let tests = objective.test.iter().map(|it| it.0);
    let of_loss = series::range(tests.chain([steps.0, steps.1])).unwrap_or(steps);
    let mut charts = vec![loss(objective, of_loss, marks.clone(), n)];
    charts.extend(preferences(run, steps, n));
    charts.push(Chart {
        from_zero: true,
        // With another number of steps, the rate goes on elsewhere.
        marks: marks.iter().filter(|mark| mark.kind == RESUME).cloned().collect(),
        ..simple("Learning rate", "", BLUE, run.points(&["learning_rate", "optim/lr", "lr"]))
    });
    charts.push(Chart {
        from_zero: true,
        marks: marks.clone(),
        ..noisy("Tokens a second", GREEN, &facts::speed(run), steps, n)
    });
    charts.push(Chart { marks, ..times(run, steps) });
    let norm = run.points(&["tinkex/grad_norm", "grad_norm", "optim/grad_norm", "unclipped_grad_l2:mean"]);
    charts.push(Chart { from_zero: true, ..noisy("Gradient norm", PURPLE, &norm, steps, n) });
    charts
}

/// Span of the average: a fortieth of the run.
pub(super) fn span_of(points: &[Point]) -> f64 {
    (points.len() as f64 / 40.0).clamp(4.0, 400.0)
}

/// Pale values and their average.
fn pair(label: &str, color: usize, points: &[Point], n: usize) -> Vec<Line> {
    let average = series::ema(points, span_of(points));
    let note = average.last().map(|it| figure(it.1)).unwrap_or_default();
    let line = |label: &str, shape, points: &[Point], note| Line {
        label: label.to_owned(),
        color,
        shape,
        points: fit(points, n),
        note,
    };
    if points.len() < 8 {
        let note = points.last().map(|it| figure(it.1)).unwrap_or_default();
        return vec![line(label, Shape::Dots, points, note)];
    }
    vec![
        line("each step", Shape::Pale, points, String::new()),
        line(&format!("{label}, average"), Shape::Line, &average, note),
    ]
}

fn noisy(title: &str, color: usize, points: &[Point], steps: (f64, f64), n: usize) -> Chart {
    let mut lines = pair("", color, points, n);
    for line in &mut lines {
        line.label = match line.shape {
            Shape::Pale => "each step".into(),
            Shape::Line => "average".into(),
            Shape::Dots => String::new(),
        };
    }
    let summary = facts::in_words("", points);
    Chart { title: title.into(), lines, steps, summary, ..Default::default() }
}

fn loss(objective: &Objective, steps: (f64, f64), marks: Vec<Mark>, n: usize) -> Chart {
    let mut lines = pair("training", BLUE, &objective.points, n);
    if let Some(last) = objective.test.last() {
        let shape = if objective.test.len() <= 300 { Shape::Dots } else { Shape::Line };
        let note = figure(last.1);
        let points = fit(&objective.test, n);
        lines.push(Line { label: "evaluation".into(), color: ORANGE, shape, points, note });
    }
    Chart {
        title: objective.title.into(),
        unit: objective.unit,
        is_wide: true,
        lines,
        marks,
        steps,
        summary: objective.summary(),
        ..Default::default()
    }
}

/// The charts of training on preferences.
fn preferences(run: &Run, steps: (f64, f64), n: usize) -> Vec<Chart> {
    let margin = run.points(&["margin"]);
    let accuracy = run.points(&["accuracy"]);
    let mut charts = Vec::new();
    if !accuracy.is_empty() {
        charts.push(noisy("Accuracy of the preferences", GREEN, &accuracy, steps, n));
    }
    if !margin.is_empty() {
        charts.push(noisy("Margin of the rewards", PURPLE, &margin, steps, n));
    }
    let rewards = [("chosen", GREEN, "chosen_reward"), ("rejected", ORANGE, "rejected_reward")];
    let lines: Vec<Line> = rewards
        .into_iter()
        .filter_map(|(label, color, name)| {
            let points = run.points(&[name]);
            let average = series::ema(&points, span_of(&points));
            let note = figure(average.last()?.1);
            Some(Line { label: label.into(), color, shape: Shape::Line, points: fit(&average, n), note })
        })
        .collect();
    if !lines.is_empty() {
        let all = rewards.map(|(label, _, name)| facts::in_words(&format!("{label} "), &run.points(&[name])));
        charts.push(Chart {
            title: "Rewards, average".into(),
            lines,
            steps,
            summary: all.join("; "),
            ..Default::default()
        });
    }
    charts
}

/// The time of a step as a stack: saving, waiting in the queue, and the rest.
fn times(run: &Run, steps: (f64, f64)) -> Chart {
    let value = |row: &super::read::Row, name: &str| {
        row.values.get(name).copied().filter(|it| it.is_finite() && 0.0 <= *it).unwrap_or(0.0)
    };
    let rows: Vec<_> = run.rows.iter().filter(|it| it.values.contains_key("time/step")).collect();
    let n_bins = (rows.len() / facts::steps_together(run)).clamp(1, MAX_BINS);
    let bins = series::bins(rows.len(), n_bins);
    let mean = |of: &dyn Fn(&super::read::Row) -> f64| -> Vec<f64> {
        let mean = |bin: &std::ops::Range<usize>| {
            rows[bin.clone()].iter().map(|it| of(it)).sum::<f64>() / bin.len().max(1) as f64
        };
        bins.iter().map(mean).collect()
    };
    let save = |row: &super::read::Row| value(row, "time/save_checkpoint");
    let queue = |row: &super::read::Row| value(row, "tinkex/queue_s").min(value(row, "time/step"));
    let layers = [
        ("compute", BLUE, mean(&|row| (value(row, "time/step") - save(row) - queue(row)).max(0.0))),
        ("queue", ORANGE, mean(&queue)),
        ("save", GREEN, mean(&save)),
    ];
    let layers: Vec<Layer> = layers
        .into_iter()
        .filter(|(label, _, values)| *label == "compute" || values.iter().any(|it| 0.0 < *it))
        .map(|(label, color, values)| {
            let note = span(values.iter().sum::<f64>() / values.len().max(1) as f64);
            Layer { label: label.into(), color, values, note }
        })
        .collect();
    let gap = if rows.len() < 2 { 1.0 } else { (steps.1 - steps.0) / (rows.len() - 1) as f64 };
    // A step takes the room before its number.
    let range = |bin: &std::ops::Range<usize>| {
        let before = bin.start.checked_sub(1).and_then(|i| rows.get(i));
        (before.map_or(rows[bin.start].done - gap, |it| it.done), rows[bin.end - 1].done)
    };
    let bins: Vec<(f64, f64)> = bins.iter().map(range).collect();
    let means: Vec<String> = layers.iter().map(|it| format!("{} {}", it.label, it.note)).collect();
    let steps = (bins.first().map_or(steps.0, |it| it.0), steps.1);
    Chart {
        title: "Time of a step".into(),
        unit: "s",
        summary: format!("means: {}", means.join(", ")),
        layers,
        bins,
        steps,
        ..Default::default()
    }
}

/// Resumes, pauses and retries.
fn marks(run: &Run) -> Vec<Mark> {
    let mut marks: Vec<Mark> = run
        .resumes
        .iter()
        .map(|step| Mark {
            step: *step as f64,
            kind: RESUME,
            text: format!("resumed {}", facts::after(*step as f64)),
        })
        .collect();
    for (name, kind) in [("tinkex/pause_s", "pause"), ("tinkex/retries", "retry")] {
        let points = run.points(&[name]);
        let happened = points.into_iter().filter(|(_, n)| 0.0 < *n && n.is_finite());
        marks.extend(happened.take(MAX_MARKS).map(|(step, n)| {
            let text = if kind == "pause" {
                format!("step {step}: paused by the server for {}", span(n))
            } else {
                format!(
                    "step {step}: {} repeated",
                    if n == 1.0 { "1 request".into() } else { format!("{n} requests") }
                )
            };
            Mark { step, kind, text }
        }));
    }
    marks
}
