//! Prices of the service's models, from the list that the service publishes. It is fetched at most once in a process.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use super::web;

/// The published list. The variable `TINKEX_PRICES` names another address, a file, or `off`.
const ADDRESS: &str = "https://tinker-docs.thinkingmachines.ai/tinker/models.json";
const VARIABLE: &str = "TINKEX_PRICES";
/// Limit of the whole request: no command may wait long for a price.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest list that is read, in bytes.
const LONGEST: u64 = 4 << 20;

/// Prices of a model in USD per million tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Price {
    pub(crate) prefill: f64,
    /// Of the tokens of a prompt that the server has in its cache.
    pub(crate) cached_prefill: f64,
    pub(crate) sample: f64,
    pub(crate) train: f64,
}

impl Price {
    /// The price of the engine in this process.
    pub(crate) const FREE: Self = Price { prefill: 0.0, cached_prefill: 0.0, sample: 0.0, train: 0.0 };
}

type Prices = BTreeMap<String, Price>;

/// Prices of a model; `None` if they are unknown. Waits for at most 5 s.
pub(crate) fn of(model: &str) -> Option<Price> {
    all().ok()?.get(model).copied()
}

/// Prices of all models, or why they are unknown. Waits for at most 5 s.
pub(crate) fn all() -> Result<&'static Prices, &'static str> {
    static PRICES: OnceLock<Result<Prices, String>> = OnceLock::new();
    let prices = PRICES.get_or_init(|| {
        let source = std::env::var(VARIABLE).ok().filter(|it| !it.is_empty());
        let source = source.as_deref().unwrap_or(ADDRESS);
        if source == "off" {
            return Err(format!("{VARIABLE} is off"));
        }
        let bytes = fetch(source).map_err(|error| format!("cannot read {source}: {error}"))?;
        parse(&bytes).map_err(|error| format!("{source} is not a valid list of prices: {error}"))
    });
    prices.as_ref().map_err(String::as_str)
}

fn fetch(source: &str) -> Result<Vec<u8>, String> {
    if !source.starts_with("http://") && !source.starts_with("https://") {
        return std::fs::read(source).map_err(|error| error.to_string());
    }
    web::fetch(source, TIMEOUT, LONGEST)
}

/// Reads a list of objects with `tinker_id` and prices such as `"$1.87"`. A model that lacks a price is left out, so that
/// no estimate is partial.
fn parse(bytes: &[u8]) -> Result<Prices, String> {
    let entries: Vec<Value> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let prices = entries.iter().filter_map(|entry| {
        let price = |name: &str| amount(&entry[name]);
        let of_model = Price {
            prefill: price("prefill")?,
            cached_prefill: price("cached_prefill")?,
            sample: price("sample")?,
            train: price("train")?,
        };
        Some((entry["tinker_id"].as_str()?.to_owned(), of_model))
    });
    Ok(prices.collect())
}

fn amount(value: &Value) -> Option<f64> {
    let amount = match value {
        Value::String(text) => text.trim().trim_start_matches('$').replace(',', "").parse().ok()?,
        other => other.as_f64()?,
    };
    Some(amount).filter(|it: &f64| it.is_finite() && 0.0 <= *it)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_model_with_all_its_prices_is_known() {
        let list = br#"[
            {"tinker_id": "a/b", "prefill": "$0.195", "cached_prefill": "$0.02", "sample": " $1,000.5 ", "train": 2},
            {"tinker_id": "no/train", "prefill": "$1", "cached_prefill": "$1", "sample": "$1", "train": ""},
            {"tinker_id": "negative", "prefill": "$1", "cached_prefill": "$1", "sample": "$1", "train": "$-1"},
            {"name": "without an id"}, 7
        ]"#;
        let prices = parse(list).unwrap();
        let price = Price { prefill: 0.195, cached_prefill: 0.02, sample: 1000.5, train: 2.0 };
        assert_eq!(prices, [("a/b".to_owned(), price)].into());
        for wrong in ["{}", "", "[", "null"] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
