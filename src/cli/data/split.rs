//! `tinkex data split`.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::connection::App;
use crate::counted::counted;
use crate::examples::{Keep, held_out, read_keeping};
use crate::failure::Failure;
use crate::shell_word::quoted;

use super::DataOptions;

/// Names of the files that are written.
const NAMES: [&str; 2] = ["train.jsonl", "eval.jsonl"];

/// Where the parts go.
pub(super) struct To {
    pub(super) share: f64,
    pub(super) folder: PathBuf,
    pub(super) overwrite: bool,
}

pub(super) fn run(files: &[PathBuf], options: &DataOptions, to: &To, app: &App) -> Result<(), Failure> {
    let lines = read_keeping(Keep::Lines, files, options)?;
    let is_held_out = held_out(&lines.records, to.share);
    let n_held_out = is_held_out.iter().filter(|it| **it).count();
    if n_held_out == 0 {
        return Err(Failure::text("a single example cannot be split"));
    }
    let mut parts = [Vec::new(), Vec::new()];
    for (record, is_held_out) in lines.records.iter().zip(is_held_out) {
        let part = &mut parts[usize::from(is_held_out)];
        // An item of an array may be written in several lines; in its texts line ends are escaped.
        part.extend(record.raw.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
        part.push(b'\n');
    }
    let paths = NAMES.map(|name| to.folder.join(name));
    let problem = |path: &Path, error: std::io::Error| {
        Failure::text(format!("cannot write to {}: {error}", path.display()))
    };
    if to.folder.is_file() {
        return Err(Failure::usage(format!("-o {} is a file", to.folder.display())).with_remedy("a folder"));
    }
    let own = |path: &PathBuf| path.canonicalize().ok();
    let read: Vec<PathBuf> = files.iter().filter_map(own).collect();
    if let Some(path) = paths.iter().find(|path| own(path).is_some_and(|it| read.contains(&it))) {
        let problem = format!("{} is the file that is split, and one of its parts", path.display());
        let folder = to.folder.join("parts").display().to_string();
        return Err(Failure::usage(problem).with_remedy(format!("-o {}", quoted(&folder))));
    }
    for (path, part) in paths.iter().zip(&parts) {
        let is_other = path.exists() && std::fs::read(path).is_ok_and(|it| it != *part);
        if is_other && !to.overwrite {
            return Err(Failure::usage(format!("{} is there, and has other lines", path.display()))
                .with_remedy("--overwrite replaces it"));
        }
    }
    std::fs::create_dir_all(&to.folder).map_err(|error| problem(&to.folder, error))?;
    for (path, part) in paths.iter().zip(&parts) {
        std::fs::write(path, part).map_err(|error| problem(path, error))?;
    }
    let counts = [lines.records.len() - n_held_out, n_held_out];
    let shown = paths.each_ref().map(|path| path.display().to_string());
    let json = json!({
        "train": { "path": shown[0], "lines": counts[0] },
        "eval": { "path": shown[1], "lines": counts[1] },
    });
    app.hint(&format!(
        "tinkex train {} --eval-data {} trains on the first part and evaluates with the second",
        quoted(&shown[0]),
        quoted(&shown[1])
    ));
    let text = |i: usize| format!("{}: {}", shown[i], counted(counts[i] as u64, "line"));
    app.out.value(&json, || format!("{}\n{}", text(0), text(1)))
}
