//! Checkpoints on disk: one PEFT adapter folder each, which vLLM and PEFT can load, with what the engine needs besides.
//!
//! ```text
//! <data folder>/<run>/weights/<name>/            adapter_config.json  adapter_model.safetensors
//!                                                optimizer.safetensors  tinkex.json
//! <data folder>/<run>/sampler_weights/<name>/    the same without the optimizer
//! <data folder>/<run>/external_weights/<name>/   likewise, to be fetched
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
use crate::clock_text::{parse_rfc3339, rfc3339};

/// The strength of an adapter is this over its rank: how the network reads it, and so what PEFT must be told.
const ALPHA: f64 = 32.0;
pub(super) const ADAPTER: &str = "adapter_model.safetensors";
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
const META: &str = "tinkex.json";
const CONFIG: &str = "adapter_config.json";

/// What a checkpoint holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Training,
    Sampler,
    External,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Training, Kind::Sampler, Kind::External];

    pub(super) fn segment(self) -> &'static str {
        match self {
            Kind::Training => "weights",
            Kind::Sampler => "sampler_weights",
            Kind::External => "external_weights",
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
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) public: bool,
    /// Of a copy: the project it was made for …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) project_id: Option<String>,
    /// … and what it is a copy of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) copy_of: Option<String>,
}

impl Meta {
    /// When it may go.
    pub(super) fn end(&self) -> Option<SystemTime> {
        match (&self.expires, self.ttl_seconds) {
            (Some(it), _) => parse_rfc3339(it),
            (None, Some(it)) => parse_rfc3339(&self.created)?.checked_add(Duration::from_secs(it)),
            (None, None) => None,
        }
    }

    fn is_over(&self, now: SystemTime) -> bool {
        self.end().is_some_and(|it| it <= now)
    }

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
        // One whose time is over is there no longer, though its folder may be.
        let overwrite = overwrite || self.is_over(&folder);
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

    fn is_over(&self, folder: &Path) -> bool {
        description(folder).is_some_and(|it| it.is_over(SystemTime::now()))
    }

    /// What a checkpoint says of itself.
    pub(super) fn meta(&self, place: &Place) -> Result<Meta, Problem> {
        let bytes = self.read(place, META)?;
        let meta: Meta = serde_json::from_slice(&bytes)
            .map_err(|it| Problem::Disk(format!("{}: {it}", self.folder(place).join(META).display())))?;
        match meta.is_over(SystemTime::now()) {
            true => Err(Problem::Missing(format!("{} does not exist: its time is over", place.uri()))),
            false => Ok(meta),
        }
    }

    /// The names of the files that a checkpoint is made of, without the engine's own description.
    pub(super) fn files(&self, place: &Place) -> Result<Vec<String>, Problem> {
        self.meta(place)?;
        let folder = self.folder(place);
        let entries = fs::read_dir(&folder).map_err(|it| disk(&folder, "read", &it))?;
        let names = entries.flatten().filter_map(|it| it.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|it| it != META && !it.starts_with('.')).collect();
        names.sort();
        Ok(names)
    }

    /// All those files in one, as tar writes them.
    pub(super) fn archive(&self, place: &Place) -> Result<Vec<u8>, Problem> {
        let mut archive = tar::Builder::new(Vec::new());
        let failed = |it: &io::Error| Problem::Disk(format!("cannot archive {}: {it}", place.uri()));
        for name in self.files(place)? {
            let bytes = self.read(place, &name)?;
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, &name, &bytes[..]).map_err(|it| failed(&it))?;
        }
        archive.into_inner().map_err(|it| failed(&it))
    }

    /// All files of a checkpoint under another name, described anew.
    pub(super) fn copy(&self, from: &Place, to: &Place, meta: &Meta) -> Result<(), Problem> {
        let mut files = Vec::new();
        for name in self.files(from)?.into_iter().filter(|it| it != CONFIG) {
            let bytes = self.read(from, &name)?;
            files.push((name, bytes));
        }
        let files: Vec<(&str, Vec<u8>)> =
            files.iter_mut().map(|(name, it)| (name.as_str(), std::mem::take(it))).collect();
        self.save(to, meta, &files, false)
    }

    /// Notes in its description whether everyone may read a checkpoint. That it is so already is an error.
    pub(super) fn publish(&self, place: &Place, public: bool) -> Result<(), Problem> {
        let mut meta = self.meta(place)?;
        if meta.public == public {
            let state = if public { "public" } else { "private" };
            return Err(Problem::Exists(format!("{} is {state} already", place.uri())));
        }
        meta.public = public;
        self.describe(place, &meta)
    }

    /// Deletes the checkpoints whose time is over; returns their addresses.
    pub(super) fn sweep(&self, now: SystemTime) -> Vec<String> {
        let all = self.everything().into_iter().filter(|it| it.meta.is_over(now));
        all.filter(|it| self.delete(&it.place).is_ok()).map(|it| it.place.uri()).collect()
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

    /// All checkpoints. What cannot be read is none, and neither is what should have been deleted.
    pub(super) fn all(&self) -> Vec<Found> {
        let now = SystemTime::now();
        self.everything().into_iter().filter(|it| !it.meta.is_over(now)).collect()
    }

    fn everything(&self) -> Vec<Found> {
        folders(&self.root).flat_map(|run| self.within(&run)).collect()
    }

    /// The checkpoints of a run.
    pub(super) fn of_run(&self, run_id: &str) -> Vec<Found> {
        let Ok(place) = Place::new(run_id, Kind::Training, "any") else { return Vec::new() };
        let folder = self.folder(&place);
        let run = folder.ancestors().nth(2).unwrap_or(&self.root);
        let now = SystemTime::now();
        let here = |it: &Found| it.meta.run_id == run_id && !it.meta.is_over(now);
        self.within(run).into_iter().filter(here).collect()
    }

    /// The checkpoints in the folder of a run.
    fn within(&self, run: &Path) -> Vec<Found> {
        let kinds = Kind::ALL.into_iter();
        let places = kinds.flat_map(|kind| folders(&run.join(kind.segment())).map(move |it| (kind, it)));
        places.filter_map(|(kind, folder)| self.found(kind, &folder)).collect()
    }

    fn found(&self, kind: Kind, folder: &Path) -> Option<Found> {
        let meta = description(folder)?;
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
        self.describe(place, &meta)
    }

    fn describe(&self, place: &Place, meta: &Meta) -> Result<(), Problem> {
        let text = serde_json::to_string_pretty(meta).map_err(|it| Problem::Disk(it.to_string()))?;
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

fn description(folder: &Path) -> Option<Meta> {
    serde_json::from_slice(&fs::read(folder.join(META)).ok()?).ok()
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
    let described = [(CONFIG, &config), (META, &own)];
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
mod tests;
