//! Requests to addresses outside the server's API.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::connection::ca_bundle;

/// The certificates to trust: those that the user names, or else those of the system if the program is built so.
pub(crate) fn roots() -> Option<TlsConfig> {
    let roots = match ca_bundle().map(std::fs::read) {
        // A bundle that cannot be read is told by the client of the server.
        Some(pem) => certificates(&pem.unwrap_or_default()),
        None if cfg!(feature = "native-roots") => RootCerts::PlatformVerifier,
        None => return None,
    };
    Some(TlsConfig::builder().root_certs(roots).build())
}

fn certificates(pem: &[u8]) -> RootCerts {
    let certificates = parse_pem(pem).filter_map(|it| match it {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    RootCerts::Specific(Arc::new(certificates.collect()))
}

/// An HTTP client whose requests, with their answers, take at most `limit`.
fn agent(limit: Duration) -> ureq::Agent {
    let mut config = ureq::Agent::config_builder()
        .timeout_global(Some(limit))
        .user_agent(concat!("tinkex/", env!("CARGO_PKG_VERSION")));
    if let Some(roots) = roots() {
        config = config.tls_config(roots);
    }
    config.build().new_agent()
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
