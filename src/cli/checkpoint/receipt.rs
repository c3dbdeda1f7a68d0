//! What a complete download leaves beside it, in a hidden file: the checkpoint, and size and time of each file. With it the same
//! command sees later that the files are all there and unchanged. Of a download without it, nothing is known.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};
use tinkex::types::CheckpointPath;
use tinkex::{RestClient, Result};

/// What identifies the state of a checkpoint at the server, where another one may be saved under the same path. Null if
/// the server does not list it.
pub(super) fn version(rest: &RestClient, path: &CheckpointPath) -> Result<Value> {
    let list = match rest.list_checkpoints(path.run_id()) {
        Ok(list) => list,
        // The list of another user's run, or of one that is gone.
        Err(error) if error.http_status().is_some_and(|it| matches!(it, 403 | 404)) => Vec::new(),
        Err(error) => return Err(error),
    };
    let found = list.iter().find(|it| it.path().is_ok_and(|it| it == *path));
    Ok(found.map_or(
        Value::Null,
        |it| json!({ "time": it.time.as_ref().map(ToString::to_string), "size_bytes": it.size_bytes }),
    ))
}

/// True if what was downloaded is what the server has, as far as both are known. What the server no longer has is not
/// replaced by anything.
pub(super) fn is_current(receipt: &Value, version: &Value) -> bool {
    let earlier = &receipt["version"];
    let is_same = |name: &str| earlier[name] == version[name];
    // The size is that of all files, of which one may tell the lifetime.
    let is_known = |name: &str| !earlier[name].is_null() && !version[name].is_null();
    version.is_null() || earlier.is_null() || is_same(if is_known("time") { "time" } else { "size_bytes" })
}

/// Writes the receipt of a download; `result` is what the command prints about it.
pub(super) fn write(destination: &Path, version: &Value, result: &Value) -> io::Result<()> {
    let receipt = json!({ "result": result, "version": version, "files": files_of(destination)? });
    fs::write(file_of(destination)?, format!("{receipt:#}\n"))
}

/// The receipt of the complete download of this checkpoint, if all its files are as they were then.
pub(super) fn read(destination: &Path, path: &CheckpointPath) -> Option<Value> {
    let receipt: Value = serde_json::from_slice(&fs::read(file_of(destination).ok()?).ok()?).ok()?;
    let is_of_path = receipt["result"]["checkpoint_path"] == path.as_str();
    let files = receipt["files"].as_object().filter(|it| !it.is_empty())?;
    let there = files_of(destination).ok()?;
    // Files that were added to the folder do not matter.
    let are_there = files.iter().all(|(name, state)| there.get(name) == Some(state));
    (is_of_path && are_there).then_some(receipt)
}

fn file_of(destination: &Path) -> io::Result<PathBuf> {
    let name = destination.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    Ok(destination.with_file_name(format!(".{}.download.json", name.to_string_lossy())))
}

/// Size and time of each file by its path in the folder, which is empty for an archive.
fn files_of(destination: &Path) -> io::Result<BTreeMap<String, Value>> {
    let mut files = BTreeMap::new();
    let mut open = vec![destination.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                open.push(entry?.path());
            }
            continue;
        }
        let name = path.strip_prefix(destination).unwrap_or(&path).to_string_lossy().into_owned();
        let age = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        files.insert(name, json!({ "size_bytes": metadata.len(), "modified": format!("{}.{:09}", age.as_secs(), age.subsec_nanos()) }));
    }
    Ok(files)
}
