//! Charts as SVG elements that stand in the page. Their plots stretch with the page and their texts keep their size:
//! everything is placed by percentages, and lines are paths in an inner coordinate system.

use std::fmt::Write;

use super::scale::{H, Scale, W};
use super::series::{self, Point};
use super::text::{amount, figure, grouped, html};

/// Largest number of places that show their values when the mouse is over them.
const MAX_STRIPS: usize = 140;

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Line,
    /// A thin pale line behind the others.
    Pale,
    /// A line with a dot on each point, for points that are far from each other.
    Dots,
}

#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) label: String,
    /// Number of the color.
    pub(crate) color: usize,
    pub(crate) shape: Shape,
    /// The points, downsampled. Values that are not finite are gaps.
    pub(crate) points: Vec<Point>,
    /// What the legend says of the line, such as its last value.
    pub(crate) note: String,
}

/// A layer of a stacked chart.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) label: String,
    pub(crate) color: usize,
    /// A value for each bin.
    pub(crate) values: Vec<f64>,
    pub(crate) note: String,
}

/// Something that happened at a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mark {
    pub(crate) step: f64,
    pub(crate) kind: &'static str,
    pub(crate) text: String,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    /// The chart is as wide as the page.
    pub(crate) is_wide: bool,
    /// The colors are explained elsewhere.
    pub(crate) hides_legend: bool,
    pub(crate) from_zero: bool,
    pub(crate) lines: Vec<Line>,
    /// Layers on top of each other, over bins with these steps.
    pub(crate) layers: Vec<Layer>,
    pub(crate) bins: Vec<(f64, f64)>,
    pub(crate) marks: Vec<Mark>,
    /// First and last step.
    pub(crate) steps: (f64, f64),
    /// The bins are of values, not of steps.
    pub(crate) is_histogram: bool,
    /// What a reader who does not see the chart is told.
    pub(crate) summary: String,
}

impl Chart {
    /// The chart as a figure; nothing if it has nothing to show.
    pub(crate) fn html(&self) -> String {
        let Some((low, high)) = self.values() else { return String::new() };
        let scale = Scale::new(self.steps, low, high);
        let mut out = String::new();
        let class = if self.is_wide { "chart wide" } else { "chart" };
        let unit = if self.unit.is_empty() { "".into() } else { format!(" <i>{}</i>", html(self.unit)) };
        // Writing to a `String` cannot fail, here and below.
        let _ = write!(out, "<figure class=\"{class}\"><figcaption><h3>{}{unit}</h3>", html(&self.title));
        self.legend(&mut out);
        let _ = write!(
            out,
            "</figcaption><svg class=\"plot\" role=\"img\" aria-label=\"{}: {}\">",
            html(&self.title),
            html(&self.summary)
        );
        scale.grid(&mut out, if self.is_wide { 8 } else { 4 }, !self.is_histogram);
        let _ = write!(
            out,
            "<svg class=\"in\" viewBox=\"0 0 {W} {H}\" preserveAspectRatio=\"none\" width=\"100%\" height=\"100%\">"
        );
        self.stack(&scale, &mut out);
        for line in &self.lines {
            let class = match line.shape {
                Shape::Pale => "pale ",
                Shape::Line | Shape::Dots => "",
            };
            let _ =
                write!(out, "<path class=\"{class}s{}\" d=\"{}\"/>", line.color, scale.path(&line.points));
        }
        out.push_str("</svg>");
        for line in self.lines.iter().filter(|line| line.shape == Shape::Dots) {
            for (x, y) in line.points.iter().filter(|(_, y)| y.is_finite()) {
                let (x, y) = (scale.x(*x), scale.y(*y));
                let _ = write!(
                    out,
                    "<circle class=\"f{}\" cx=\"{x:.2}%\" cy=\"{y:.1}%\" r=\"2.6\"/>",
                    line.color
                );
            }
        }
        self.events(&scale, &mut out);
        self.strips(&scale, &mut out);
        out.push_str("</svg></figure>\n");
        out
    }

