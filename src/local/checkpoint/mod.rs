//! Checkpoints on disk. Each checkpoint is a folder in the adapter format of PEFT, which vLLM and PEFT can load, plus
//! files of the engine.
//!
//! ```text
//! <data folder>/<run>/weights/<name>/            adapter_config.json  adapter_model.safetensors
//!                                                optimizer.safetensors  tinkex.json
//! <data folder>/<run>/sampler_weights/<name>/    the same without the optimizer
//! <data folder>/<run>/external_weights/<name>/   the same as sampler_weights, for download
//! ```
//! Readers see a checkpoint completely or not at all: its folder is written under a temporary name (a draft), synced to
//! the disk, and then renamed. If the checkpoint replaces an older one, the two folders exchange their names in one
//! step. Readers then find either the old or the new checkpoint, and so does the next engine if this one is killed.
//!
//! Where the system cannot exchange names, the replacement takes two renames: the first moves the old folder away, the
//! second gives its name to the new folder. Readers wait between the two. If the engine is killed between the two, the
//! next engine moves the old folder back.
//!
//! Drafts, moved folders, the catalogue of runs and sessions, and the lock that keeps a second engine out are in
//! `<data folder>/.tinkex`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::age::{self, Recipient};
use super::disk::{self, TempPath, exchange, sync_folder, write_file};
use super::nn::LoraSpec;
use super::room::{Full, Room};
use crate::clock_text::{parse_rfc3339, rfc3339};
use lease::Lease;
pub(super) use lease::Refused;

mod lease;
mod listing;

/// LoRA's alpha: the adapter's output is multiplied by alpha / rank. The network uses the same value.
const ALPHA: u32 = 32;
pub(super) const ADAPTER: &str = "adapter_model.safetensors";
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
const META: &str = "tinkex.json";
const CONFIG: &str = "adapter_config.json";
/// Folder of drafts in a data folder. Each engine empties it when it starts.
pub(super) fn drafts(data_dir: &Path) -> PathBuf {
    data_dir.join(lease::ENGINE_FOLDER).join("drafts")
}

/// The file of a data folder with the address of the engine that has it open.
pub(super) fn engine_file(data_dir: &Path) -> PathBuf {
    data_dir.join(lease::ENGINE_FOLDER).join(lease::ENGINE_FILE)
}

/// The file that the engine of a data folder keeps locked. It stays when the engine ends.
pub(super) fn lock_file(data_dir: &Path) -> PathBuf {
    data_dir.join(lease::ENGINE_FOLDER).join(lease::LOCK_FILE)
}

/// Number of attempts to read or change a checkpoint that is replaced again and again.
const MAX_ATTEMPTS: usize = 100;

/// Name and content of a file of a checkpoint.
type NamedFile = (String, Vec<u8>);

/// Purpose of a checkpoint: further training, sampling, or download.
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

#[derive(Clone, Debug, PartialEq)]
pub(super) struct CheckpointId {
    pub(super) run_id: String,
    pub(super) kind: Kind,
    pub(super) name: String,
}

impl CheckpointId {
    /// The id of a checkpoint, if the run id and the name are valid folder names.
    pub(super) fn new(run_id: &str, kind: Kind, name: &str) -> Result<Self, String> {
        if !is_name(name) {
            return Err(format!(
                "{name:?} is not a valid checkpoint name: use 1 to 255 of A-Z a-z 0-9 _ . -, not only dots"
            ));
        }
        if !is_name(&run_id.replace(':', "_")) {
            return Err(format!("{run_id:?} is not a valid id of a training run"));
        }
        Ok(CheckpointId { run_id: run_id.into(), kind, name: name.into() })
    }

    /// The `tinker://` path of this checkpoint.
    pub(super) fn uri(&self) -> String {
        format!("tinker://{}/{}/{}", self.run_id, self.kind.segment(), self.name)
    }
}

fn is_name(text: &str) -> bool {
    let good = |it: u8| it.is_ascii_alphanumeric() || b"_.-".contains(&it);
    // Names that consist only of dots, such as `.` and `..`, are not allowed.
    (1..=255).contains(&text.len()) && text.bytes().all(good) && text.bytes().any(|it| it != b'.')
}

