//! JSON objects one level at a time: keys in their order, values as they are written.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The fields of an object in their order, duplicates included.
#[derive(Debug)]
pub(crate) struct Pairs<'a>(pub(crate) Vec<(String, &'a str)>);

impl<'a> Pairs<'a> {
    pub(crate) fn of(text: &'a str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, raw)| *raw)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(key, _)| key.as_str()).collect()
    }

    /// The keys whose values say something: data sets have columns that are null.
    pub(crate) fn given_keys(&self) -> Vec<&str> {
        self.0.iter().filter(|(_, raw)| *raw != "null").map(|(key, _)| key.as_str()).collect()
    }

    /// The text of an object of these fields.
    pub(crate) fn text<'b>(fields: impl IntoIterator<Item = (&'b str, &'b str)>) -> String {
        let fields = fields.into_iter().map(|(key, raw)| format!("{}:{raw}", serde_json::Value::from(key)));
        format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
    }
}

/// The items of a list, as they are written; `None` if the text is no list.
pub(super) fn items(text: &str) -> Option<Vec<&str>> {
    let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    Some(items.into_iter().map(RawValue::get).collect())
}

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pairs<'de>, M::Error> {
                let mut fields = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
                    fields.push((key, value.get()));
                }
                Ok(Pairs(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}
