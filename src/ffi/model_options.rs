//! `tinkex_model_options`: adapter, optimizer and metadata of a model that is created.

use std::collections::BTreeMap;
use std::ffi::c_char;
use std::ptr;

use serde_json::{Map, Value};

use super::border::{self, Fault, Result, text};
use super::object::{self, Kind, Object};
use super::options::{self, Holder, Sticky};
use crate::types::{AccessToken, FromStateOptions, LoraConfig, ModelOptions, OptimizerConfig};

pub type tinkex_model_options = Object<NewModelOptions>;

#[derive(Default)]
pub struct NewModelOptions(Sticky<Settings>);

impl Kind for NewModelOptions {
    const NAME: &'static str = "model_options";
}

impl Holder for NewModelOptions {
    type Options = Settings;

    fn sticky(&self) -> &Sticky<Settings> {
        &self.0
    }
}

/// The settings of models that are new and of models from saved states. Each of them refuses those that it does not
/// have.
#[derive(Clone, Default)]
pub(super) struct Settings {
    lora: LoraConfig,
    /// The first setting of the adapter that was made.
    set_in_lora: Option<&'static str>,
    optimizer: Option<OptimizerConfig>,
    base_model: Option<String>,
    access_token: Option<String>,
    metadata: BTreeMap<String, String>,
    extra_fields: Map<String, Value>,
}

impl Settings {
    /// The options of a new model.
    pub(super) fn for_new(self) -> Result<(LoraConfig, ModelOptions)> {
        let saved_only =
            [("base_model", self.base_model.is_some()), ("access_token", self.access_token.is_some())];
        if let Some((option, _)) = saved_only.iter().find(|(_, is_set)| *is_set) {
            let text = format!("`{option}` can be set only for a model from a saved state");
            return Err(Fault::invalid(*option, text));
        }
        let options = ModelOptions {
            user_metadata: filled(self.metadata),
            optimizer: self.optimizer.unwrap_or_default(),
            extra_fields: self.extra_fields,
        };
        Ok((self.lora, options))
    }

    /// The options of a model from a saved state.
    pub(super) fn for_saved(self, restore_optimizer: bool) -> Result<FromStateOptions> {
        let extra_field = self.extra_fields.keys().next().map(|name| format!("extra_fields[{name:?}]"));
        if let Some(option) = self.set_in_lora.map(Into::into).or(extra_field) {
            let text = format!("`{option}` cannot be set for a model from a saved state");
            return Err(Fault::invalid(option, text));
        }
        Ok(FromStateOptions {
            restore_optimizer,
            base_model: self.base_model,
            user_metadata: filled(self.metadata),
            weights_access_token: self.access_token.map(AccessToken::new),
            optimizer: self.optimizer,
        })
    }

    fn set_flag(&mut self, name: &str, on: bool) -> Result<()> {
        const NAMES: [&str; 3] = ["train_attn", "train_mlp", "train_unembed"];
        let Some(known) = NAMES.iter().find(|known| **known == name) else {
            return Err(Fault::name("flag of a model", name, &NAMES));
        };
        match *known {
            "train_attn" => self.lora.train_attn = on,
            "train_mlp" => self.lora.train_mlp = on,
            _ => self.lora.train_unembed = on,
        }
        self.set_in_lora.get_or_insert(known);
        Ok(())
    }

    fn set_text(&mut self, name: &str, value: &str) -> Result<()> {
        const NAMES: [&str; 2] = ["base_model", "access_token"];
        match name {
            "base_model" => self.base_model = Some(value.into()),
            "access_token" => self.access_token = Some(value.into()),
            _ => return Err(Fault::name("text of a model", name, &NAMES)),
        }
        Ok(())
    }

    fn set_optimizer(&mut self, kind: &str, json: Option<&str>) -> Result<()> {
        let mut settings = match json.map(|json| parse(json, "optimizer")).transpose()? {
            None => Map::new(),
            Some(Value::Object(settings)) => settings,
            Some(_) => {
                return Err(Fault::invalid("optimizer", "the settings of `optimizer` are not a JSON object"));
            }
        };
        self.optimizer = Some(match kind {
            "adamw" if settings.is_empty() => OptimizerConfig::AdamW,
            "dimuon" => {
                let version = settings.remove("version").unwrap_or(1.into());
                let version = version.as_u64().and_then(|version| u32::try_from(version).ok());
                match version {
                    Some(version) if settings.is_empty() => OptimizerConfig::Dimuon { version },
                    Some(_) => return Err(unknown_setting(kind, &settings)),
                    None => {
                        let text = "`optimizer.version` must be a whole number from 1";
                        return Err(Fault::invalid("optimizer.version", text));
                    }
                }
            }
            "adamw" => return Err(unknown_setting(kind, &settings)),
            other => OptimizerConfig::Other { kind: other.into(), more: settings },
        });
        Ok(())
    }
}

