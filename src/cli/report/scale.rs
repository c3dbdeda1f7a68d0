//! The place of steps and values in a plot: its grid and its lines.

use std::fmt::Write;

use super::series::{self, Point};
use super::text::{figure, grouped};

/// Width and height of the coordinate system of lines.
pub(super) const W: f64 = 4000.0;
pub(super) const H: f64 = 1000.0;

/// Steps and values to percentages of the plot.
pub(super) struct Scale {
    from: f64,
    to: f64,
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Scale {
    pub(super) fn new((mut from, mut to): (f64, f64), mut low: f64, mut high: f64) -> Self {
        if to <= from {
            (from, to) = (from - 0.5, from + 0.5);
        }
        if high - low <= 1e-9 * high.abs().max(low.abs()) {
            let slack = if low == 0.0 { 1.0 } else { 0.1 * low.abs() };
            (low, high) = if low == 0.0 { (0.0, 1.0) } else { (low - slack, high + slack) };
        }
        let ticks = series::ticks(low, high, 4);
        if let [first, .., last] = ticks[..] {
            (low, high) = (low.min(first), high.max(last));
        }
        Scale { from, to, low, high, ticks }
    }

    pub(super) fn x(&self, step: f64) -> f64 {
        100.0 * (step - self.from) / (self.to - self.from)
    }

    /// Also right for ranges whose width is no finite number.
    pub(super) fn y(&self, value: f64) -> f64 {
        let (value, low, high) = (value / 2.0, self.low / 2.0, self.high / 2.0);
        (100.0 - 100.0 * ((value - low) / (high - low))).clamp(-100.0, 200.0)
    }

    pub(super) fn grid(&self, out: &mut String, n: usize, is_of_steps: bool) {
        for (tick, label) in self.ticks.iter().zip(series::tick_labels(&self.ticks)) {
            let y = self.y(*tick);
            if !(-0.01..=100.01).contains(&y) {
                continue;
            }
            let class = if *tick == 0.0 || y > 99.9 { "base" } else { "grid" };
            let _ = write!(
                out,
                "<line class=\"{class}\" x2=\"100%\" y1=\"{y:.2}%\" y2=\"{y:.2}%\"/><text class=\"ty\" x=\"-8\" y=\"{y:.2}%\" dy=\".33em\">{label}</text>"
            );
        }
        if is_of_steps {
            out.push_str("<text class=\"ty\" x=\"-8\" y=\"100%\" dy=\"1.6em\">step</text>");
        }
        let steps = series::ticks(self.from, self.to, n);
        for step in steps.iter().filter(|it| (self.from..=self.to).contains(it) && it.fract() == 0.0) {
            let (x, label) = (self.x(*step), figure_of_step(*step));
            let _ = write!(out, "<text class=\"tx\" x=\"{x:.2}%\" y=\"100%\" dy=\"1.6em\">{label}</text>");
        }
    }

    /// A path through the points with relative whole numbers, which take the least room.
    pub(super) fn path(&self, points: &[Point]) -> String {
        let mut d = String::new();
        for piece in series::pieces(points) {
            let at = |(x, y): &Point| {
                let (x, y) = (self.x(*x) / 100.0 * W, self.y(*y) / 100.0 * H);
                (x.round() as i64, y.round() as i64)
            };
            let (mut x, mut y) = at(&piece[0]);
            let _ = write!(d, "M{x} {y}");
            d.push_str(if piece.len() == 1 { "h0" } else { "l" });
            for point in &piece[1..] {
                let next = at(point);
                let separator = if d.ends_with('l') { "" } else { " " };
                let _ = write!(d, "{separator}{} {}", next.0 - x, next.1 - y);
                (x, y) = next;
            }
        }
        d
    }
}

fn figure_of_step(step: f64) -> String {
    if step.abs() < 10_000.0 { grouped(step) } else { figure(step) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_where_values_are_missing() {
        let scale = Scale::new((0.0, 4.0), 0.0, 1.0);
        let points = [(0.0, 0.0), (1.0, 1.0), (2.0, f64::NAN), (4.0, 0.0)];
        assert_eq!(scale.path(&points), "M0 1000l1000 -1000M4000 1000h0");
    }
}
