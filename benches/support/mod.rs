//! Helper of the benches that need the feature `testing`.

/// Runs the bench again with the feature `testing` and ends this process with its exit status. So
/// `cargo bench --bench NAME` works without naming the feature.
#[cfg(not(feature = "testing"))]
pub(crate) fn run_with_testing(bench: &str) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = std::process::Command::new(cargo)
        .args(["bench", "--quiet", "--features", "testing", "--bench", bench, "--"])
        .args(std::env::args().skip(1))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    std::process::exit(status.code().unwrap_or(1));
}