fn unknown_setting(kind: &str, settings: &Map<String, Value>) -> Fault {
    let name = settings.keys().next().map_or("", String::as_str);
    Fault::invalid(format!("optimizer.{name}"), format!("the optimizer {kind:?} has no setting {name:?}"))
}

fn parse(json: &str, path: &str) -> Result<Value> {
    serde_json::from_str(json)
        .map_err(|error| Fault::invalid(path, format!("the value of `{path}` is not valid JSON: {error}")))
}

/// `None` if empty.
fn filled(metadata: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    Some(metadata).filter(|metadata| !metadata.is_empty())
}

/// The settings of a handle; NULL has the defaults.
///
/// # Errors
/// The first mistake of the setters.
///
/// # Safety
/// As for [`object::get`].
pub(super) unsafe fn read(options: *const tinkex_model_options) -> Result<Settings> {
    // SAFETY: promised by the caller.
    unsafe { options::read(options) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_model_options_new() -> *mut tinkex_model_options {
    border::value(ptr::null_mut(), || Ok(Object::make(NewModelOptions::default())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_model_options_free(options: *mut *mut tinkex_model_options) {
    // SAFETY: see the header.
    unsafe { object::free(options) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_model_options_set_rank(options: *mut tinkex_model_options, rank: i32) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            it.lora.rank = border::unsigned(rank.into(), "rank")?;
            it.set_in_lora.get_or_insert("rank");
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_model_options_set_seed(options: *mut tinkex_model_options, seed: i64) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            it.lora.seed = Some(border::unsigned(seed, "seed")?);
            it.set_in_lora.get_or_insert("seed");
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_model_options_set_flag(
    options: *mut tinkex_model_options,
    name: *const c_char,
    on: i32,
) {
    // SAFETY: see the header.
    unsafe { options::set(options, |it| it.set_flag(text(name, "name")?, on != 0)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_model_options_set_optimizer(
    options: *mut tinkex_model_options,
    kind: *const c_char,
    json: *const c_char,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            it.set_optimizer(text(kind, "kind")?, border::optional_text(json, "json")?)
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_model_options_set_text(
    options: *mut tinkex_model_options,
    name: *const c_char,
    value: *const c_char,
) {
    // SAFETY: see the header.
    unsafe { options::set(options, |it| it.set_text(text(name, "name")?, text(value, "value")?)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_model_options_add_metadata(
    options: *mut tinkex_model_options,
    key: *const c_char,
    value: *const c_char,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            it.metadata.insert(text(key, "key")?.into(), text(value, "value")?.into());
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_model_options_add_field(
    options: *mut tinkex_model_options,
    name: *const c_char,
    json: *const c_char,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            let name = text(name, "name")?;
            let value = parse(text(json, "json")?, &format!("extra_fields[{name:?}]"))?;
            it.extra_fields.insert(name.into(), value);
            Ok(())
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn path(fault: &Fault) -> Option<&str> {
        match fault {
            Fault::Misuse { path, .. } => path.as_deref(),
            Fault::Sdk(_) => None,
        }
    }

    #[test]
    fn an_optimizer_takes_its_own_settings_only() {
        let set = |kind: &str, json: Option<&str>| {
            let mut settings = Settings::default();
            settings.set_optimizer(kind, json).map(|()| settings.optimizer.unwrap())
        };
        assert_eq!(set("adamw", None).unwrap(), OptimizerConfig::AdamW);
        assert_eq!(set("dimuon", Some("{\"version\": 2}")).unwrap(), OptimizerConfig::Dimuon { version: 2 });
        assert_eq!(set("dimuon", None).unwrap(), OptimizerConfig::Dimuon { version: 1 });
        assert_eq!(set("lion", Some("{\"beta\": 0.5}")).unwrap().into_parts().1["beta"], 0.5);
        let wrong = [
            ("adamw", "{\"eps\": 1}", "optimizer.eps"),
            ("dimuon", "{\"version\": 1.5}", "optimizer.version"),
            ("lion", "{", "optimizer"),
            ("lion", "[]", "optimizer"),
        ];
        for (kind, json, at) in wrong {
            assert_eq!(path(&set(kind, Some(json)).unwrap_err()), Some(at), "{kind} {json}");
        }
    }

    #[test]
    fn settings_of_the_other_kind_of_model_are_refused() {
        let mut adapter = Settings::default();
        adapter.set_flag("train_mlp", false).unwrap();
        assert_eq!(path(&adapter.clone().for_saved(false).unwrap_err()), Some("train_mlp"));
        assert!(!adapter.for_new().unwrap().0.train_mlp);
        let mut saved = Settings::default();
        saved.set_text("access_token", "x").unwrap();
        assert_eq!(path(&saved.clone().for_new().unwrap_err()), Some("access_token"));
        assert!(saved.for_saved(true).unwrap().restore_optimizer);
    }
}
