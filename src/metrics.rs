//! Metrics of a client: counters, gauges and latencies.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::sync::Mutex;

/// Number of newest values that a histogram keeps. Percentiles are computed from these values.
const KEPT: usize = 1000;

/// Names of the metrics that the library records.
pub(crate) mod name {
    /// All HTTP requests.
    pub(crate) const REQUESTS: &str = "tinkex_requests_total";
    /// HTTP requests with a 2xx answer.
    pub(crate) const SUCCESSES: &str = "tinkex_requests_success";
    /// HTTP requests without a 2xx answer: another status, or no answer.
    pub(crate) const FAILURES: &str = "tinkex_requests_failure";
    /// Duration of HTTP requests, in milliseconds.
    pub(crate) const DURATION: &str = "tinkex_request_duration_ms";
    /// Retries of requests.
    pub(crate) const RETRIES: &str = "tinkex_retries_total";
    /// State changes of circuit breakers.
    pub(crate) const BREAKER_CHANGES: &str = "tinkex_breaker_changes_total";
    /// Submitted operations.
    pub(crate) const OPERATIONS: &str = "tinkex_operations_total";
    /// Operations in flight.
    pub(crate) const IN_FLIGHT: &str = "tinkex_operations_in_flight";
}

/// Counters, gauges and histograms by name. Clones are cheap and record into the same metrics.
///
/// The library records `tinkex_requests_total`, `tinkex_requests_success`, `tinkex_requests_failure`,
/// `tinkex_request_duration_ms`, `tinkex_retries_total`, `tinkex_breaker_changes_total`, `tinkex_operations_total` and
/// `tinkex_operations_in_flight`; a program may add others.
///
/// # Example: count and measure
/// ```
/// use std::time::Duration;
/// use tinkex::Metrics;
///
/// let metrics = Metrics::default();
/// metrics.increment("steps", 2);
/// for ms in [10, 20, 40] {
///     metrics.record("step_ms", Duration::from_millis(ms));
/// }
/// let snapshot = metrics.snapshot();
/// assert_eq!(snapshot.counters["steps"], 2);
/// assert_eq!((snapshot.histograms["step_ms"].p50, snapshot.histograms["step_ms"].p99), (Some(20.0), Some(40.0)));
/// ```
#[derive(Clone)]
pub struct Metrics {
    /// `None` if the metrics are disabled.
    state: Option<Arc<Mutex<State>>>,
}

#[derive(Default)]
struct State {
    counters: BTreeMap<String, u64>,
    gauges: BTreeMap<String, f64>,
    histograms: BTreeMap<String, Histogram>,
}

#[derive(Default)]
struct Histogram {
    newest: VecDeque<f64>,
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
}

/// The values of all metrics at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct MetricsSnapshot {
    /// The counters.
    pub counters: BTreeMap<String, u64>,
    /// The gauges.
    pub gauges: BTreeMap<String, f64>,
    /// The histograms.
    pub histograms: BTreeMap<String, HistogramSnapshot>,
}

/// A histogram at one moment. If nothing was recorded, mean, minimum, maximum and percentiles are `None`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct HistogramSnapshot {
    /// The number of recorded values.
    pub count: u64,
    /// The mean of all values.
    pub mean: Option<f64>,
    /// The least of all values.
    pub min: Option<f64>,
    /// The greatest of all values.
    pub max: Option<f64>,
    /// The median of the newest 1000 values. If the number of values is even, the mean of the two middle values.
    pub p50: Option<f64>,
    /// The 95th percentile of the newest 1000 values, by nearest rank.
    pub p95: Option<f64>,
    /// The 99th percentile of the newest 1000 values, by nearest rank.
    pub p99: Option<f64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics { state: Some(Arc::default()) }
    }
}

impl Metrics {
    /// Creates metrics that record nothing, at no cost.
    pub fn disabled() -> Self {
        Metrics { state: None }
    }

    /// Adds to a counter.
    pub fn increment(&self, name: &str, delta: u64) {
        self.edit(|state| *entry(&mut state.counters, name) += delta);
    }

    /// Sets a gauge.
    pub fn set_gauge(&self, name: &str, value: f64) {
        self.edit(|state| *entry(&mut state.gauges, name) = value);
    }

    /// Adds to a gauge.
    pub(crate) fn shift_gauge(&self, name: &str, delta: f64) {
        self.edit(|state| *entry(&mut state.gauges, name) += delta);
    }

    /// Adds a latency to a histogram, in milliseconds, not rounded.
    pub fn record(&self, name: &str, latency: Duration) {
        self.edit(|state| entry(&mut state.histograms, name).record(latency.as_secs_f64() * 1e3));
    }

