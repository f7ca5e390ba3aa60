//! What the machine allows: how many workers are worth having.

use std::path::{Path, PathBuf};

/// More workers than this are not worth their memory beside an app, unless somebody asks for them.
const SIDECAR_WORKERS: usize = 2;

/// How many workers to run, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers {
    /// The number, at least 1.
    pub count: usize,
    /// Where it comes from, for people.
    pub source: String,
}

/// The number of workers: as configured, else the least of the cgroup's CPU quota (rounded up), the CPUs this process
/// may run on, and 2.
pub fn workers(configured: Option<u16>) -> Workers {
    if let Some(count) = configured {
        return Workers { count: usize::from(count).max(1), source: "configured".to_owned() };
    }
    let allowed = affinity().unwrap_or(1);
    let quota = std::fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| quota(&text, Path::new("/sys/fs/cgroup")));
    let mut best = (SIDECAR_WORKERS, "default for sidecars".to_owned());
    if allowed < best.0 {
        best = (allowed, format!("{allowed} CPU allowed"));
    }
    if let Some(quota) = quota
        && quota < best.0
    {
        best = (quota, format!("CPU quota of {quota}"));
    }
    Workers { count: best.0.max(1), source: best.1 }
}

/// How many CPUs this process may run on.
fn affinity() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:"))?;
    let bits: u32 = mask.chars().filter_map(|c| c.to_digit(16)).map(u32::count_ones).sum();
    usize::try_from(bits).ok()
}

/// The CPU quota of this process's cgroup or the tightest above it, rounded up. `cgroup` is `/proc/self/cgroup`.
fn quota(cgroup: &str, root: &Path) -> Option<usize> {
    let mut found: Option<usize> = None;
    for line in cgroup.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let base = match controllers {
            "" => root.to_owned(),
            list if list.split(',').any(|controller| controller == "cpu") => root.join(list),
            _ => continue,
        };
        let path = path.trim_start_matches('/');
        // In a container the path is that of the host and may not exist here; the root then is the container's own.
        let mut at = Some(PathBuf::from(path));
        while let Some(part) = at {
            if let Some(quota) = read_quota(&base.join(&part)) {
                found = Some(found.map_or(quota, |best| best.min(quota)));
            }
            at = part.parent().map(Path::to_owned);
        }
    }
    found
}

/// The quota of one cgroup: `cpu.max` in version 2, `cpu.cfs_quota_us` in version 1.
fn read_quota(dir: &Path) -> Option<usize> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (quota, period) = match std::fs::read_to_string(dir.join("cpu.max")) {
        Ok(text) => {
            let (quota, period) = text.split_once(' ')?;
            (number(quota)?, number(period)?)
        }
        Err(_) => (
            number(&std::fs::read_to_string(dir.join("cpu.cfs_quota_us")).ok()?)?,
            number(&std::fs::read_to_string(dir.join("cpu.cfs_period_us")).ok()?)?,
        ),
    };
    if period == 0 { None } else { usize::try_from(quota.div_ceil(period)).ok().map(|n| n.max(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn quotas_round_up_and_the_tightest_counts() {
        let v2 = tree(&[("a/b/cpu.max", "max 100000"), ("a/cpu.max", "150000 100000"), ("cpu.max", "400000 100000")]);
        assert_eq!(quota("0::/a/b\n", v2.path()), Some(2));
        let half = tree(&[("cpu.max", "50000 100000")]);
        assert_eq!(quota("0::/not/here\n", half.path()), Some(1));
        let none = tree(&[("cpu.max", "max 100000")]);
        assert_eq!(quota("0::/\n", none.path()), None);
        let v1 = tree(&[("cpu,cpuacct/x/cpu.cfs_quota_us", "250000"), ("cpu,cpuacct/x/cpu.cfs_period_us", "100000")]);
        assert_eq!(quota("4:memory:/x\n3:cpu,cpuacct:/x\n", v1.path()), Some(3));
        let unlimited = tree(&[("cpu/x/cpu.cfs_quota_us", "-1"), ("cpu/x/cpu.cfs_period_us", "100000")]);
        assert_eq!(quota("3:cpu:/x\n", unlimited.path()), None);
    }

    #[test]
    fn a_configured_number_is_kept() {
        assert_eq!(workers(Some(7)).count, 7);
        assert!((1..=2).contains(&workers(None).count));
    }
}