/// Content of `tinkex.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Meta {
    pub(super) format: u32,
    /// Random number of this save. It shows whether a checkpoint was replaced by another save under the same name.
    pub(super) save_id: u64,
    pub(super) run_id: String,
    pub(super) base_model: String,
    /// Name of the base model in the request, if the request used an alias.
    #[serde(rename = "asked_as", skip_serializing_if = "Option::is_none")]
    pub(super) base_alias: Option<String>,
    /// Seed of the base model that the adapter was trained on.
    pub(super) base_seed: u64,
    pub(super) rank: usize,
    pub(super) seed: u64,
    pub(super) train_attn: bool,
    pub(super) train_mlp: bool,
    pub(super) train_unembed: bool,
    /// Time of the save (RFC 3339).
    pub(super) created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ttl_seconds: Option<u64>,
    /// Time of expiry (RFC 3339), if it was set after the save.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user_metadata: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) public: bool,
    /// Project that the copy request named, if this checkpoint is a copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) project_id: Option<String>,
    /// True if all files that can be downloaded are encrypted. The folder then has no readable `adapter_config.json`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) encrypted: bool,
    /// Path of the source, if this checkpoint is a copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) copy_of: Option<String>,
}

impl Meta {
    /// Time of expiry: `expires`, or `created` plus `ttl_seconds`.
    pub(super) fn expiry(&self) -> Option<SystemTime> {
        match (&self.expires, self.ttl_seconds) {
            (Some(it), _) => parse_rfc3339(it),
            (None, Some(it)) => parse_rfc3339(&self.created)?.checked_add(Duration::from_secs(it)),
            (None, None) => None,
        }
    }