    /// Copies the current values of all metrics.
    pub fn snapshot(&self) -> MetricsSnapshot {
        let Some(state) = &self.state else { return MetricsSnapshot::default() };
        let state = state.lock();
        MetricsSnapshot {
            counters: state.counters.clone(),
            gauges: state.gauges.clone(),
            histograms: state
                .histograms
                .iter()
                .map(|(name, values)| (name.clone(), values.snapshot()))
                .collect(),
        }
    }

    /// Removes all counters and histograms. Gauges stay, because they describe the current state.
    pub fn reset(&self) {
        self.edit(|state| {
            state.counters.clear();
            state.histograms.clear();
        });
    }

    /// Counts one HTTP request.
    pub(crate) fn request(&self, success: bool, latency: Duration) {
        self.edit(|state| {
            *entry(&mut state.counters, name::REQUESTS) += 1;
            *entry(&mut state.counters, if success { name::SUCCESSES } else { name::FAILURES }) += 1;
            entry(&mut state.histograms, name::DURATION).record(latency.as_secs_f64() * 1e3);
        });
    }

    fn edit(&self, change: impl FnOnce(&mut State)) {
        if let Some(state) = &self.state {
            change(&mut state.lock());
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("enabled", &self.state.is_some()).finish_non_exhaustive()
    }
}

/// Returns the entry with this name; creates it if it is missing. Copies the name only for a new entry.
fn entry<'a, T: Default>(map: &'a mut BTreeMap<String, T>, name: &str) -> &'a mut T {
    if !map.contains_key(name) {
        map.insert(name.into(), T::default());
    }
    // The entry exists: it was inserted above if it was missing.
    #[allow(clippy::expect_used)]
    map.get_mut(name).expect("a name that was just inserted")
}

impl Histogram {
    fn record(&mut self, value: f64) {
        if self.newest.len() == KEPT {
            self.newest.pop_front();
        }
        self.newest.push_back(value);
        (self.min, self.max) = match self.count {
            0 => (value, value),
            _ => (self.min.min(value), self.max.max(value)),
        };
        self.count += 1;
        self.sum += value;
    }

    fn snapshot(&self) -> HistogramSnapshot {
        if self.count == 0 {
            return HistogramSnapshot::default();
        }
        let mut sorted: Vec<f64> = self.newest.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let median = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0;
        let rank = |p: usize| sorted[(n * p).div_ceil(100) - 1];
        HistogramSnapshot {
            count: self.count,
            mean: Some(self.sum / self.count as f64),
            min: Some(self.min),
            max: Some(self.max),
            p50: Some(median),
            p95: Some(rank(95)),
            p99: Some(rank(99)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram_of(values: impl IntoIterator<Item = u64>) -> HistogramSnapshot {
        let metrics = Metrics::default();
        for ms in values {
            metrics.record("x", Duration::from_millis(ms));
        }
        metrics.snapshot().histograms.remove("x").unwrap_or_default()
    }

    #[test]
    fn percentiles_are_exact() {
        let three = histogram_of([40, 10, 20]);
        assert_eq!((three.p50, three.p95, three.p99), (Some(20.0), Some(40.0), Some(40.0)));
        assert_eq!((three.count, three.min, three.max), (3, Some(10.0), Some(40.0)));
        assert!((three.mean.expect("a mean") - 70.0 / 3.0).abs() < 1e-9);
        let two = histogram_of([5, 15]);
        assert_eq!((two.p50, two.p95), (Some(10.0), Some(15.0)));
        let hundred = histogram_of(1..=100);
        assert_eq!((hundred.p50, hundred.p95, hundred.p99), (Some(50.5), Some(95.0), Some(99.0)));
    }

    #[test]
    fn percentiles_cover_the_newest_1000_values_and_mean_and_maximum_cover_all() {
        let all = histogram_of((0..1000).map(|_| 1000).chain((0..1000).map(|_| 1)));
        assert_eq!((all.count, all.p99, all.max), (2000, Some(1.0), Some(1000.0)));
        assert_eq!(all.mean, Some(500.5));
    }

    #[test]
    fn a_new_snapshot_is_empty_and_reset_keeps_only_gauges() {
        let metrics = Metrics::default();
        assert_eq!(metrics.snapshot(), MetricsSnapshot::default());
        metrics.increment("a", 3);
        metrics.set_gauge("g", 1.5);
        metrics.record("h", Duration::from_millis(1));
        metrics.reset();
        let after = metrics.snapshot();
        assert!(after.counters.is_empty() && after.histograms.is_empty());
        assert_eq!(after.gauges["g"], 1.5);
    }

    #[test]
    fn disabled_metrics_record_nothing() {
        let metrics = Metrics::disabled();
        metrics.increment("a", 1);
        metrics.request(true, Duration::ZERO);
        assert_eq!(metrics.snapshot(), MetricsSnapshot::default());
    }
}
