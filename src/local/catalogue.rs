//! Catalogue of training runs and sessions: what the lists show of them after they have ended, also in later engines on
//! the same data folder.
//!
//! ```text
//! <data folder>/.tinkex/catalogue/runs/<run>.json
//! <data folder>/.tinkex/catalogue/sessions/<session>.json
//! ```
//! A record is a file of its own, written under a temporary name, synced and renamed. A record that cannot be read is
//! reported in the log and skipped. A record that cannot be written, for example because the disk is full, is reported
//! too and written again later; the request that it belongs to succeeds, so that a full disk stops neither training nor
//! the deletion of checkpoints. In a temporary data folder no records are written.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::disk::{TempPath, remove, sync_folder, write_file};
use crate::wire::json::FinishReason;

/// Largest file of a record that is read. Requests are smaller, so a larger file is not a record.
const MAX_RECORD: u64 = 1 << 20;

/// Record of a training run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct RunRecord {
    pub(super) format: u32,
    pub(super) run_id: String,
    pub(super) base_model: String,
    /// Name of the base model in the request, if the request used an alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) base_alias: Option<String>,
    pub(super) rank: u32,
    /// Time of creation (RFC 3339).
    pub(super) created: String,
    /// Time of the last request (RFC 3339). It is written when the run ends, and every 30 s before.
    pub(super) last_request: String,
    pub(super) user_metadata: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) project_id: Option<String>,
}

/// Record of a session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct SessionRecord {
    pub(super) format: u32,
    pub(super) session_id: String,
    /// Time of creation (RFC 3339, with microseconds).
    pub(super) created: String,
    pub(super) user_metadata: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) project_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<End>,
}

/// Reason for which a session ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum End {
    /// The client finished the session.
    Finished { reason: FinishReason, detail: Option<String> },
    /// No request arrived within the session timeout, not even a heartbeat.
    Silent,
    /// The engine of the session stopped.
    Stopped,
}

/// A kind of record.
pub(super) trait Record: Clone + Serialize + DeserializeOwned {
    /// Id of the object that the record describes.
    fn id(&self) -> &str;
}

impl Record for RunRecord {
    fn id(&self) -> &str {
        &self.run_id
    }
}

impl Record for SessionRecord {
    fn id(&self) -> &str {
        &self.session_id
    }
}

/// All records.
#[derive(Debug)]
pub(super) struct Catalogue {
    pub(super) runs: Records<RunRecord>,
    pub(super) sessions: Records<SessionRecord>,
}

impl Catalogue {
    /// Reads the records in `folder`. Files that are being written are in `drafts`, in the same file system.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub(super) fn open(folder: &Path, drafts: &Path) -> Result<Self, String> {
        Ok(Catalogue {
            runs: Records::open(folder.join("runs"), drafts)?,
            sessions: Records::open(folder.join("sessions"), drafts)?,
        })
    }

    /// A catalogue that is only in memory.
    pub(super) fn in_memory() -> Self {
        Catalogue { runs: Records::in_memory(), sessions: Records::in_memory() }
    }

    /// Writes all records that have changed.
    pub(super) fn write_changed(&self) {
        self.runs.write_changed();
        self.sessions.write_changed();
    }
}

/// The records of one kind.
#[derive(Debug)]
pub(super) struct Records<T> {
    disk: Option<Disk>,
    inner: Mutex<Inner<T>>,
    /// Number of the change that the file of each record has. Locked while files are renamed and removed; `inner` may be
    /// locked meanwhile, but not the other way round.
    written: Mutex<HashMap<String, u64>>,
}

#[derive(Debug)]
struct Disk {
    folder: PathBuf,
    drafts: PathBuf,
}

#[derive(Debug)]
struct Inner<T> {
    /// The records, each with the number of its last change.
    records: HashMap<String, (T, u64)>,
    changes: u64,
    /// Ids of forgotten records whose files still exist.
    forgotten: Vec<String>,
}

impl<T: Record> Records<T> {
    fn in_memory() -> Self {
        let inner = Inner { records: HashMap::new(), changes: 0, forgotten: Vec::new() };
        Records { disk: None, inner: Mutex::new(inner), written: Mutex::default() }
    }