    fn is_expired(&self, now: SystemTime) -> bool {
        self.expiry().is_some_and(|it| it <= now)
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
    fn text(&self) -> Result<Vec<u8>, StoreError> {
        let text = serde_json::to_string_pretty(self).map_err(|it| StoreError::Disk(it.to_string()))?;
        Ok((text + "\n").into_bytes())
    }

    /// Content of `adapter_config.json`.
    fn config_text(&self) -> Vec<u8> {
        format!("{:#}\n", self.adapter_config()).into_bytes()
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
pub(super) enum StoreError {
    Missing(String),
    Exists(String),
    /// The limit of the disk space would be exceeded; nothing was written.
    Full(String),
    /// An error of the disk; the text names the path.
    Disk(String),
    /// The same may succeed later.
    Busy(String),
}

impl StoreError {
    pub(super) fn text(self) -> String {
        match self {
            StoreError::Missing(it)
            | StoreError::Exists(it)
            | StoreError::Full(it)
            | StoreError::Disk(it)
            | StoreError::Busy(it) => it,
        }
    }
}

impl StoreError {
    /// An error of the system. A lack of memory or of file handles ends; a file that may not be written stays so.
    pub(super) fn of(error: &io::Error, text: String) -> Self {
        use io::ErrorKind::{Interrupted, OutOfMemory, ResourceBusy, TimedOut, WouldBlock};
        /// `ENFILE` and `EMFILE`, for which the standard library has no name.
        const TOO_MANY_FILES: [i32; 2] = [23, 24];
        let has_no_handle = cfg!(unix) && error.raw_os_error().is_some_and(|it| TOO_MANY_FILES.contains(&it));
        match error.kind() {
            Interrupted | OutOfMemory | ResourceBusy | TimedOut | WouldBlock => StoreError::Busy(text),
            _ if has_no_handle => StoreError::Busy(text),
            _ => StoreError::Disk(text),
        }
    }
}

impl From<Full> for StoreError {
    fn from(full: Full) -> Self {
        StoreError::Full(full.0)
    }
}

fn disk(path: &Path, doing: &str, error: &io::Error) -> StoreError {
    StoreError::of(error, format!("cannot {doing} {}: {error}", path.display()))
}

/// The folder of all checkpoints, locked against other engines.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    lease: Lease,
    room: Arc<Room>,
    /// Lock for the names of checkpoints, held while a name is checked and changed. While it is held, only names and
    /// `tinkex.json` are read and written: no weights are written and nothing is synced to the disk, because that takes
    /// long.
    names: Mutex<()>,
    /// Set to false when the file system turns out to be unable to exchange two names.
    can_exchange: AtomicBool,
    unread: listing::Unread,
}

impl Store {
    /// Opens a data folder, creates it if necessary, and removes the unfinished files of an earlier engine.
    ///
    /// # Errors
    /// Another engine uses the folder, or it cannot be written to.
    pub(super) fn open(root: PathBuf) -> Result<Self, Refused> {
        let lease = Lease::take(&root)?;
        let room = Arc::new(Room::unlimited());
        let (names, can_exchange, unread) = (Mutex::new(()), AtomicBool::new(true), Default::default());
        Ok(Store { root, lease, room, names, can_exchange, unread })
    }

    /// Limits the disk space of the data folder, in bytes.
    pub(super) fn limited(mut self, max: Option<u64>) -> Self {
        if let Some(max) = max {
            self.room = Arc::new(Room::limited(max, self.root.clone(), self.lease.drafts()));
        }
        self
    }

    /// The disk space of the data folder.
    pub(super) fn room(&self) -> &Arc<Room> {
        &self.room
    }

    fn folder(&self, checkpoint: &CheckpointId) -> PathBuf {
        self.root.join(relative_path(checkpoint))
    }

    /// Folder for files that are not needed after this engine ends.
    pub(super) fn scratch(&self) -> PathBuf {
        self.lease.drafts()
    }

    /// Folder of the catalogue of runs and sessions.
    pub(super) fn catalogue(&self) -> PathBuf {
        self.lease.folder().join("catalogue")
    }

    /// True if a run has a folder, that is, if it has checkpoints.
    pub(super) fn has_run(&self, run_id: &str) -> bool {
        self.root.join(run_id.replace(':', "_")).is_dir()
    }

    /// A new path for a draft, or for a folder that is to be deleted. No other run of the engine uses the same path.
    fn temp_path(&self) -> TempPath {
        TempPath(self.lease.drafts().join(format!("{:016x}", fastrand::u64(..))))
    }

    /// Saves a checkpoint: `files`, `adapter_config.json` and `tinkex.json`. All of them are synced to the disk when
    /// this returns.
    pub(super) fn save(
        &self,
        checkpoint: &CheckpointId,
        meta: &Meta,
        files: &[(&str, Vec<u8>)],
        overwrite: bool,
    ) -> Result<(), StoreError> {
        let folder = self.folder(checkpoint);
        let now = SystemTime::now();
        // An expired checkpoint counts as missing, though its folder may still exist.
        let taken = || !overwrite && folder.exists() && !is_expired(&folder, now);
        // Only `save_weights` has the option to overwrite.
        let hint = match checkpoint.kind {
            Kind::Training => "save with overwrite to replace it",
            Kind::Sampler | Kind::External => "delete it or choose another name",
        };
        let exists = || StoreError::Exists(format!("{} already exists; {hint}", checkpoint.uri()));
        // Check first, to avoid writing files in vain. The check under the lock, below, decides.
        if !overwrite && meta_in(&folder).is_some_and(|it| !it.is_expired(now)) {
            return Err(exists());
        }
        let meta = Meta { save_id: fastrand::u64(1..), ..meta.clone() };
        let description = [(META, meta.text()?)];
        let config = (!meta.encrypted).then(|| (CONFIG, meta.config_text()));
        let all = files.iter().chain(&config).chain(&description);
        let all: Vec<(&str, &[u8])> = all.map(|(name, bytes)| (*name, &bytes[..])).collect();
        let size: usize = all.iter().map(|it| it.1.len()).sum();
        let _room = self.room.reserve(size as u64, || format!("cannot save {}", checkpoint.uri()))?;
        let draft = self.temp_path();
        write_folder(&draft.0, &all)?;
        let parent = folder.parent().unwrap_or(&self.root);
        {
            let _names = self.names.lock();
            if taken() {
                return Err(exists());
            }
            // Under the lock, because a deletion removes the parent folders when they are empty.
            fs::create_dir_all(parent).map_err(|it| disk(parent, "create", &it))?;
            if let Err(error) = self.rename_draft(&draft, checkpoint) {
                self.remove_empty(&folder);
                return Err(disk(&folder, "write", &error));
            }
        }
        // Sync the new name and the names of the parent folders, which may be new, too.
        self.sync(&folder)
        // A replaced checkpoint now has the path of the draft; it is deleted here, when `draft` is dropped.
    }

    /// Saves a checkpoint like [`save`](Self::save), with each file but `tinkex.json` encrypted for the recipients.
    pub(super) fn save_encrypted(
        &self,
        checkpoint: &CheckpointId,
        meta: &Meta,
        files: &[(&str, Vec<u8>)],
        recipients: &[Recipient],
    ) -> Result<(), StoreError> {
        let config = meta.config_text();
        let files = files.iter().map(|(name, bytes)| (*name, bytes)).chain([(CONFIG, &config)]);
        let names: Vec<String> = files.clone().map(|(name, _)| format!("{name}{}", age::ENDING)).collect();
        let sealed = files.zip(&names).map(|((_, bytes), name)| {
            let sealed = age::encrypt(bytes, recipients).map_err(StoreError::Disk);
            sealed.map(|bytes| (name.as_str(), bytes))
        });
        let sealed: Vec<(&str, Vec<u8>)> = sealed.collect::<Result<_, StoreError>>()?;
        self.save(checkpoint, &Meta { encrypted: true, ..meta.clone() }, &sealed, false)
    }

    /// Gives a draft the name of a checkpoint. If the checkpoint exists already, the old folder gets the path of the
    /// draft.
    fn rename_draft(&self, draft: &TempPath, checkpoint: &CheckpointId) -> io::Result<()> {
        let folder = self.folder(checkpoint);
        if fs::symlink_metadata(&folder).is_err() {
            return fs::rename(&draft.0, &folder);
        }
        if self.can_exchange.load(Ordering::Relaxed) {
            if exchange(&draft.0, &folder)? {
                return Ok(());
            }
            self.can_exchange.store(false, Ordering::Relaxed);
        }
        // Rename in two steps. If the engine is killed between them, the next engine undoes the first.
        let moved = self.lease.moved().join(relative_path(checkpoint));
        disk::remove(&moved);
        fs::create_dir_all(moved.parent().unwrap_or(&self.root))?;
        fs::rename(&folder, &moved)?;
        if let Err(error) = fs::rename(&draft.0, &folder) {
            return fs::rename(&moved, &folder).and(Err(error));
        }
        fs::rename(&moved, &draft.0)
    }

    /// Syncs the name of a checkpoint and the names of its parent folders. Skips parent folders that a deletion has
    /// removed.
    fn sync(&self, folder: &Path) -> Result<(), StoreError> {
        let around = folder.ancestors().skip(1).take_while(|it| it.starts_with(&self.root));
        for folder in around {
            match sync_folder(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                synced => synced.map_err(|error| disk(folder, "sync", &error))?,
            }
        }
        Ok(())
    }

    /// Removes the parent folders of a checkpoint that are empty.
    fn remove_empty(&self, folder: &Path) {
        let around = folder.ancestors().skip(1).take_while(|it| *it != self.root);
        // The system refuses to remove a folder that is not empty.
        let _ = around.map(fs::remove_dir).take_while(Result::is_ok).count();
    }

    /// Reads the description of a checkpoint.
    pub(super) fn meta(&self, checkpoint: &CheckpointId) -> Result<Meta, StoreError> {
        let meta = match self.read_meta(checkpoint) {
            // A replacement in two steps may be in progress. Wait for its end, then read once more.
            Err(StoreError::Missing(_)) if !self.can_exchange.load(Ordering::Relaxed) => {
                let _names = self.names.lock();
                self.read_meta(checkpoint)?
            }
            read => read?,
        };
        if meta.is_expired(SystemTime::now()) {
            return Err(StoreError::Missing(format!("{} does not exist: it has expired", checkpoint.uri())));
        }
        Ok(meta)
    }

    fn read_meta(&self, checkpoint: &CheckpointId) -> Result<Meta, StoreError> {
        let bytes = self.read_file(checkpoint, META)?;
        serde_json::from_slice(&bytes)
            .map_err(|it| StoreError::Disk(format!("{}: {it}", self.folder(checkpoint).join(META).display())))
    }

    /// Reads parts of a checkpoint that all belong to one save: if the checkpoint is replaced during `read`, calls
    /// `read` again.
    fn consistent<T>(
        &self,
        checkpoint: &CheckpointId,
        read: impl Fn() -> Result<T, StoreError>,
    ) -> Result<(Meta, T), StoreError> {
        for _ in 0..MAX_ATTEMPTS {
            let meta = self.meta(checkpoint)?;
            let found = read();
            if self.meta(checkpoint)?.save_id == meta.save_id {
                return found.map(|it| (meta, it));
            }
        }
        Err(StoreError::Busy(format!("{} is replaced faster than it can be read", checkpoint.uri())))
    }

    /// Names of the files of a checkpoint, without `tinkex.json`.
    fn file_names(&self, checkpoint: &CheckpointId) -> Result<Vec<String>, StoreError> {
        let folder = self.folder(checkpoint);
        let entries = fs::read_dir(&folder).map_err(|it| disk(&folder, "read", &it))?;
        let names = entries.flatten().filter_map(|it| it.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|it| it != META && !it.starts_with('.')).collect();
        names.sort();
        Ok(names)
    }

    /// The description and the file names of a checkpoint.
    pub(super) fn files(&self, checkpoint: &CheckpointId) -> Result<(Meta, Vec<String>), StoreError> {
        self.consistent(checkpoint, || self.file_names(checkpoint))
    }

    /// The description and some files of a checkpoint.
    pub(super) fn read(
        &self,
        checkpoint: &CheckpointId,
        files: &[&str],
    ) -> Result<(Meta, Vec<Vec<u8>>), StoreError> {
        self.consistent(checkpoint, || files.iter().map(|it| self.read_file(checkpoint, it)).collect())
    }

    /// The description and all files of a checkpoint.
    fn read_all(&self, checkpoint: &CheckpointId) -> Result<(Meta, Vec<NamedFile>), StoreError> {
        self.consistent(checkpoint, || {
            let names = self.file_names(checkpoint)?.into_iter();
            names.map(|it| self.read_file(checkpoint, &it).map(|bytes| (it, bytes))).collect()
        })
    }

    /// The description and all files of a checkpoint as a tar archive.
    pub(super) fn archive(&self, checkpoint: &CheckpointId) -> Result<(Meta, Vec<u8>), StoreError> {
        let mut archive = tar::Builder::new(Vec::new());
        let failed = |it: &io::Error| StoreError::Disk(format!("cannot archive {}: {it}", checkpoint.uri()));
        let (meta, files) = self.read_all(checkpoint)?;
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
        from: &CheckpointId,
        to: &CheckpointId,
        describe: impl FnOnce(Meta) -> Meta,
    ) -> Result<(), StoreError> {
        let (meta, files) = self.read_all(from)?;
        let files = files.iter().filter(|it| it.0 != CONFIG);
        let files: Vec<(&str, Vec<u8>)> = files.map(|(name, it)| (name.as_str(), it.clone())).collect();
        self.save(to, &describe(meta), &files, false)
    }

    /// Marks a checkpoint as public or private. Fails if it is so already.
    pub(super) fn publish(&self, checkpoint: &CheckpointId, public: bool) -> Result<(), StoreError> {
        self.update_meta(checkpoint, |meta| {
            if meta.public == public {
                let state = if public { "public" } else { "private" };
                return Err(StoreError::Exists(format!("{} is already {state}", checkpoint.uri())));
            }
            meta.public = public;
            Ok(())
        })
    }

    /// Deletes expired checkpoints; returns their paths. A checkpoint that was replaced by a newer one meanwhile is
    /// kept.
    pub(super) fn sweep(&self, now: SystemTime) -> Vec<String> {
        let all = self.all_with_expired().into_iter().filter(|it| it.meta.is_expired(now));
        let gone = |it: &SavedCheckpoint| {
            matches!(self.delete_if(&it.checkpoint, |it| is_expired(it, now)), Ok(true))
        };
        all.filter(gone).map(|it| it.checkpoint.uri()).collect()
    }

    /// Reads one file of a checkpoint.
    fn read_file(&self, checkpoint: &CheckpointId, file: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.folder(checkpoint).join(file);
        fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if file == OPTIMIZER => {
                StoreError::Missing(format!("{} holds no optimizer state", checkpoint.uri()))
            }
            io::ErrorKind::NotFound => StoreError::Missing(format!("{} does not exist", checkpoint.uri())),
            _ => disk(&path, "read", &error),
        })
    }

