//! Who else has sockets in this network namespace: beside an app, that is the app. Where containers of a pod or a task are told
//! to leave all at once, this shows when the others have.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// So often in a row nobody must be there: between two calls an app that serves nobody has no socket.
const LOOKS: u32 = 10;
/// `/proc/net/tcp` is read up to here; there are that many sockets only where somebody is at work.
const MOST: usize = 1 << 20;

/// Waits until nobody but this process has TCP sockets here: none that listens, and none that is connected.
pub(super) async fn gone() {
    let mut absent = 0;
    while absent < LOOKS {
        absent = if are_there(Path::new("/proc/self/net"), &own_sockets()) { 0 } else { absent + 1 };
        tokio::time::sleep(PAUSE).await;
    }
}

/// The inodes of this process's own sockets.
fn own_sockets() -> HashSet<u64> {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let links = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()).collect()
}

fn are_there(dir: &Path, own: &HashSet<u64>) -> bool {
    use std::io::Read;
    ["tcp", "tcp6"].iter().any(|name| {
        let mut table = String::new();
        let read = std::fs::File::open(dir.join(name)).and_then(|file| file.take(MOST as u64).read_to_string(&mut table));
        // What cannot be read shows nobody, and nobody waits for ever.
        read.is_ok() && table.lines().skip(1).any(|line| is_somebody_elses(line, own).unwrap_or(false))
    })
}

/// Docker's name server stands in each container of a network that compose makes: 127.0.0.11, where nobody else is.
const NAME_SERVER: &str = "0B00007F:";

/// A line of the table is `sl local remote state queues timer retransmits uid timeout inode ...`.
fn is_somebody_elses(line: &str, own: &HashSet<u64>) -> Option<bool> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let local = words.next()?;
    let state = words.nth(1)?;
    let inode: u64 = words.nth(5)?.parse().ok()?;
    // What a process has left behind has no inode.
    Some(state != TIME_WAIT && inode != 0 && !local.starts_with(NAME_SERVER) && !own.contains(&inode))
}

const TIME_WAIT: &str = "06";

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn table(lines: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tcp"), format!("{HEAD}{}\n", lines.join("\n"))).unwrap();
        dir
    }

    #[test]
    fn only_sockets_of_others_count() {
        let own =
            "   0: 00000000:3A9E 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1337        0 4711 1 0 100 0 0 10 0";
        let app =
            "   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0";
        let left = "   2: 0100007F:1F90 0100007F:0050 06 00000000:00000000 03:00001234 00000000     0        0 0 3 0";
        let orphan = "   3: 0100007F:1F90 0100007F:0050 05 00000000:00000000 03:00001234 00000000     0        0 0 3 0";
        let names =
            "   4: 0B00007F:A2C9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0";
        let ours = HashSet::from([4711]);
        assert!(are_there(table(&[own, app]).path(), &ours));
        assert!(!are_there(table(&[own, left, orphan, names]).path(), &ours));
        assert!(are_there(table(&[own]).path(), &HashSet::new()));
        assert!(!are_there(table(&["", "nonsense", "1: 2 3"]).path(), &ours));
        assert!(!are_there(Path::new("/nowhere"), &ours));
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!own_sockets().is_empty(), "{held:?}");
    }
}