    fn open(folder: PathBuf, drafts: &Path) -> Result<Self, String> {
        let cannot = |it: io::Error| format!("cannot create {}: {it}", folder.display());
        fs::create_dir_all(&folder).map_err(cannot)?;
        for it in folder.ancestors().take(3) {
            sync_folder(it).map_err(|error| format!("cannot sync {}: {error}", it.display()))?;
        }
        let mut records = HashMap::new();
        for entry in fs::read_dir(&folder).map_err(|it| format!("cannot read {}: {it}", folder.display()))? {
            let read = entry
                .map_err(|it| (folder.clone(), it.to_string()))
                .and_then(|entry| read::<T>(&entry.path()).map_err(|it| (entry.path(), it)));
            match read {
                Ok(record) => drop(records.insert(record.id().to_owned(), (record, 0))),
                Err((path, error)) => {
                    log::warn!("the embedded engine skips {}: {error}", path.display());
                }
            }
        }
        let written = records.keys().map(|id| (id.clone(), 0)).collect();
        let inner = Inner { records, changes: 0, forgotten: Vec::new() };
        let disk = Some(Disk { folder, drafts: drafts.into() });
        Ok(Records { disk, inner: Mutex::new(inner), written: Mutex::new(written) })
    }

    pub(super) fn get(&self, id: &str) -> Option<T> {
        self.inner.lock().records.get(id).map(|it| it.0.clone())
    }

    pub(super) fn all(&self) -> Vec<T> {
        self.inner.lock().records.values().map(|it| it.0.clone()).collect()
    }

    /// Adds or replaces a record in memory. [`write`](Self::write) writes it.
    pub(super) fn put(&self, record: T) {
        let mut inner = self.inner.lock();
        inner.changes += 1;
        let change = inner.changes;
        inner.records.insert(record.id().to_owned(), (record, change));
    }

    /// Changes a record in memory, if it exists.
    pub(super) fn change(&self, id: &str, change: impl FnOnce(&mut T)) {
        let mut inner = self.inner.lock();
        let next = inner.changes + 1;
        if let Some((record, number)) = inner.records.get_mut(id) {
            change(record);
            *number = next;
            inner.changes = next;
        }
    }

    /// Removes a record from memory. [`write_changed`](Self::write_changed) removes its file.
    pub(super) fn forget(&self, id: &str) {
        let mut inner = self.inner.lock();
        if inner.records.remove(id).is_some() && self.disk.is_some() {
            inner.forgotten.push(id.into());
        }
    }

    /// Writes a record as it is now. When this returns, it is on the disk. A failure is logged, and the record is written
    /// again with the next call.
    pub(super) fn write(&self, id: &str) {
        let Some(disk) = &self.disk else { return };
        // Sync also if another thread has renamed the file, because it may not have synced the name yet.
        warn(&disk.path(id), self.rename(disk, id).and_then(|()| sync_folder(&disk.folder)));
    }

    /// Writes the file of a record and renames it, unless the file is up to date. The name is not synced.
    fn rename(&self, disk: &Disk, id: &str) -> io::Result<()> {
        let Some((record, change)) = self.inner.lock().records.get(id).cloned() else { return Ok(()) };
        let is_written = |written: &HashMap<String, u64>| written.get(id).is_some_and(|it| change <= *it);
        if !is_written(&self.written.lock()) {
            let text = serde_json::to_string_pretty(&record)? + "\n";
            let draft = TempPath(disk.drafts.join(format!("{:016x}", fastrand::u64(..))));
            write_file(&draft.0, text.as_bytes())?;
            let mut written = self.written.lock();
            // Another thread may have written a newer version, or have forgotten the record, meanwhile.
            if !is_written(&written) && self.inner.lock().records.contains_key(id) {
                fs::rename(&draft.0, disk.path(id))?;
                written.insert(id.into(), change);
            }
        }
        Ok(())
    }

    /// Writes all records that have changed, and removes the files of forgotten ones.
    fn write_changed(&self) {
        let Some(disk) = &self.disk else { return };
        let (forgotten, all): (Vec<String>, Vec<(String, u64)>) = {
            let mut inner = self.inner.lock();
            let all = inner.records.iter().map(|(id, it)| (id.clone(), it.1)).collect();
            (std::mem::take(&mut inner.forgotten), all)
        };
        {
            let mut written = self.written.lock();
            for id in forgotten {
                // A record with the same id may have been added again.
                if !self.inner.lock().records.contains_key(&id) {
                    remove(&disk.path(&id));
                    written.remove(&id);
                }
            }
        }
        let changed: Vec<String> = {
            let written = self.written.lock();
            let is_changed = |it: &(String, u64)| written.get(&it.0).is_none_or(|known| *known < it.1);
            all.into_iter().filter(is_changed).map(|it| it.0).collect()
        };
        for id in &changed {
            warn(&disk.path(id), self.rename(disk, id));
        }
        if !changed.is_empty() {
            warn(&disk.folder, sync_folder(&disk.folder));
        }
    }
}

impl Disk {
    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{}.json", id.replace(':', "_")))
    }
}

fn warn(path: &Path, done: io::Result<()>) {
    if let Err(error) = done {
        log::warn!("the embedded engine cannot write {}, and will try again: {error}", path.display());
    }
}