    /// Deletes a checkpoint: first its name, so that readers no longer find it, then its files.
    pub(super) fn delete(&self, checkpoint: &CheckpointId) -> Result<(), StoreError> {
        self.delete_if(checkpoint, |_| true).map(|_| ())
    }

    /// Deletes a checkpoint if `wanted` returns true for its folder; returns true if it was deleted.
    fn delete_if(
        &self,
        checkpoint: &CheckpointId,
        wanted: impl Fn(&Path) -> bool,
    ) -> Result<bool, StoreError> {
        let (folder, aside) = (self.folder(checkpoint), self.temp_path());
        {
            let _names = self.names.lock();
            let known = fs::symlink_metadata(&folder).map(|_| wanted(&folder));
            let moved = known.and_then(|wanted| {
                if !wanted {
                    return Ok(false);
                }
                fs::rename(&folder, &aside.0).map(|()| true)
            });
            let moved = moved.map_err(|error| {
                // The folder of drafts may be what is missing.
                let is_gone =
                    error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(&folder).is_err();
                if is_gone {
                    StoreError::Missing(format!("{} does not exist", checkpoint.uri()))
                } else {
                    disk(&folder, "delete", &error)
                }
            })?;
            if !moved {
                return Ok(false);
            }
            // Check again after the rename, because the lock does not stop a user who replaces the folder by hand. Move
            // such a folder back.
            if !wanted(&aside.0) && fs::rename(&aside.0, &folder).is_ok() {
                return Ok(false);
            }
            self.remove_empty(&folder);
        }
        self.sync(&folder)?;
        Ok(true)
    }

