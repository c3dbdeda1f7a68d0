//! Memory and limits of this process. Tests that measure run alone (see [`alone`](super::alone)).

/// Reads a field in kB from `/proc/self/status`.
pub(crate) fn kilobytes(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

/// Peak growth of the resident memory during `work`, in kB.
pub(crate) fn growth(work: impl FnOnce()) -> usize {
    // Reset the peak `VmHWM`.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = kilobytes("VmRSS");
    work();
    kilobytes("VmHWM").saturating_sub(before)
}

/// Number of connections, at most `wanted`, for which this process has enough file descriptors. The process holds both
/// ends of each connection.
pub(crate) fn max_connections(wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|it| it.strip_prefix("Max open files")).unwrap();
    let soft = line.split_whitespace().next().unwrap().parse().unwrap_or(1_000_000usize);
    (soft.saturating_sub(100) / 2).min(wanted)
}

/// Raises this process's limit of open files as far as it may, if the program `prlimit` is there.
pub(crate) fn raise_max_files() {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|it| it.strip_prefix("Max open files")).unwrap();
    let hard = line.split_whitespace().nth(1).unwrap();
    let process = std::process::id().to_string();
    let limit = format!("--nofile={hard}:{hard}");
    // Without a higher limit, a test takes fewer connections.
    let _ = std::process::Command::new("prlimit").args(["--pid", &process, &limit]).status();
}