    /// The range of the values.
    fn values(&self) -> Option<(f64, f64)> {
        let noisy: Vec<f64> = self
            .lines
            .iter()
            .flat_map(|it| &it.points)
            .map(|(_, y)| *y)
            .filter(|it| it.is_finite())
            .collect();
        let calm = series::calm_range(&noisy);
        let sums = (0..self.bins.len()).map(|i| self.layers.iter().map(|it| it.values[i]).sum());
        let stacked: Vec<f64> = sums.collect();
        let range = series::range(
            calm.into_iter()
                .flat_map(|(low, high)| [low, high])
                .chain(series::calm_range(&stacked).map(|it| it.1)),
        )?;
        Some(if self.from_zero || !self.layers.is_empty() { (range.0.min(0.0), range.1) } else { range })
    }

    fn legend(&self, out: &mut String) {
        let entries = self
            .lines
            .iter()
            .filter(|line| !line.label.is_empty())
            .map(|line| {
                let class = match line.shape {
                    Shape::Line => "key",
                    Shape::Pale => "key faint",
                    Shape::Dots => "key dot",
                };
                (class, line.color, &line.label, &line.note)
            })
            .chain(self.layers.iter().map(|it| ("key block", it.color, &it.label, &it.note)));
        let entries: Vec<_> = entries.filter(|_| !self.hides_legend).collect();
        let events = self.event_names();
        if entries.is_empty() && events.is_empty() {
            return;
        }
        out.push_str("<ul class=\"legend\">");
        for (class, color, label, note) in entries {
            let _ = write!(
                out,
                "<li><span class=\"{class} b{color}\"></span>{} <b>{}</b></li>",
                html(label),
                html(note)
            );
        }
        for (kind, text) in events {
            let _ = write!(out, "<li><span class=\"key tick {kind}\"></span>{text}</li>");
        }
        out.push_str("</ul>");
    }