    /// Sets a checkpoint to expire `ttl_seconds` from now; `None` means never.
    pub(super) fn set_ttl(
        &self,
        checkpoint: &CheckpointId,
        ttl_seconds: Option<u64>,
    ) -> Result<(), StoreError> {
        let end = ttl_seconds.and_then(|it| SystemTime::now().checked_add(Duration::from_secs(it)));
        self.update_meta(checkpoint, |meta| {
            (meta.ttl_seconds, meta.expires) = (ttl_seconds, end.map(rfc3339));
            Ok(())
        })
    }

    /// Changes the description of a checkpoint. If the checkpoint or its description is replaced meanwhile, starts
    /// again with the new description.
    fn update_meta(
        &self,
        checkpoint: &CheckpointId,
        change: impl Fn(&mut Meta) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let folder = self.folder(checkpoint);
        let path = folder.join(META);
        for _ in 0..MAX_ATTEMPTS {
            let before = self.meta(checkpoint)?;
            let mut meta = before.clone();
            change(&mut meta)?;
            // Write a new file and rename it, so that readers never see a partial file.
            let draft = self.temp_path();
            write_file(&draft.0, &meta.text()?).map_err(|it| disk(&draft.0, "write", &it))?;
            let names = self.names.lock();
            if meta_in(&folder).as_ref() == Some(&before) {
                fs::rename(&draft.0, &path).map_err(|it| disk(&path, "write", &it))?;
                drop(names);
                return sync_folder(&folder).map_err(|it| disk(&folder, "sync", &it));
            }
        }
        Err(StoreError::Busy(format!(
            "{} is replaced faster than its description can be changed",
            checkpoint.uri()
        )))
    }
}