/// Reads a record.
fn read<T: Record>(path: &Path) -> Result<T, String> {
    let size = fs::metadata(path).map_err(|it| it.to_string())?.len();
    if MAX_RECORD < size {
        return Err(format!("it has {size} bytes, a record at most {MAX_RECORD}"));
    }
    let bytes = fs::read(path).map_err(|it| it.to_string())?;
    let record: T = serde_json::from_slice(&bytes).map_err(|it| it.to_string())?;
    let name = format!("{}.json", record.id().replace(':', "_"));
    match path.file_name() {
        Some(it) if *it == *name => Ok(record),
        _ => Err(format!("it describes {:?}", record.id())),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tinkex-catalogue-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(path.join("drafts")).expect("a folder");
            Folder(path)
        }

        fn open(&self) -> Catalogue {
            Catalogue::open(&self.0.join("catalogue"), &self.0.join("drafts")).expect("a catalogue")
        }

        fn file(&self, name: &str) -> PathBuf {
            self.0.join("catalogue").join(name)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn run(id: &str, rank: u32) -> RunRecord {
        let user_metadata = [("team".to_string(), "red".into())].into();
        RunRecord { format: 1, run_id: id.into(), rank, user_metadata, ..RunRecord::default() }
    }

    #[test]
    fn records_are_read_again_and_forgotten_ones_are_not() {
        let folder = Folder::new("again");
        let catalogue = folder.open();
        let end = Some(End::Finished { reason: FinishReason::Success, detail: None });
        let session = SessionRecord { session_id: "s".into(), end, ..SessionRecord::default() };
        catalogue.sessions.put(session.clone());
        catalogue.runs.put(run("s:train:0", 4));
        catalogue.runs.put(run("s:train:1", 4));
        catalogue.runs.write("s:train:0");
        let read = folder.open();
        assert_eq!(read.runs.all(), [run("s:train:0", 4)], "the others are not written yet");
        catalogue.runs.change("s:train:0", |it| it.rank = 8);
        catalogue.write_changed();
        catalogue.runs.forget("s:train:1");
        catalogue.write_changed();
        let read = folder.open();
        assert_eq!((read.runs.all(), read.sessions.all()), (vec![run("s:train:0", 8)], vec![session]));
        assert_eq!(fs::read_dir(folder.0.join("drafts")).expect("the folder").count(), 0);
    }

    #[test]
    fn files_that_are_not_whole_records_are_skipped_and_left_alone() {
        let folder = Folder::new("broken");
        let catalogue = folder.open();
        catalogue.runs.put(run("s:train:0", 4));
        catalogue.write_changed();
        let whole = fs::read(folder.file("runs/s_train_0.json")).expect("the file");
        let broken: [(&str, &[u8]); 6] = [
            ("runs/s_train_1.json", &whole[..whole.len() / 2]),
            ("runs/s_train_2.json", b""),
            ("runs/s_train_3.json", b"[]"),
            ("runs/s_train_4.json", b"\xff\xfe"),
            ("runs/s_train_5.json", &whole),
            ("runs/notes.txt", b"mine"),
        ];
        broken.iter().for_each(|(name, bytes)| fs::write(folder.file(name), bytes).expect("a file"));
        fs::write(folder.file("runs/s_train_6.json"), vec![b' '; 2 << 20]).expect("a file");
        fs::create_dir(folder.file("runs/s_train_7.json")).expect("a folder");
        let read = folder.open();
        assert_eq!(read.runs.all(), [run("s:train:0", 4)]);
        read.write_changed();
        assert_eq!(fs::read(folder.file("runs/notes.txt")).expect("the file"), b"mine");
    }

    #[test]
    fn a_record_that_could_not_be_written_is_written_later() {
        let folder = Folder::new("later");
        let catalogue = folder.open();
        let drafts = folder.0.join("drafts");
        fs::remove_dir(&drafts).expect("the folder");
        catalogue.runs.put(run("s:train:0", 4));
        catalogue.runs.write("s:train:0");
        assert!(folder.open().runs.all().is_empty() && catalogue.runs.get("s:train:0").is_some());
        fs::create_dir(&drafts).expect("a folder");
        catalogue.write_changed();
        assert_eq!(folder.open().runs.all(), [run("s:train:0", 4)]);
    }

    #[test]
    fn of_two_threads_that_write_one_record_the_newer_version_stays() {
        let folder = Folder::new("threads");
        let catalogue = folder.open();
        catalogue.runs.put(run("s:train:0", 0));
        for rank in 1..20 {
            std::thread::scope(|threads| {
                threads.spawn(|| catalogue.runs.write("s:train:0"));
                catalogue.runs.change("s:train:0", |it| it.rank = rank);
                catalogue.runs.write("s:train:0");
                assert_eq!(folder.open().runs.all(), [run("s:train:0", rank)]);
            });
            assert_eq!(folder.open().runs.all(), [run("s:train:0", rank)]);
        }
    }
}
