//! The memory that this process may still take: what the machine has free, or less if a control group limits it.

use std::path::{Path, PathBuf};

/// Bytes that are available now, or `None` if the system does not tell.
pub(super) fn available() -> Option<u64> {
    available_by(|path| std::fs::read_to_string(path).ok())
}

/// As [`available`], with the content of the system's files from `read`.
fn available_by(read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let machine =
        read(Path::new("/proc/meminfo")).and_then(|it| field(&it, "MemAvailable:")).map(|it| it << 10);
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let left = groups.lines().flat_map(folders).filter_map(|it| left_in(&it, &read));
    machine.into_iter().chain(left).min()
}

/// Names of the files of a control group: its limit, what it uses, and the part of that which is only a cache.
struct Names {
    limit: &'static str,
    usage: &'static str,
    cache: &'static str,
}

const V1: Names =
    Names { limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", cache: "total_inactive_file" };
const V2: Names = Names { limit: "memory.max", usage: "memory.current", cache: "inactive_file" };

/// Folders of the control groups of a line of `/proc/self/cgroup`, from the process's own group up to the root: the limit of
/// each holds. In a container the path may be that of the host; then only the root exists.
fn folders(line: &str) -> Vec<(PathBuf, &'static Names)> {
    let mut parts = line.splitn(3, ':');
    let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
        return Vec::new();
    };
    let (root, names) = match controllers {
        "" if number == "0" => ("/sys/fs/cgroup", &V2),
        it if it.split(',').any(|it| it == "memory") => ("/sys/fs/cgroup/memory", &V1),
        _ => return Vec::new(),
    };
    let within = |it: &Path| Path::new(root).join(it.strip_prefix("/").unwrap_or(it));
    Path::new(path).ancestors().map(|it| (within(it), names)).collect()
}

/// Bytes that a control group may still take, or `None` if it has no limit.
fn left_in((folder, names): &(PathBuf, &Names), read: &impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let number = |name: &str| read(&folder.join(name))?.trim().parse::<u64>().ok();
    let limit = number(names.limit)?;
    let cache = read(&folder.join("memory.stat")).and_then(|it| field(&it, names.cache)).unwrap_or(0);
    Some(limit.saturating_sub(number(names.usage).unwrap_or(0).saturating_sub(cache)))
}

/// The number after a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut words = text.lines().map(str::split_whitespace).find(|it| it.clone().next() == Some(name))?;
    words.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const MEMINFO: &str = "MemTotal: 16777216 kB\nMemFree: 1048576 kB\nMemAvailable: 8388608 kB\n";

    fn read(files: &[(&str, &str)]) -> Option<u64> {
        available_by(|path| files.iter().find(|it| Path::new(it.0) == path).map(|it| it.1.to_string()))
    }

    #[test]
    fn the_smallest_of_the_machine_and_all_control_groups_counts() {
        let (meminfo, own) = ("/proc/meminfo", "/proc/self/cgroup");
        let (gib4, gib1) = (&*(4 * GIB).to_string(), &*GIB.to_string());
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[(meminfo, MEMINFO)]), Some(8 * GIB));
        let v2 = [
            (meminfo, MEMINFO),
            (own, "0::/a/b\n"),
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/memory.max", gib4),
            ("/sys/fs/cgroup/a/memory.current", gib1),
        ];
        assert_eq!(read(&v2), Some(3 * GIB));
        let stat = format!("anon 5\ninactive_file {}\n", GIB / 2);
        let cached = [&v2[..], &[("/sys/fs/cgroup/a/memory.stat", stat.as_str())]].concat();
        assert_eq!(read(&cached), Some(3 * GIB + GIB / 2));
        let v1 = [
            (meminfo, MEMINFO),
            (own, "12:cpu,cpuacct:/x\n5:memory:/host/path\n0::/\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", gib4),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", gib1),
        ];
        assert_eq!(read(&v1), Some(3 * GIB));
        // More is used than allowed, and a limit that is none.
        let full =
            [(own, "0::/"), ("/sys/fs/cgroup/memory.max", gib1), ("/sys/fs/cgroup/memory.current", gib4)];
        assert_eq!(read(&full), Some(0));
        let none = [
            (meminfo, MEMINFO),
            (own, "5:memory:/\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712"),
        ];
        assert_eq!(read(&none), Some(8 * GIB));
    }

    #[test]
    fn this_machine_tells_its_memory() {
        assert!(!cfg!(target_os = "linux") || available().is_some_and(|it| 1 << 20 < it));
    }
}