/// A checkpoint that is on disk.
#[derive(Debug)]
pub(super) struct SavedCheckpoint {
    pub(super) checkpoint: CheckpointId,
    pub(super) meta: Meta,
    /// Bytes of all its files.
    pub(super) size_bytes: u64,
}

impl SavedCheckpoint {
    pub(super) fn kind(&self) -> Kind {
        self.checkpoint.kind
    }
}

/// Path of a checkpoint in the data folder.
fn relative_path(checkpoint: &CheckpointId) -> PathBuf {
    let run = PathBuf::from(checkpoint.run_id.replace(':', "_"));
    run.join(checkpoint.kind.segment()).join(&checkpoint.name)
}

fn is_expired(folder: &Path, now: SystemTime) -> bool {
    meta_in(folder).is_some_and(|it| it.is_expired(now))
}

fn meta_in(folder: &Path) -> Option<Meta> {
    serde_json::from_slice(&fs::read(folder.join(META)).ok()?).ok()
}

/// Writes a new folder. All its files are synced to the disk when this returns.
fn write_folder(folder: &Path, files: &[(&str, &[u8])]) -> Result<(), StoreError> {
    fs::create_dir(folder).map_err(|it| disk(folder, "create", &it))?;
    for (name, bytes) in files {
        let path = folder.join(name);
        write_file(&path, bytes).map_err(|it| disk(&path, "write", &it))?;
    }
    sync_folder(folder).map_err(|it| disk(folder, "sync", &it))
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests;
