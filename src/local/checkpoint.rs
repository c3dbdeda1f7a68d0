//! Checkpoints on disk: one PEFT adapter folder each, which vLLM and PEFT can load, with what the engine needs besides.
//!
//! ```text
//! <data folder>/<run>/weights/<name>/            adapter_config.json  adapter_model.safetensors
//!                                                optimizer.safetensors  tinkex.json
//! <data folder>/<run>/sampler_weights/<name>/    the same without the optimizer
//! <data folder>/<run>/external_weights/<name>/   likewise, to be fetched
//! ```
//! A folder appears whole or not at all: it is written under another name, and its name is given to it when all of it is
//! on the disk. A checkpoint that replaces another exchanges names with it in one step, so that whoever reads finds the old
//! one or the new one, and so does the next engine if this one is killed. Where the system cannot do that it takes two
//! steps, between which readers wait; the next engine undoes the first if the second is missing.
//!
//! What is no checkpoint (drafts, the lock that keeps a second engine off the folder) is in `<data folder>/.tinkex`.

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

/// The strength of an adapter is this over its rank: how the network reads it, and so what PEFT must be told.
const ALPHA: f64 = 32.0;
pub(super) const ADAPTER: &str = "adapter_model.safetensors";
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
const META: &str = "tinkex.json";
const CONFIG: &str = "adapter_config.json";
/// How often a checkpoint is looked at again that was replaced meanwhile.
const MOST_LOOKS: usize = 100;

/// Name and content of one file of a checkpoint.
type NamedFile = (String, Vec<u8>);

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
    /// Tells this save from all others under its name.
    pub(super) save_id: u64,
    pub(super) run_id: String,
    pub(super) base_model: String,
    /// The other name under which the base model was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) asked_as: Option<String>,
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

    /// What `tinkex.json` holds.
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

/// The folder of all checkpoints, which no other engine uses meanwhile.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    lease: Lease,
    /// Held while a name is looked at and changed, so that what is changed is what was looked at. Nothing but names and
    /// descriptions is read and written meanwhile: never weights, and nothing that waits for the disk.
    names: Mutex<()>,
    /// Whether names can be exchanged in one step here, as far as is known.
    exchanges: AtomicBool,
}

impl Store {
    /// Takes a folder, which is made if it is not there. What an earlier engine left half done is cleared.
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

    /// A folder for what need not outlive this engine.
    pub(super) fn scratch(&self) -> PathBuf {
        self.lease.drafts()
    }

    /// Where a folder can be written, or left to be deleted. Unique, whoever had such a number before.
    fn aside(&self) -> Aside {
        Aside(self.lease.drafts().join(format!("{:016x}", fastrand::u64(..))))
    }

    /// Saves a checkpoint: its files besides the two that describe it. All of it is on the disk when this returns.
    pub(super) fn save(
        &self,
        place: &Place,
        meta: &Meta,
        files: &[(&str, Vec<u8>)],
        overwrite: bool,
    ) -> Result<(), Problem> {
        let folder = self.folder(place);
        let now = SystemTime::now();
        // One whose time is over is there no longer, though its folder may be.
        let taken = || !overwrite && folder.exists() && !is_over(&folder, now);
        // Only the verb that saves states has such an option.
        let hint = match place.kind {
            Kind::Training => "save with overwrite to replace it",
            Kind::Sampler | Kind::External => "delete it or take another name",
        };
        let exists = || Problem::Exists(format!("{} already exists; {hint}", place.uri()));
        // Asked again when nothing can come between; this saves writing what cannot be kept.
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
        // Its name, and those of the folders around it, which may be new.
        self.sync(&folder)
        // What it replaced goes with the draft, whose name it has now.
    }

