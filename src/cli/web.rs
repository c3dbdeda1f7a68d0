//! Requests to addresses outside the server's API.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// An HTTP client whose requests, with their answers, take at most `limit`.
fn agent(limit: Duration) -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(limit))
        .user_agent(concat!("tinkex/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}

/// Fetches a short document.
pub(crate) fn fetch(url: &str, limit: Duration, longest: u64) -> Result<Vec<u8>, String> {
    let mut answer = agent(limit).get(url).call().map_err(|error| error.to_string())?;
    answer.body_mut().with_config().limit(longest).read_to_vec().map_err(|error| error.to_string())
}

/// Saves a document as a file, which is complete once it has its name. Returns its size.
pub(crate) fn save(url: &str, file: &Path, limit: Duration) -> Result<u64, String> {
    let mut answer = agent(limit).get(url).call().map_err(|error| error.to_string())?;
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let written = write(&mut answer.body_mut().with_config().limit(u64::MAX).reader(), Path::new(&part))
        .and_then(|size| std::fs::rename(&part, file).map(|()| size));
    if written.is_err() {
        // Only the first error is reported.
        let _ = std::fs::remove_file(&part);
    }
    written.map_err(|error| error.to_string())
}

fn write(from: &mut impl Read, part: &Path) -> std::io::Result<u64> {
    let mut file = std::fs::File::create(part)?;
    let size = std::io::copy(from, &mut file)?;
    file.sync_all()?;
    Ok(size)
}
