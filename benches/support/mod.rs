//! What the benches of the codecs share.

/// Runs this bench once more, with the feature that shows it the codecs: `cargo bench --bench NAME` shall do.
#[cfg(not(feature = "testing"))]
pub(crate) fn again(bench: &str) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = std::process::Command::new(cargo)
        .args(["bench", "--quiet", "--features", "testing", "--bench", bench, "--"])
        .args(std::env::args().skip(1))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    std::process::exit(status.code().unwrap_or(1));
}
