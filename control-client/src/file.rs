//! A file as a source: told of changes by the kernel, and by a slow poll where the kernel says nothing.
//!
//! The *directory* is watched, never the file: editors replace files by rename, and Kubernetes swaps the `..data`
//! symlink of a ConfigMap, so a watch on the file's inode would see nothing. Any event only means "read again"; whether
//! something changed is decided by content.

use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// After an event, this long is waited for the rest of them: a writer rarely makes just one.
const SETTLE: Duration = Duration::from_millis(50);
/// Without events, the file is read this often all the same.
const POLL: Duration = Duration::from_secs(5);
/// The largest file that is read; a mistake such as a log file in place of a configuration must not fill memory.
const MAX_BYTES: u64 = 64 << 20;

/// Tells when files may have changed. One for all that belong together: the kernel grants each user 128 of them.
pub struct Watch {
    events: mpsc::Receiver<()>,
    poll: tokio::time::Interval,
    // Dropping it ends the watch.
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Watch {
    /// Watches these. Needs a tokio runtime with time.
    pub fn new<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Self {
        let (sender, events) = mpsc::channel(1);
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self { events, poll, _watcher: watch(paths, sender) }
    }

    /// Waits until one may have changed, and for the rest of what its writer does. Cancelling loses nothing.
    pub async fn stirred(&mut self) {
        tokio::select! {
            Some(()) = self.events.recv() => {
                tokio::time::sleep(SETTLE).await;
                while self.events.try_recv().is_ok() {}
            }
            _ = self.poll.tick() => {}
        }
    }
}

/// Watches one file.
pub struct FileSource {
    path: PathBuf,
    watch: Watch,
    seen: u64,
    hasher: foldhash::quality::FixedState,
}

/// Reads the file.
///
/// # Errors
/// What the system says, or that the file is too large or not UTF-8.
pub fn read(path: &Path) -> io::Result<String> {
    let size = std::fs::metadata(path)?.len();
    if size > MAX_BYTES {
        return Err(io::Error::other(format!("the file has {size} bytes; at most {MAX_BYTES} are read")));
    }
    std::fs::read_to_string(path)
}

impl FileSource {
    /// Watches `path`, whose content `current` is already known. Needs a tokio runtime with time.
    pub fn new(path: &Path, current: &str) -> Self {
        let hasher = foldhash::quality::FixedState::default();
        Self { path: path.to_owned(), watch: Watch::new([path]), seen: hasher.hash_one(current), hasher }
    }

    /// Waits for the content to change and gives it. Cancelling loses nothing.
    ///
    /// # Errors
    /// Why the file cannot be read; asked again, it waits for the next change.
    pub async fn changed(&mut self) -> io::Result<String> {
        loop {
            self.watch.stirred().await;
            let content = match read(&self.path) {
                // Between the removal of the old file and the rename of the new one there may be none for a moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    tokio::time::sleep(SETTLE).await;
                    read(&self.path)
                }
                other => other,
            };
            let digest = self.digest(&content);
            if digest != self.seen {
                self.seen = digest;
                return content;
            }
        }
    }

    /// Reads the file now, whether it changed or not.
    ///
    /// # Errors
    /// Why the file cannot be read.
    pub fn reread(&mut self) -> io::Result<String> {
        let content = read(&self.path);
        self.seen = self.digest(&content);
        content
    }

    /// What tells one outcome of reading from another, failures included.
    fn digest(&self, content: &io::Result<String>) -> u64 {
        match content {
            Ok(text) => self.hasher.hash_one(text),
            Err(error) => self.hasher.hash_one(error.to_string()),
        }
    }
}

/// Watches the directories of the files, and those that their symlinks lead to.
fn watch<'p>(paths: impl IntoIterator<Item = &'p Path>, sender: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let handler = move |event: notify::Result<notify::Event>| {
        // Our own reads are events too; they must not wake us.
        if event.is_ok_and(|event| event.kind.is_access()) {
            return;
        }
        // Full means that a wake-up is due already.
        let _ = sender.try_send(());
    };
    let mut watcher = match notify::recommended_watcher(handler) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "file events are not available; changes are noticed within {POLL:?}");
            return None;
        }
    };
    let dirs: BTreeSet<PathBuf> = paths.into_iter().flat_map(directories).collect();
    for dir in dirs {
        if let Err(error) = watcher.watch(&dir, RecursiveMode::NonRecursive) {
            tracing::warn!(%error, dir = %dir.display(), "this directory cannot be watched; changes are noticed within {POLL:?}");
        }
    }
    Some(watcher)
}

/// The directory of a file, and the one that its symlinks lead to, if that is another.
fn directories(path: &Path) -> impl Iterator<Item = PathBuf> {
    let own = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let real = std::fs::canonicalize(path).ok().and_then(|real| Some(real.parent()?.to_owned()));
    let real = real.filter(|real| std::fs::canonicalize(own).ok().as_ref() != Some(real));
    std::iter::once(own.to_owned()).chain(real)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    async fn next(source: &mut FileSource) -> String {
        tokio::time::timeout(Duration::from_secs(20), source.changed()).await.unwrap().unwrap()
    }

    #[test]
    fn writes_renames_and_symlink_swaps_are_noticed() {
        runtime().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("weir.yaml");
            std::fs::write(&file, "one").unwrap();
            let mut source = FileSource::new(&file, "one");

            std::fs::write(&file, "two").unwrap();
            assert_eq!(next(&mut source).await, "two");

            let temporary = dir.path().join(".weir.yaml.swp");
            std::fs::write(&temporary, "three").unwrap();
            std::fs::rename(&temporary, &file).unwrap();
            assert_eq!(next(&mut source).await, "three");
        });
    }

    #[test]
    fn a_config_map_swap_is_noticed() {
        runtime().block_on(async {
            // What a kubelet makes: weir.yaml -> ..data/weir.yaml, ..data -> ..1, replaced by rename.
            let dir = tempfile::tempdir().unwrap();
            for (version, text) in [("..1", "one"), ("..2", "two")] {
                std::fs::create_dir(dir.path().join(version)).unwrap();
                std::fs::write(dir.path().join(version).join("weir.yaml"), text).unwrap();
            }
            let link = std::os::unix::fs::symlink::<&str, PathBuf>;
            link("..1", dir.path().join("..data")).unwrap();
            link("..data/weir.yaml", dir.path().join("weir.yaml")).unwrap();
            let mut source = FileSource::new(&dir.path().join("weir.yaml"), "one");
            link("..2", dir.path().join("..data_tmp")).unwrap();
            std::fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
            assert_eq!(next(&mut source).await, "two");
        });
    }
}
