//! Checkpoints on disk: one PEFT adapter folder each, which vLLM and PEFT can load, with what the engine needs besides.
//!
//! ```text
//! <data folder>/<run>/weights/<name>/            adapter_config.json  adapter_model.safetensors
//!                                                optimizer.safetensors  tinkex.json
//! <data folder>/<run>/sampler_weights/<name>/    the same without the optimizer
//! ```
//! A folder appears whole or not at all: it is written under another name and then renamed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::nn::LoraSpec;
use crate::clock_text::rfc3339;

/// The strength of an adapter is this over its rank: how the network reads it, and so what PEFT must be told.
const ALPHA: f64 = 32.0;
pub(super) const ADAPTER: &str = "adapter_model.safetensors";
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
const META: &str = "tinkex.json";

/// What a checkpoint holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Training,
    Sampler,
}

impl Kind {
    pub(super) fn segment(self) -> &'static str {
        match self {
            Kind::Training => "weights",
            Kind::Sampler => "sampler_weights",
        }
    }
}

/// Which checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) run_id: String,
    pub(super) kind: Kind,
    pub(super) name: String,
}

impl Place {
    /// The checkpoint of a run under a name, if both could be names of folders.
    pub(super) fn new(run_id: &str, kind: Kind, name: &str) -> Result<Self, String> {
        if !is_name(name) {
            return Err(format!("{name:?} is no name for a checkpoint: use 1 to 255 of A-Z a-z 0-9 _ . -"));
        }
        if !is_name(&run_id.replace(':', "_")) {
            return Err(format!("{run_id:?} is no id of a training run"));
        }
        Ok(Place { run_id: run_id.into(), kind, name: name.into() })
    }

    /// The address of this checkpoint.
    pub(super) fn uri(&self) -> String {
        format!("tinker://{}/{}/{}", self.run_id, self.kind.segment(), self.name)
    }
}

fn is_name(text: &str) -> bool {
    let good = |it: u8| it.is_ascii_alphanumeric() || b"_.-".contains(&it);
    // The two names that mean folders themselves are not among them.
    (1..=255).contains(&text.len()) && text.bytes().all(good) && text.bytes().any(|it| it != b'.')
}

/// What `tinkex.json` says of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Meta {
    pub(super) format: u32,
    pub(super) run_id: String,
    pub(super) base_model: String,
    /// The seed of the base model, whose weights the adapter belongs to.
    pub(super) base_seed: u64,
    pub(super) rank: usize,
    pub(super) seed: u64,
    pub(super) train_attn: bool,
    pub(super) train_mlp: bool,
    pub(super) train_unembed: bool,
    /// RFC 3339.
    pub(super) created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ttl_seconds: Option<u64>,
    /// RFC 3339: when it may go, if that was said after it was saved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user_metadata: Option<BTreeMap<String, String>>,
}

impl Meta {
    pub(super) fn spec(&self) -> LoraSpec {
        LoraSpec {
            rank: self.rank,
            seed: self.seed,
            train_attn: self.train_attn,
            train_mlp: self.train_mlp,
            train_unembed: self.train_unembed,
        }
    }

    fn adapter_config(&self) -> serde_json::Value {
        let mut modules = Vec::new();
        if self.train_attn {
            modules.extend(["q_proj", "k_proj", "v_proj", "o_proj"]);
        }
        if self.train_mlp {
            modules.extend(["gate_proj", "up_proj", "down_proj"]);
        }
        if self.train_unembed {
            modules.push("lm_head");
        }
        json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": self.base_model,
            "r": self.rank, "lora_alpha": ALPHA, "lora_dropout": 0.0, "bias": "none",
            "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true,
            "target_modules": modules, "modules_to_save": null, "use_rslora": false, "use_dora": false,
        })
    }
}

/// Why a checkpoint could not be saved or read.
#[derive(Debug)]
pub(super) enum Problem {
    Missing(String),
    Exists(String),
    /// The disk; the text names the path.
    Disk(String),
}

