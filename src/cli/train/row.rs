//! A row of `metrics.jsonl` that is being made.

use serde_json::{Map, Value};
use tinkex::train::MetricValue;

/// The values of a row, by name.
pub(super) type Row = Vec<(String, MetricValue)>;

/// A row of metrics that is being made. The first value of a name stays: metrics of the server come last.
#[derive(Debug, Default)]
pub(super) struct Fields(Row);

impl Fields {
    pub(super) fn add(&mut self, name: &str, value: MetricValue) {
        if name != "step" && self.0.iter().all(|(known, _)| known != name) {
            self.0.push((name.into(), value));
        }
    }

    pub(super) fn extend(&mut self, row: Row) {
        for (name, value) in row {
            self.add(&name, value);
        }
    }

    pub(super) fn borrowed(&self) -> Vec<(&str, MetricValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.clone())).collect()
    }

    /// The row as JSON; a number that JSON does not have is `null`.
    pub(super) fn to_json(&self, step: u64) -> Value {
        let mut object: Map<String, Value> = Map::new();
        object.insert("step".into(), step.into());
        for (name, value) in &self.0 {
            let value = match value {
                MetricValue::Int(value) => (*value).into(),
                MetricValue::Text(text) => text.as_str().into(),
                other => other.as_f64().map_or(Value::Null, Value::from),
            };
            object.insert(name.clone(), value);
        }
        Value::Object(object)
    }
}

pub(super) fn integer(n: u64) -> MetricValue {
    i64::try_from(n).map_or(MetricValue::Float(n as f64), MetricValue::Int)
}