    /// What the marks at the upper edge mean, in the chart that is as wide as the page.
    fn event_names(&self) -> Vec<(&'static str, String)> {
        let kinds = [("pause", "paused"), ("retry", "repeated requests")];
        let name = |(kind, text): (&'static str, &str)| match self
            .marks
            .iter()
            .filter(|it| *it.kind == *kind)
            .count()
        {
            0 => None,
            1 => Some((kind, format!("{text} in 1 step"))),
            n => Some((kind, format!("{text} in {n} steps"))),
        };
        kinds.into_iter().filter(|_| self.is_wide).filter_map(name).collect()
    }

    /// The layers as steps, one path each, from the upper one to the lowest, which covers it.
    fn stack(&self, scale: &Scale, out: &mut String) {
        for n in (1..=self.layers.len()).rev() {
            let Some(layer) = self.layers.get(n - 1) else { continue };
            let mut d = String::new();
            for (i, (from, to)) in self.bins.iter().enumerate() {
                let sum: f64 = self.layers[..n].iter().map(|it| it.values[i]).sum();
                let (x1, x2) = (scale.x(*from) / 100.0 * W, scale.x(*to) / 100.0 * W);
                let y = (scale.y(sum) / 100.0 * H).max(0.0);
                let _ = write!(d, "M{x1:.0} {H}V{y:.0}H{x2:.0}V{H}z");
            }
            let _ = write!(out, "<path class=\"layer f{}\" d=\"{d}\"/>", layer.color);
        }
    }

    fn events(&self, scale: &Scale, out: &mut String) {
        for mark in &self.marks {
            let (x, kind, text) = (scale.x(mark.step), mark.kind, html(&mark.text));
            if !(0.0..=100.0).contains(&x) {
                continue;
            }
            let bottom = if kind == "resume" { "100%" } else { "7" };
            let _ = write!(
                out,
                "<g class=\"mark {kind}\"><title>{text}</title><line x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"0\" y2=\"{bottom}\"/>"
            );
            if kind == "resume" && self.is_wide {
                let (dx, anchor) = if x < 88.0 { (5, "start") } else { (-5, "end") };
                let _ = write!(
                    out,
                    "<text x=\"{x:.2}%\" dx=\"{dx}\" y=\"9\" text-anchor=\"{anchor}\">resumed</text>"
                );
            }
            out.push_str("</g>");
        }
    }

    /// Invisible strips whose titles show the values when the mouse is over them.
    fn strips(&self, scale: &Scale, out: &mut String) {
        let mut steps: Vec<f64> = self.lines.iter().flat_map(|it| &it.points).map(|it| it.0).collect();
        steps.extend(self.bins.iter().map(|(from, to)| f64::midpoint(*from, *to)));
        steps.sort_by(f64::total_cmp);
        steps.dedup();
        if MAX_STRIPS < steps.len() {
            // The first and the last step are among them.
            let last = steps.len() - 1;
            steps = (0..MAX_STRIPS).map(|i| steps[i * last / (MAX_STRIPS - 1)]).collect();
        }
        let edge = |i: usize| match (i.checked_sub(1).and_then(|it| steps.get(it)), steps.get(i)) {
            (Some(a), Some(b)) => scale.x(f64::midpoint(*a, *b)),
            (None, _) => 0.0,
            (_, None) => 100.0,
        };
        out.push_str("<g class=\"hover\">");
        for (i, step) in steps.iter().enumerate() {
            let (left, right) = (edge(i), edge(i + 1));
            let values = self.values_near(*step);
            if values.is_empty() {
                continue;
            }
            let head = match self.bins.get(i).filter(|_| self.is_histogram) {
                Some((from, to)) => format!("{} to {} {}", grouped(*from), grouped(*to), self.unit),
                None => format!("step {}", grouped(step.round())),
            };
            let _ = write!(
                out,
                "<rect x=\"{left:.2}%\" width=\"{:.2}%\" height=\"100%\"><title>{}{}</title></rect>",
                (right - left).max(0.0),
                html(&head),
                html(&values)
            );
        }
        out.push_str("</g>");
    }

    /// The values at a step, or near it, as lines of text.
    fn values_near(&self, step: f64) -> String {
        let mut text = String::new();
        for line in &self.lines {
            let points = &line.points;
            let right = points.partition_point(|it| it.0 < step);
            let nearest = [right.checked_sub(1), Some(right)]
                .into_iter()
                .flatten()
                .filter_map(|i| points.get(i))
                .min_by(|a, b| (a.0 - step).abs().total_cmp(&(b.0 - step).abs()));
            let width = (self.steps.1 - self.steps.0) / MAX_STRIPS as f64;
            let Some((x, y)) = nearest.filter(|it| (it.0 - step).abs() <= width) else { continue };
            let label = if line.label.is_empty() { &self.title } else { &line.label };
            let at = if (x - step).abs() < 0.5 {
                String::new()
            } else {
                format!(" (step {})", grouped(x.round()))
            };
            let _ = write!(text, "\n{label} {}{at}", figure(*y));
        }
        if let Some(i) = self.bins.iter().position(|(from, to)| (*from..*to).contains(&step)) {
            for layer in &self.layers {
                let value = layer.values[i];
                let _ = if self.is_histogram {
                    write!(text, "\n{} {}", layer.label, amount(value))
                } else {
                    write!(text, "\n{} {} {}", layer.label, figure(value), self.unit)
                };
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(points: Vec<Point>) -> Line {
        Line { label: "loss".into(), color: 0, shape: Shape::Line, points, note: String::new() }
    }

    #[test]
    fn a_chart_without_values_is_left_out() {
        let chart = Chart { lines: vec![line(vec![(1.0, f64::NAN)])], ..Default::default() };
        assert_eq!(chart.html(), "");
    }

    #[test]
    fn a_chart_has_no_number_that_is_not_finite() {
        for points in [
            vec![(0.0, 1.0)],
            vec![(0.0, f64::MAX), (1.0, f64::MIN), (2.0, f64::NAN), (3.0, f64::INFINITY)],
            vec![(5.0, 0.0), (5.0, 0.0)],
            vec![(0.0, 1e-300), (1.0, -1e-300)],
        ] {
            let steps = (points[0].0, points[points.len() - 1].0);
            let chart = Chart { lines: vec![line(points)], steps, ..Default::default() };
            let html = chart.html();
            let drawn: String = html.split("<g class=\"hover\">").next().unwrap_or_default().into();
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        }
    }
}