impl Problem {
    pub(super) fn text(self) -> String {
        match self {
            Problem::Missing(it) | Problem::Exists(it) | Problem::Disk(it) => it,
        }
    }
}

fn disk(path: &Path, doing: &str, error: &io::Error) -> Problem {
    Problem::Disk(format!("cannot {doing} {}: {error}", path.display()))
}

/// The folder of all checkpoints.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    drafts: AtomicU64,
}

impl Store {
    pub(super) fn new(root: PathBuf) -> Self {
        Store { root, drafts: AtomicU64::new(0) }
    }

    fn folder(&self, place: &Place) -> PathBuf {
        self.root.join(place.run_id.replace(':', "_")).join(place.kind.segment()).join(&place.name)
    }

    /// Saves a checkpoint: its files besides the two that describe it.
    pub(super) fn save(
        &self,
        place: &Place,
        meta: &Meta,
        files: &[(&str, Vec<u8>)],
        overwrite: bool,
    ) -> Result<(), Problem> {
        let folder = self.folder(place);
        let exists =
            || Problem::Exists(format!("{} already exists; save with overwrite to replace it", place.uri()));
        if !overwrite && folder.exists() {
            return Err(exists());
        }
        let parent = folder.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent).map_err(|it| disk(parent, "create", &it))?;
        // Unique among the processes and the saves that share the folder.
        let number = self.drafts.fetch_add(1, Ordering::Relaxed);
        let draft = self.root.join(format!(".draft-{}-{number}", std::process::id()));
        let written = write_folder(&draft, meta, files).and_then(|()| {
            if overwrite && folder.exists() {
                // A rename replaces no folder with content. The old one steps aside and is removed afterwards.
                let aside = self.root.join(format!(".old-{}-{number}", std::process::id()));
                fs::rename(&folder, &aside).map_err(|it| disk(&folder, "replace", &it))?;
                let moved = fs::rename(&draft, &folder).map_err(|it| disk(&folder, "write", &it));
                if moved.is_err() {
                    let _ = fs::rename(&aside, &folder);
                }
                let _ = fs::remove_dir_all(&aside);
                return moved;
            }
            fs::rename(&draft, &folder).map_err(|it| match folder.exists() {
                true => exists(),
                false => disk(&folder, "write", &it),
            })
        });
        if written.is_err() {
            let _ = fs::remove_dir_all(&draft);
        }
        written
    }

    /// What a checkpoint says of itself.
    pub(super) fn meta(&self, place: &Place) -> Result<Meta, Problem> {
        let bytes = self.read(place, META)?;
        serde_json::from_slice(&bytes)
            .map_err(|it| Problem::Disk(format!("{}: {it}", self.folder(place).join(META).display())))
    }

    /// One file of a checkpoint.
    pub(super) fn read(&self, place: &Place, file: &str) -> Result<Vec<u8>, Problem> {
        let path = self.folder(place).join(file);
        fs::read(&path).map_err(|it| match it.kind() {
            io::ErrorKind::NotFound if file == OPTIMIZER => {
                Problem::Missing(format!("{} holds no optimizer state", place.uri()))
            }
            io::ErrorKind::NotFound => Problem::Missing(format!("{} does not exist", place.uri())),
            _ => disk(&path, "read", &it),
        })
    }

    /// All checkpoints. What cannot be read is none.
    pub(super) fn all(&self) -> Vec<Found> {
        folders(&self.root).flat_map(|run| self.within(&run)).collect()
    }

    /// The checkpoints of a run.
    pub(super) fn of_run(&self, run_id: &str) -> Vec<Found> {
        let Ok(place) = Place::new(run_id, Kind::Training, "any") else { return Vec::new() };
        let folder = self.folder(&place);
        let run = folder.ancestors().nth(2).unwrap_or(&self.root);
        self.within(run).into_iter().filter(|it| it.meta.run_id == run_id).collect()
    }

    /// The checkpoints in the folder of a run.
    fn within(&self, run: &Path) -> Vec<Found> {
        let kinds = [Kind::Training, Kind::Sampler].into_iter();
        let places = kinds.flat_map(|kind| folders(&run.join(kind.segment())).map(move |it| (kind, it)));
        places.filter_map(|(kind, folder)| self.found(kind, &folder)).collect()
    }

    fn found(&self, kind: Kind, folder: &Path) -> Option<Found> {
        let meta: Meta = serde_json::from_slice(&fs::read(folder.join(META)).ok()?).ok()?;
        let place = Place::new(&meta.run_id, kind, folder.file_name()?.to_str()?).ok()?;
        let files = fs::read_dir(folder).ok()?.flatten();
        let size_bytes = files.filter_map(|it| Some(it.metadata().ok()?.len())).sum();
        // A folder that was copied from another run is not where its description says.
        (self.folder(&place) == folder).then_some(Found { place, meta, size_bytes })
    }

    /// Deletes a checkpoint: it is gone as a whole before its files are.
    pub(super) fn delete(&self, place: &Place) -> Result<(), Problem> {
        let folder = self.folder(place);
        let number = self.drafts.fetch_add(1, Ordering::Relaxed);
        let aside = self.root.join(format!(".old-{}-{number}", std::process::id()));
        fs::rename(&folder, &aside).map_err(|it| match it.kind() {
            io::ErrorKind::NotFound => Problem::Missing(format!("{} does not exist", place.uri())),
            _ => disk(&folder, "delete", &it),
        })?;
        fs::remove_dir_all(&aside).map_err(|it| disk(&aside, "delete", &it))
    }

    /// Notes in its description how much longer a checkpoint is to be kept; `None` is for ever.
    pub(super) fn keep(&self, place: &Place, ttl_seconds: Option<u64>) -> Result<(), Problem> {
        let mut meta = self.meta(place)?;
        let end = ttl_seconds.and_then(|it| SystemTime::now().checked_add(Duration::from_secs(it)));
        (meta.ttl_seconds, meta.expires) = (ttl_seconds, end.map(rfc3339));
        let text = serde_json::to_string_pretty(&meta).map_err(|it| Problem::Disk(it.to_string()))?;
        let (path, number) = (self.folder(place).join(META), self.drafts.fetch_add(1, Ordering::Relaxed));
        // Replaced at once, so that nobody reads half of it.
        let draft = path.with_file_name(format!(".draft-{}-{number}", std::process::id()));
        let written = fs::write(&draft, text + "\n").and_then(|()| fs::rename(&draft, &path));
        written.map_err(|it| disk(&path, "write", &it))
    }
}

