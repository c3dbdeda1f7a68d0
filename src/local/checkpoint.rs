//! Checkpoints on disk: one PEFT adapter folder each, which vLLM and PEFT can load, plus files of the engine.
//!
//! ```text
//! <data folder>/<run>/weights/<name>/            adapter_config.json  adapter_model.safetensors
//!                                                optimizer.safetensors  tinkex.json
//! <data folder>/<run>/sampler_weights/<name>/    the same without the optimizer
//! <data folder>/<run>/external_weights/<name>/   likewise, to be downloaded
//! ```
//! A folder appears completely or not at all: it is written under a temporary name and renamed once all of it is on
//! the disk. A checkpoint that replaces another one exchanges names with it in one step, so that readers, and the next
//! engine if this one is killed, find either the old or the new one. Where the system cannot exchange names this takes
//! two steps, between which readers wait; the next engine undoes the first step if the second is missing.
//!
//! Temporary folders, and the lock that excludes a second engine, are in `<data folder>/.tinkex`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::nn::LoraSpec;
use crate::clock_text::{parse_rfc3339, rfc3339};
use disk::{Aside, exchange, sync_folder, write_file};
use lease::Lease;

mod disk;
mod lease;

/// The adapter is scaled by this value over its rank, in the network and in the configuration for PEFT.
const ALPHA: f64 = 32.0;
pub(super) const ADAPTER: &str = "adapter_model.safetensors";
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
const META: &str = "tinkex.json";
const CONFIG: &str = "adapter_config.json";
/// Number of attempts to read a checkpoint that is being replaced.
const MOST_LOOKS: usize = 100;

/// Name and content of a file of a checkpoint.
type NamedFile = (String, Vec<u8>);

/// Kind of a checkpoint.
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

/// Id of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) run_id: String,
    pub(super) kind: Kind,
    pub(super) name: String,
}

impl Place {
    /// The id of a checkpoint, if the run id and the name are valid folder names.
    pub(super) fn new(run_id: &str, kind: Kind, name: &str) -> Result<Self, String> {
        if !is_name(name) {
            return Err(format!(
                "{name:?} is not a valid checkpoint name: use 1 to 255 of A-Z a-z 0-9 _ . -"
            ));
        }
        if !is_name(&run_id.replace(':', "_")) {
            return Err(format!("{run_id:?} is not a valid id of a training run"));
        }
        Ok(Place { run_id: run_id.into(), kind, name: name.into() })
    }

    /// The `tinker://` path of this checkpoint.
    pub(super) fn uri(&self) -> String {
        format!("tinker://{}/{}/{}", self.run_id, self.kind.segment(), self.name)
    }
}

fn is_name(text: &str) -> bool {
    let good = |it: u8| it.is_ascii_alphanumeric() || b"_.-".contains(&it);
    // `.` and `..` are not allowed.
    (1..=255).contains(&text.len()) && text.bytes().all(good) && text.bytes().any(|it| it != b'.')
}

/// Content of `tinkex.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Meta {
    pub(super) format: u32,
    /// Random number of this save, different from that of all other saves under this name.
    pub(super) save_id: u64,
    pub(super) run_id: String,
    pub(super) base_model: String,
    /// Alias of the base model in the request, if one was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) asked_as: Option<String>,
    /// Seed of the base model that the adapter was trained on.
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
    /// RFC 3339: time of expiry, if it was set after the save.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user_metadata: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) public: bool,
    /// Of a copy: its project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) project_id: Option<String>,
    /// Of a copy: the path of its source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) copy_of: Option<String>,
}

impl Meta {
    /// Time of expiry.
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