    /// Gives a draft its name; what had that name has the draft's afterwards.
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
        // In two steps. If only the first is done, the next engine takes it back.
        let moved = self.lease.moved().join(within(place));
        disk::remove(&moved);
        fs::create_dir_all(moved.parent().unwrap_or(&self.root))?;
        fs::rename(&folder, &moved)?;
        if let Err(error) = fs::rename(&draft.0, &folder) {
            return fs::rename(&moved, &folder).and(Err(error));
        }
        fs::rename(&moved, &draft.0)
    }

    /// Brings the name of a checkpoint to the disk, and the names of the folders around it.
    fn sync(&self, folder: &Path) -> Result<(), Problem> {
        let around = folder.ancestors().skip(1).take_while(|it| it.starts_with(&self.root));
        for it in around {
            sync_folder(it).map_err(|error| disk(it, "sync", &error))?;
        }
        Ok(())
    }

    /// What a checkpoint says of itself.
    pub(super) fn meta(&self, place: &Place) -> Result<Meta, Problem> {
        let meta = match self.read_meta(place) {
            // Between the two steps of a replacement it seems to be missing.
            Err(Problem::Missing(_)) if !self.exchanges.load(Ordering::Relaxed) => {
                let _names = self.names.lock();
                self.read_meta(place)?
            }
            read => read?,
        };
        match meta.is_over(SystemTime::now()) {
            true => Err(Problem::Missing(format!("{} does not exist: its time is over", place.uri()))),
            false => Ok(meta),
        }
    }

    fn read_meta(&self, place: &Place) -> Result<Meta, Problem> {
        let bytes = self.read_file(place, META)?;
        serde_json::from_slice(&bytes)
            .map_err(|it| Problem::Disk(format!("{}: {it}", self.folder(place).join(META).display())))
    }

    /// Reads some of a checkpoint, all from one save: if it is replaced meanwhile it is read again.
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

    /// The names of the files that a checkpoint is made of, without the engine's own description.
    fn file_names(&self, place: &Place) -> Result<Vec<String>, Problem> {
        let folder = self.folder(place);
        let entries = fs::read_dir(&folder).map_err(|it| disk(&folder, "read", &it))?;
        let names = entries.flatten().filter_map(|it| it.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|it| it != META && !it.starts_with('.')).collect();
        names.sort();
        Ok(names)
    }

    /// Those names, and which save they are of.
    pub(super) fn files(&self, place: &Place) -> Result<(Meta, Vec<String>), Problem> {
        self.consistent(place, || self.file_names(place))
    }

    /// Some files of a checkpoint, with its description.
    pub(super) fn read(&self, place: &Place, files: &[&str]) -> Result<(Meta, Vec<Vec<u8>>), Problem> {
        self.consistent(place, || files.iter().map(|it| self.read_file(place, it)).collect())
    }

    /// All files of a checkpoint with their names, and its description.
    fn read_all(&self, place: &Place) -> Result<(Meta, Vec<NamedFile>), Problem> {
        self.consistent(place, || {
            let names = self.file_names(place)?.into_iter();
            names.map(|it| self.read_file(place, &it).map(|bytes| (it, bytes))).collect()
        })
    }

    /// All those files in one, as tar writes them, and which save they are of.
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

    /// All files of a checkpoint under another name, described anew.
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

    /// Notes in its description whether everyone may read a checkpoint. That it is so already is an error.
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

    /// Deletes the checkpoints whose time is over; returns their addresses. One that was replaced meanwhile stays.
    pub(super) fn sweep(&self, now: SystemTime) -> Vec<String> {
        let all = self.everything().into_iter().filter(|it| it.meta.is_over(now));
        let gone = |it: &Found| matches!(self.take_away(&it.place, |it| is_over(it, now)), Ok(true));
        all.filter(gone).map(|it| it.place.uri()).collect()
    }

    /// One file of a checkpoint.
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

    /// All checkpoints. What cannot be read is none, and neither is what should have been deleted.
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
        // A folder that was copied from another run is not where its description says.
        (self.folder(&place) == folder).then_some(Found { place, meta, size_bytes })
    }

    /// Deletes a checkpoint: it is gone as a whole before its files are.
    pub(super) fn delete(&self, place: &Place) -> Result<(), Problem> {
        self.take_away(place, |_| true).map(|_| ())
    }

    /// Deletes a checkpoint if its folder is as it should be; returns whether it was.
    fn take_away(&self, place: &Place, wanted: impl Fn(&Path) -> bool) -> Result<bool, Problem> {
        let (folder, aside) = (self.folder(place), self.aside());
        {
            let _names = self.names.lock();
            let known = fs::symlink_metadata(&folder).map(|_| wanted(&folder));
            let moved = known.and_then(|it| match it {
                true => fs::rename(&folder, &aside.0).map(|()| true),
                false => Ok(false),
            });
            let moved = moved.map_err(|it| match it.kind() {
                io::ErrorKind::NotFound => Problem::Missing(format!("{} does not exist", place.uri())),
                _ => disk(&folder, "delete", &it),
            })?;
            if !moved {
                return Ok(false);
            }
            // Whoever puts folders here by hand knows nothing of the lock.
            if !wanted(&aside.0) && fs::rename(&aside.0, &folder).is_ok() {
                return Ok(false);
            }
        }
        self.sync(&folder)?;
        Ok(true)
    }

    /// Notes in its description how much longer a checkpoint is to be kept; `None` is for ever.
    pub(super) fn keep(&self, place: &Place, ttl_seconds: Option<u64>) -> Result<(), Problem> {
        let end = ttl_seconds.and_then(|it| SystemTime::now().checked_add(Duration::from_secs(it)));
        self.describe(place, |meta| {
            (meta.ttl_seconds, meta.expires) = (ttl_seconds, end.map(rfc3339));
            Ok(())
        })
    }

    /// Changes the description of a checkpoint. One that was replaced meanwhile, or described anew, is read again.
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
            // Replaced at once, so that nobody reads half of it.
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
    /// All its files together.
    pub(super) size_bytes: u64,
}

impl Found {
    pub(super) fn kind(&self) -> Kind {
        self.place.kind
    }
}

/// Where a checkpoint is in the data folder.
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

/// The folders in a folder, in the order of their names.
fn folders(within: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(within).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = entries.map(|it| it.path()).filter(|it| it.is_dir()).collect();
    all.sort();
    all.into_iter()
}

/// Writes a folder that must not be there yet. All of it is on the disk when this returns.
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