/// A checkpoint that is on disk.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) meta: Meta,
    /// All its files together.
    pub(super) size_bytes: u64,
}

impl Found {
    pub(super) fn kind(&self) -> Kind {
        self.place.kind
    }
}

/// The folders in a folder, in the order of their names.
fn folders(within: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(within).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = entries.map(|it| it.path()).filter(|it| it.is_dir()).collect();
    all.sort();
    all.into_iter()
}

fn write_folder(folder: &Path, meta: &Meta, files: &[(&str, Vec<u8>)]) -> Result<(), Problem> {
    fs::create_dir_all(folder).map_err(|it| disk(folder, "create", &it))?;
    let pretty = |it: serde_json::Value| format!("{it:#}\n").into_bytes();
    let config = pretty(meta.adapter_config());
    let own = serde_json::to_value(meta).map(pretty).map_err(|it| Problem::Disk(it.to_string()))?;
    let described = [("adapter_config.json", &config), (META, &own)];
    for (name, bytes) in files.iter().map(|(name, bytes)| (*name, bytes)).chain(described) {
        let path = folder.join(name);
        let write = |path: &Path| {
            let mut file = fs::File::create(path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write(&path).map_err(|it| disk(&path, "write", &it))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    fn store(name: &str) -> Store {
        let root = std::env::temp_dir().join(format!("tinkex-checkpoint-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        Store::new(root)
    }

    fn place(name: &str) -> Place {
        Place::new("s:train:0", Kind::Training, name).expect("a good name")
    }

    fn meta() -> Meta {
        let run_id = "s:train:0".into();
        Meta {
            format: 1,
            run_id,
            rank: 8,
            train_mlp: true,
            base_model: "tinkex/nano".into(),
            ..Meta::default()
        }
    }

    #[test]
    fn names_that_could_leave_the_folder_are_refused() {
        let long = "x".repeat(256);
        for name in ["", ".", "..", "a/b", "a\\b", "a b", "é", "a:b", &long] {
            assert!(Place::new("s", Kind::Training, name).is_err(), "{name:?}");
            assert!(Place::new("../s", Kind::Training, "x").is_err());
        }
        for name in ["x", "..x", "step-1_0.5", &long[..255]] {
            assert!(Place::new("s:train:0", Kind::Training, name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn a_checkpoint_is_there_as_a_whole_and_is_replaced_only_if_asked() {
        let store = store("whole");
        let save = |bytes: &[u8], overwrite| {
            store.save(&place("a"), &meta(), &[(ADAPTER, bytes.to_vec())], overwrite)
        };
        save(b"1", false).expect("a first save");
        assert!(
            matches!(save(b"2", false), Err(Problem::Exists(text)) if text.contains("s:train:0/weights/a"))
        );
        assert_eq!(store.read(&place("a"), ADAPTER).expect("the file"), b"1");
        save(b"2", true).expect("a second save");
        assert_eq!(store.read(&place("a"), ADAPTER).expect("the file"), b"2");
        assert_eq!(store.meta(&place("a")).expect("the description"), meta());
        let found = store.of_run("s:train:0");
        assert_eq!((found.len(), &found[0].place, found[0].meta.rank), (1, &place("a"), 8));
        assert!(store.of_run("s:train:1").is_empty() && store.all().len() == 1);
        assert!(matches!(store.read(&place("a"), OPTIMIZER), Err(Problem::Missing(_))));
        assert!(matches!(store.meta(&place("b")), Err(Problem::Missing(_))));
        let config = store.read(&place("a"), "adapter_config.json").expect("the file");
        let config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
        assert_eq!(config["target_modules"], json!(["gate_proj", "up_proj", "down_proj"]));
        let left: Vec<_> =
            fs::read_dir(&store.root).expect("the folder").flatten().map(|it| it.file_name()).collect();
        assert_eq!(left, ["s_train_0"], "no drafts are left");
        fs::remove_dir_all(&store.root).expect("cleaning up");
    }

    #[test]
    fn a_deleted_checkpoint_is_gone_and_a_kept_one_says_until_when() {
        let store = store("delete");
        for name in ["a", "b"] {
            store.save(&place(name), &meta(), &[(ADAPTER, b"1".to_vec())], false).expect("a save");
        }
        store.delete(&place("a")).expect("a deletion");
        assert!(
            matches!(store.delete(&place("a")), Err(Problem::Missing(text)) if text.contains("weights/a"))
        );
        assert!(matches!(store.keep(&place("a"), None), Err(Problem::Missing(_))));
        store.keep(&place("b"), Some(3600)).expect("a note");
        let found = store.all();
        assert_eq!(found.len(), 1);
        assert!(found[0].meta.expires.is_some() && found[0].meta.rank == 8 && 1 < found[0].size_bytes);
        store.keep(&place("b"), None).expect("a note");
        assert_eq!(store.meta(&place("b")).expect("the description"), meta());
        assert_eq!(folders(&store.root).count(), 1, "nothing stays aside");
        fs::remove_dir_all(&store.root).expect("cleaning up");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_with_its_path() {
        let store = store("file");
        fs::write(&store.root, "a file where the folder should be").expect("a file");
        let saved = store.save(&place("a"), &meta(), &[], false);
        let text = saved.expect_err("an error").text();
        assert!(text.starts_with("cannot create") && text.contains("s_train_0"), "{text}");
        fs::remove_file(&store.root).expect("cleaning up");
    }
}