    /// Content of `tinkex.json`.
    fn text(&self) -> Result<Vec<u8>, Problem> {
        let text = serde_json::to_string_pretty(self).map_err(|it| Problem::Disk(it.to_string()))?;
        Ok((text + "\n").into_bytes())
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

/// Reason for which a checkpoint cannot be saved or read.
#[derive(Debug)]
pub(super) enum Problem {
    Missing(String),
    Exists(String),
    /// An error of the disk; the text names the path.
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

/// The folder of all checkpoints, locked against other engines.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    lease: Lease,
    /// Held while a name is checked and changed. Only names and descriptions are read and written under it: no
    /// weights, and nothing that syncs.
    names: Mutex<()>,
    /// Cleared when the file system turns out to be unable to exchange two names.
    exchanges: AtomicBool,
}

impl Store {
    /// Opens a folder, creating it if necessary, and removes what an earlier engine left unfinished.
    ///
    /// # Errors
    /// Another engine uses the folder, or it cannot be written to.
    pub(super) fn open(root: PathBuf) -> Result<Self, String> {
        let lease = Lease::take(&root)?;
        Ok(Store { root, lease, names: Mutex::new(()), exchanges: AtomicBool::new(true) })
    }

    fn folder(&self, place: &Place) -> PathBuf {
        self.root.join(within(place))
    }

    /// Folder for files that need not outlive this engine.
    pub(super) fn scratch(&self) -> PathBuf {
        self.lease.drafts()
    }

    /// A new path for a draft, or for a folder that is to be deleted. Unique among all runs of the engine.
    fn aside(&self) -> Aside {
        Aside(self.lease.drafts().join(format!("{:016x}", fastrand::u64(..))))
    }

    /// Saves a checkpoint: the given files and the two that describe it. All of it is on the disk when this returns.
    pub(super) fn save(
        &self,
        place: &Place,
        meta: &Meta,
        files: &[(&str, Vec<u8>)],
        overwrite: bool,
    ) -> Result<(), Problem> {
        let folder = self.folder(place);
        let now = SystemTime::now();
        // An expired checkpoint counts as missing, though its folder may still exist.
        let taken = || !overwrite && folder.exists() && !is_over(&folder, now);
        // Only `save_weights` has the option to overwrite.
        let hint = match place.kind {
            Kind::Training => "save with overwrite to replace it",
            Kind::Sampler | Kind::External => "delete it or take another name",
        };
        let exists = || Problem::Exists(format!("{} already exists; {hint}", place.uri()));
        // Checked again under the lock; this check avoids writing files that cannot be kept.
        if !overwrite && description(&folder).is_some_and(|it| !it.is_over(now)) {
            return Err(exists());
        }
        let meta = Meta { save_id: fastrand::u64(1..), ..meta.clone() };
        let draft = self.aside();
        write_folder(&draft.0, &meta, files)?;
        let parent = folder.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent).map_err(|it| disk(parent, "create", &it))?;
        {
            let _names = self.names.lock();
            if taken() {
                return Err(exists());
            }
            self.give_name(&draft, place).map_err(|it| disk(&folder, "write", &it))?;
        }
        // Sync the new name and those of the parent folders, which may be new.
        self.sync(&folder)
        // The replaced checkpoint now has the draft's path and is deleted with the draft.
    }

    /// Renames a draft to the name of a checkpoint; an existing checkpoint gets the path of the draft.
    fn give_name(&self, draft: &Aside, place: &Place) -> io::Result<()> {
        let folder = self.folder(place);
        if fs::symlink_metadata(&folder).is_err() {
            return fs::rename(&draft.0, &folder);
        }
        if self.exchanges.load(Ordering::Relaxed) {
            if exchange(&draft.0, &folder)? {
                return Ok(());
            }
            self.exchanges.store(false, Ordering::Relaxed);
        }
        // Rename in two steps. If only the first is done, the next engine undoes it.
        let moved = self.lease.moved().join(within(place));
        disk::remove(&moved);
        fs::create_dir_all(moved.parent().unwrap_or(&self.root))?;
        fs::rename(&folder, &moved)?;
        if let Err(error) = fs::rename(&draft.0, &folder) {
            return fs::rename(&moved, &folder).and(Err(error));
        }
        fs::rename(&moved, &draft.0)
    }

    /// Syncs the name of a checkpoint and those of its parent folders.
    fn sync(&self, folder: &Path) -> Result<(), Problem> {
        let around = folder.ancestors().skip(1).take_while(|it| it.starts_with(&self.root));
        for it in around {
            sync_folder(it).map_err(|error| disk(it, "sync", &error))?;
        }
        Ok(())
    }

    /// Reads the description of a checkpoint.
    pub(super) fn meta(&self, place: &Place) -> Result<Meta, Problem> {
        let meta = match self.read_meta(place) {
            // It may be between the two steps of a replacement.
            Err(Problem::Missing(_)) if !self.exchanges.load(Ordering::Relaxed) => {
                let _names = self.names.lock();
                self.read_meta(place)?
            }
            read => read?,
        };
        if meta.is_over(SystemTime::now()) {
            return Err(Problem::Missing(format!("{} does not exist: its time is over", place.uri())));
        }
        Ok(meta)
    }

    fn read_meta(&self, place: &Place) -> Result<Meta, Problem> {
        let bytes = self.read_file(place, META)?;
        serde_json::from_slice(&bytes)
            .map_err(|it| Problem::Disk(format!("{}: {it}", self.folder(place).join(META).display())))
    }

    /// Reads parts of a checkpoint, all from one save: if it is replaced meanwhile, `read` runs again.
    fn consistent<T>(
        &self,
        place: &Place,
        read: impl Fn() -> Result<T, Problem>,
    ) -> Result<(Meta, T), Problem> {
        for _ in 0..MOST_LOOKS {
            let meta = self.meta(place)?;
            let found = read();
            if self.meta(place)?.save_id == meta.save_id {
                return found.map(|it| (meta, it));
            }
        }
        Err(Problem::Disk(format!("{} is replaced faster than it can be read", place.uri())))
    }

    /// Names of the files of a checkpoint, without the engine's own description.
    fn file_names(&self, place: &Place) -> Result<Vec<String>, Problem> {
        let folder = self.folder(place);
        let entries = fs::read_dir(&folder).map_err(|it| disk(&folder, "read", &it))?;
        let names = entries.flatten().filter_map(|it| it.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|it| it != META && !it.starts_with('.')).collect();
        names.sort();
        Ok(names)
    }

    /// The description and the file names of a checkpoint.
    pub(super) fn files(&self, place: &Place) -> Result<(Meta, Vec<String>), Problem> {
        self.consistent(place, || self.file_names(place))
    }

    /// The description and some files of a checkpoint.
    pub(super) fn read(&self, place: &Place, files: &[&str]) -> Result<(Meta, Vec<Vec<u8>>), Problem> {
        self.consistent(place, || files.iter().map(|it| self.read_file(place, it)).collect())
    }

    /// The description and all files of a checkpoint.
    fn read_all(&self, place: &Place) -> Result<(Meta, Vec<NamedFile>), Problem> {
        self.consistent(place, || {
            let names = self.file_names(place)?.into_iter();
            names.map(|it| self.read_file(place, &it).map(|bytes| (it, bytes))).collect()
        })
    }

    /// The description and all files of a checkpoint as a tar archive.
    pub(super) fn archive(&self, place: &Place) -> Result<(Meta, Vec<u8>), Problem> {
        let mut archive = tar::Builder::new(Vec::new());
        let failed = |it: &io::Error| Problem::Disk(format!("cannot archive {}: {it}", place.uri()));
        let (meta, files) = self.read_all(place)?;
        for (name, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, &name, &bytes[..]).map_err(|it| failed(&it))?;
        }
        Ok((meta, archive.into_inner().map_err(|it| failed(&it))?))
    }

