//! The models that the engine serves, by their names.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::checkpoint::Meta;
use super::engine::{Base, Engine, Opened};
use super::names::{self, NANO};
use super::nn::ModelConfig;
use super::reply::{Reply, refuse};
use crate::tokenizer::{ByteTokenizer, Tokenizer};

/// A model that the engine serves.
pub(super) struct Served {
    pub(super) name: String,
    pub(super) base: Arc<dyn Base>,
    /// The name of the model's architecture.
    pub(super) family: String,
    /// Tokens that end an answer, if the request names none.
    pub(super) eos: Vec<u32>,
    /// Identifies the weights: the seed of a seeded model, the fingerprint of one in files. Checkpoints belong to weights,
    /// not to names.
    pub(super) identity: u64,
    /// Folder of the tokenizer, if the model has one.
    pub(super) tokenizer: Option<String>,
    /// The tokenizer that finds strings in answers, or why there is none. It is loaded when it is first needed.
    text: OnceLock<Result<Arc<dyn Tokenizer>, String>>,
    folder: PathBuf,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Served {
    /// The model `tinkex/nano`; its tokenizer's files are in a folder.
    pub(super) fn nano(engine: &dyn Engine, seed: u64, folder: PathBuf) -> Served {
        let bytes: Arc<dyn Tokenizer> = Arc::new(ByteTokenizer);
        Served {
            name: NANO.into(),
            base: engine.seeded(&ModelConfig::nano(), seed),
            family: "llama".into(),
            eos: vec![ByteTokenizer::EOS as u32],
            identity: seed,
            tokenizer: Some(folder.display().to_string()),
            text: OnceLock::from(Ok(bytes)),
            folder,
        }
    }

    /// The model of a folder.
    fn of_folder(engine: &dyn Engine, name: &str, folder: &Path) -> Result<Served, String> {
        let folder = std::path::absolute(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let Opened { base, family, eos, fingerprint } = engine.open(&folder)?;
        let has = |file: &&str| folder.join(file).is_file();
        let tokenizer = names::TOKENIZER_FILES.iter().any(has).then(|| folder.display().to_string());
        Ok(Served {
            name: name.into(),
            identity: fingerprint,
            base,
            family,
            eos,
            tokenizer,
            text: OnceLock::new(),
            folder,
        })
    }

    pub(super) fn config(&self) -> &ModelConfig {
        self.base.config()
    }

    /// The tokenizer that finds the strings that end an answer.
    ///
    /// # Errors
    /// The model has no tokenizer that can be read, or the engine was built without the feature `text`.
    pub(super) fn text(&self) -> Result<Arc<dyn Tokenizer>, String> {
        let read = || {
            if self.tokenizer.is_some() {
                return read_tokenizer(&self.folder);
            }
            Err(format!("{} has neither {}", self.folder.display(), names::TOKENIZER_FILES.join(" nor ")))
        };
        self.text.get_or_init(read).clone()
    }
}

#[cfg(feature = "text")]
fn read_tokenizer(folder: &Path) -> Result<Arc<dyn Tokenizer>, String> {
    match crate::tokenizer::Bpe::from_dir(folder) {
        Ok(it) => Ok(Arc::new(it)),
        Err(error) => Err(format!("the tokenizer in {} cannot be read: {error}", folder.display())),
    }
}

#[cfg(not(feature = "text"))]
fn read_tokenizer(_: &Path) -> Result<Arc<dyn Tokenizer>, String> {
    Err("this engine was built without the feature `text`, which reads the model's tokenizer".into())
}

/// All models that the engine serves, each with its own name and its aliases.
#[derive(Debug)]
pub(super) struct Models {
    served: Vec<Arc<Served>>,
    aliases: BTreeMap<String, String>,
}

impl Models {
    /// Checks the names of models and aliases.
    ///
    /// # Errors
    /// A name is invalid or taken, or an alias stands for a model that is not served.
    pub(super) fn check(
        models: &BTreeMap<String, PathBuf>,
        aliases: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        for name in models.keys() {
            if name == NANO || !names::is_valid(name) {
                return Err(format!(
                    "models: {name:?} is not a valid name of a model: write it like \"Qwen/Qwen3-8B\""
                ));
            }
        }
        for (alias, model) in aliases {
            if model != NANO && !models.contains_key(model) {
                let served = [NANO].into_iter().chain(models.keys().map(String::as_str));
                let served = served.map(|it| format!("{it:?}")).collect::<Vec<_>>().join(", ");
                return Err(format!(
                    "aliases: the alias {alias:?} stands for {model:?}, but only {served} is served here"
                ));
            }
            if alias == NANO || models.contains_key(alias) || !names::is_valid(alias) {
                return Err(format!(
                    "aliases: {alias:?} is not a valid alias of a model: write it like \"Qwen/Qwen3-8B\""
                ));
            }
        }
        Ok(())
    }

    /// Loads the models, and writes their tokenizers into the data folder, where libraries look up a model by its name
    /// (see [`names::write`]).
    ///
    /// # Errors
    /// A model cannot be loaded, or a file cannot be written.
    pub(super) fn load(
        engine: &dyn Engine,
        models: &BTreeMap<String, PathBuf>,
        aliases: &BTreeMap<String, String>,
        data_dir: &Path,
        seed: u64,
    ) -> Result<Models, String> {
        let names_of = |model: &str| {
            let aliases = aliases.iter().filter(|(_, it)| *it == model).map(|(alias, _)| alias.clone());
            [model.to_owned()].into_iter().chain(aliases).collect::<Vec<_>>()
        };
        let cannot_write =
            |it: std::io::Error| format!("cannot write a tokenizer in {}: {it}", data_dir.display());
        let config = ModelConfig::nano();
        let folder = names::write(data_dir, &names_of(NANO), &config).map_err(cannot_write)?;
        let mut served = vec![Arc::new(Served::nano(engine, seed, folder))];
        for (name, folder) in models {
            let model =
                Served::of_folder(engine, name, folder).map_err(|it| format!("models.{name}: {it}"))?;
            names::copy(data_dir, &names_of(name), &model.folder).map_err(cannot_write)?;
            served.push(Arc::new(model));
        }
        Ok(Models { served, aliases: aliases.clone() })
    }

    /// All names with their models; the own name of each model comes before its aliases.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &Served)> {
        self.served.iter().flat_map(|model| {
            let aliases = self.aliases.iter().filter(|(_, it)| **it == model.name);
            let names = [model.name.as_str()].into_iter().chain(aliases.map(|(alias, _)| alias.as_str()));
            names.map(|name| (name, &**model))
        })
    }

    /// Bytes of the base weights that are in memory.
    pub(super) fn owned_bytes(&self) -> u64 {
        self.served.iter().map(|it| it.base.memory()).sum()
    }

    /// The model of a name.
    pub(super) fn find(&self, name: &str) -> Reply<Arc<Served>> {
        let own = self.aliases.get(name).map_or(name, String::as_str);
        match self.served.iter().find(|model| model.name == own) {
            Some(model) => Ok(model.clone()),
            None => {
                let offered = self.all().map(|it| format!("{:?}", it.0)).collect::<Vec<_>>().join(", ");
                refuse(400, format!("base model {name:?} is not served here; this engine offers {offered}"))
            }
        }
    }

    /// The model that a checkpoint belongs to: one with the weights that it was trained on, by whatever name.
    pub(super) fn of_checkpoint(&self, meta: &Meta) -> Option<&Arc<Served>> {
        let is_nano = |name: &str| name == NANO;
        let fits = |it: &&Arc<Served>| {
            it.identity == meta.base_seed && is_nano(&it.name) == is_nano(&meta.base_model)
        };
        let mut fitting = self.served.iter().filter(fits);
        fitting.clone().find(|it| it.name == meta.base_model).or_else(|| fitting.next())
    }

    /// `alias` if it is an alias of the model, otherwise the model's own name. An alias in an old checkpoint may no longer
    /// exist.
    pub(super) fn shown<'a>(&self, model: &'a Served, alias: Option<&'a str>) -> &'a str {
        self.shown_name(&model.name, alias)
    }

    /// `alias` if it is an alias of the model `name`, otherwise `name`.
    pub(super) fn shown_name<'a>(&self, name: &'a str, alias: Option<&'a str>) -> &'a str {
        alias.filter(|it| self.aliases.get(*it).is_some_and(|model| model == name)).unwrap_or(name)
    }

    /// The name of the base model of a checkpoint, also of one whose model is not served.
    pub(super) fn shown_of<'a>(&'a self, meta: &'a Meta) -> &'a str {
        match self.of_checkpoint(meta) {
            Some(model) => self.shown(model, meta.base_alias.as_deref()),
            None => &meta.base_model,
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;
    use crate::local::cpu::Cpu;
    use std::fs;

    #[test]
    fn only_aliases_of_served_models_are_accepted_and_each_is_found_in_the_folders_of_the_hub() {
        let folder = std::env::temp_dir().join(format!("tinkex-served-{}", std::process::id()));
        let named = |alias: &str, model: &str| {
            let aliases = [(alias.to_string(), model.to_string())].into();
            Models::check(&BTreeMap::new(), &aliases)
                .and_then(|()| Models::load(&Cpu::default(), &BTreeMap::new(), &aliases, &folder, 0))
        };
        let error = named("Qwen/Qwen3-8B", "Qwen/Qwen3-4B").expect_err("an error");
        assert!(error.contains("only \"tinkex/nano\" is served here"), "{error}");
        for bad in ["", "/", "a//b", "../x", "a/..", "a b", "tinkex/nano", "/a"] {
            let error = named(bad, NANO).expect_err("an error");
            assert!(error.contains("not a valid alias"), "{bad:?}: {error}");
            let models = [(bad.to_string(), folder.clone())].into();
            let error = Models::check(&models, &BTreeMap::new()).expect_err("an error");
            assert!(error.contains("not a valid name"), "{bad:?}: {error}");
        }
        let models = named("Qwen/Qwen3-8B", NANO).expect("models");
        let nano = models.find("Qwen/Qwen3-8B").expect("the model");
        assert_eq!((nano.name.as_str(), models.find(NANO).expect("the model").identity), (NANO, 0));
        let refusal = models.find("Qwen/Qwen3-4B").expect_err("a refusal");
        assert!(refusal.detail.contains(r#"offers "tinkex/nano", "Qwen/Qwen3-8B""#), "{}", refusal.detail);
        let shown = [Some("Qwen/Qwen3-8B"), Some("gone"), None].map(|alias| models.shown(&nano, alias));
        assert_eq!(shown, ["Qwen/Qwen3-8B", NANO, NANO]);
        let read = |path: &str| fs::read_to_string(folder.join(path)).expect("a file");
        let tokenizer = read("tokenizer/tokenizer.json");
        for name in ["Qwen--Qwen3-8B", "tinkex--nano"] {
            let repo = format!("hub/models--{name}");
            let revision = read(&format!("{repo}/refs/main"));
            assert_eq!(read(&format!("{repo}/snapshots/{revision}/tokenizer.json")), tokenizer);
        }
        let path = nano.tokenizer.as_deref().map(Path::new).expect("a tokenizer");
        assert!(path.is_absolute() && path.is_dir());
        fs::remove_dir_all(&folder).expect("cleaning up");
    }
}