    /// Copies all files of a checkpoint to another name, with a changed description.
    pub(super) fn copy(
        &self,
        from: &Place,
        to: &Place,
        describe: impl FnOnce(Meta) -> Meta,
    ) -> Result<(), Problem> {
        let (meta, files) = self.read_all(from)?;
        let files = files.iter().filter(|it| it.0 != CONFIG);
        let files: Vec<(&str, Vec<u8>)> = files.map(|(name, it)| (name.as_str(), it.clone())).collect();
        self.save(to, &describe(meta), &files, false)
    }

    /// Makes a checkpoint public or private. It is an error if it is so already.
    pub(super) fn publish(&self, place: &Place, public: bool) -> Result<(), Problem> {
        self.describe(place, |meta| {
            if meta.public == public {
                let state = if public { "public" } else { "private" };
                return Err(Problem::Exists(format!("{} is {state} already", place.uri())));
            }
            meta.public = public;
            Ok(())
        })
    }

    /// Deletes expired checkpoints; returns their paths. One that was replaced meanwhile stays.
    pub(super) fn sweep(&self, now: SystemTime) -> Vec<String> {
        let all = self.everything().into_iter().filter(|it| it.meta.is_over(now));
        let gone = |it: &Found| matches!(self.take_away(&it.place, |it| is_over(it, now)), Ok(true));
        all.filter(gone).map(|it| it.place.uri()).collect()
    }

    /// Reads one file of a checkpoint.
    fn read_file(&self, place: &Place, file: &str) -> Result<Vec<u8>, Problem> {
        let path = self.folder(place).join(file);
        fs::read(&path).map_err(|it| match it.kind() {
            io::ErrorKind::NotFound if file == OPTIMIZER => {
                Problem::Missing(format!("{} holds no optimizer state", place.uri()))
            }
            io::ErrorKind::NotFound => Problem::Missing(format!("{} does not exist", place.uri())),
            _ => disk(&path, "read", &it),
        })
    }

    /// All checkpoints that can be read and have not expired.
    pub(super) fn all(&self) -> Vec<Found> {
        let now = SystemTime::now();
        self.everything().into_iter().filter(|it| !it.meta.is_over(now)).collect()
    }

    fn everything(&self) -> Vec<Found> {
        let runs = folders(&self.root).filter(|it| it != self.lease.folder());
        runs.flat_map(|run| self.within(&run)).collect()
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
        // The folder of another run, copied by hand, is not where its description says.
        (self.folder(&place) == folder).then_some(Found { place, meta, size_bytes })
    }

    /// Deletes a checkpoint. Its name disappears before its files do.
    pub(super) fn delete(&self, place: &Place) -> Result<(), Problem> {
        self.take_away(place, |_| true).map(|_| ())
    }

    /// Deletes a checkpoint if its folder passes `wanted`; returns whether it was deleted.
    fn take_away(&self, place: &Place, wanted: impl Fn(&Path) -> bool) -> Result<bool, Problem> {
        let (folder, aside) = (self.folder(place), self.aside());
        {
            let _names = self.names.lock();
            let known = fs::symlink_metadata(&folder).map(|_| wanted(&folder));
            let moved = known.and_then(|wanted| {
                if !wanted {
                    return Ok(false);
                }
                fs::rename(&folder, &aside.0).map(|()| true)
            });
            let moved = moved.map_err(|it| match it.kind() {
                io::ErrorKind::NotFound => Problem::Missing(format!("{} does not exist", place.uri())),
                _ => disk(&folder, "delete", &it),
            })?;
            if !moved {
                return Ok(false);
            }
            // A folder that a user put here meanwhile is not protected by the lock: move it back.
            if !wanted(&aside.0) && fs::rename(&aside.0, &folder).is_ok() {
                return Ok(false);
            }
        }
        self.sync(&folder)?;
        Ok(true)
    }

    /// Sets the time that a checkpoint is kept from now on; `None` keeps it for ever.
    pub(super) fn keep(&self, place: &Place, ttl_seconds: Option<u64>) -> Result<(), Problem> {
        let end = ttl_seconds.and_then(|it| SystemTime::now().checked_add(Duration::from_secs(it)));
        self.describe(place, |meta| {
            (meta.ttl_seconds, meta.expires) = (ttl_seconds, end.map(rfc3339));
            Ok(())
        })
    }

    /// Changes the description of a checkpoint. If the checkpoint or its description is replaced meanwhile, tries
    /// again.
    fn describe(
        &self,
        place: &Place,
        change: impl Fn(&mut Meta) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let folder = self.folder(place);
        let path = folder.join(META);
        for _ in 0..MOST_LOOKS {
            let before = self.meta(place)?;
            let mut meta = before.clone();
            change(&mut meta)?;
            // Replaced by a rename, so that readers never see a partial file.
            let draft = self.aside();
            write_file(&draft.0, &meta.text()?).map_err(|it| disk(&draft.0, "write", &it))?;
            let names = self.names.lock();
            if description(&folder).as_ref() == Some(&before) {
                fs::rename(&draft.0, &path).map_err(|it| disk(&path, "write", &it))?;
                drop(names);
                return sync_folder(&folder).map_err(|it| disk(&folder, "sync", &it));
            }
        }
        Err(Problem::Disk(format!("{} is replaced faster than it can be described", place.uri())))
    }
}

/// A checkpoint that is on disk.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) meta: Meta,
    /// Bytes of all its files.
    pub(super) size_bytes: u64,
}

impl Found {
    pub(super) fn kind(&self) -> Kind {
        self.place.kind
    }
}

/// Path of a checkpoint in the data folder.
fn within(place: &Place) -> PathBuf {
    let run = PathBuf::from(place.run_id.replace(':', "_"));
    run.join(place.kind.segment()).join(&place.name)
}

fn is_over(folder: &Path, now: SystemTime) -> bool {
    description(folder).is_some_and(|it| it.is_over(now))
}

fn description(folder: &Path) -> Option<Meta> {
    serde_json::from_slice(&fs::read(folder.join(META)).ok()?).ok()
}

/// The subfolders of a folder, sorted by name.
fn folders(within: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(within).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = entries.map(|it| it.path()).filter(|it| it.is_dir()).collect();
    all.sort();
    all.into_iter()
}

/// Writes a new folder. All of it is on the disk when this returns.
fn write_folder(folder: &Path, meta: &Meta, files: &[(&str, Vec<u8>)]) -> Result<(), Problem> {
    fs::create_dir(folder).map_err(|it| disk(folder, "create", &it))?;
    let config = format!("{:#}\n", meta.adapter_config()).into_bytes();
    let described = [(CONFIG, &config), (META, &meta.text()?)];
    for (name, bytes) in files.iter().map(|(name, bytes)| (*name, bytes)).chain(described) {
        let path = folder.join(name);
        write_file(&path, bytes).map_err(|it| disk(&path, "write", &it))?;
    }
    sync_folder(folder).map_err(|it| disk(folder, "sync", &it))
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests;
