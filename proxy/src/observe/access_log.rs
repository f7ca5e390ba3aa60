//! Access log lines on their way out: a buffer for each worker, a bounded queue, one writing thread.
//!
//! A worker formats a line into its own buffer and hands full buffers, or whatever has waited a moment, to the queue.
//! It never waits: a full queue drops the buffer and counts its lines. Losing lines is better than losing requests.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use weir_config::access_log::{Format, Piece};
use weir_config::snapshot::{AccessLog, LogSink};

use super::line;
use super::metrics::Metrics;
use super::record::{Finished, LogEntry};

/// A buffer is handed on when it has this many bytes.
const BATCH: usize = 16 << 10;
/// Or when its first line has waited this long.
const LINGER: Duration = Duration::from_millis(100);
/// Buffers waiting for the writing thread; times `BATCH` bounds the memory.
const QUEUE: usize = 256;

/// The writing thread's side of one access log.
pub struct LogWriter {
    /// What it was opened for.
    pub config: AccessLog,
    queue: SyncSender<Batch>,
    reopen: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

struct Batch {
    lines: u64,
    bytes: Vec<u8>,
    done: Option<SyncSender<()>>,
}

impl LogWriter {
    /// Opens the log and starts its thread.
    ///
    /// # Errors
    /// Why the file cannot be opened or the thread not started.
    pub fn open(config: AccessLog, metrics: Arc<Metrics>) -> std::io::Result<Arc<Self>> {
        let mut sink = Sink::open(&config.sink)?;
        let (queue, batches) = sync_channel(QUEUE);
        let reopen = Arc::new(AtomicBool::new(false));
        let (asked, counted) = (Arc::clone(&reopen), Arc::clone(&metrics));
        std::thread::Builder::new()
            .name("weir-access-log".to_owned())
            .spawn(move || write_batches(&batches, &mut sink, &asked, &counted))?;
        Ok(Arc::new(Self { config, queue, reopen, metrics }))
    }

    /// Opens the file again before the next write, for rotation.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
    }

    /// Waits until everything handed over so far is written, but not longer than `limit`.
    pub fn flush(&self, limit: Duration) {
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(Batch { lines: 0, bytes: Vec::new(), done: Some(done) }).is_ok() {
            let _ = wait.recv_timeout(limit);
        }
    }
}

fn write_batches(batches: &Receiver<Batch>, sink: &mut Sink, reopen: &AtomicBool, metrics: &Metrics) {
    let mut failing = false;
    loop {
        let batch = match batches.recv_timeout(Duration::from_secs(3600)) {
            Ok(batch) => batch,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if reopen.swap(false, Ordering::AcqRel)
            && let Err(error) = sink.reopen()
        {
            tracing::error!(%error, "the access log cannot be opened again; writing goes on to the old file");
        }
        match sink.write_all(&batch.bytes) {
            Ok(()) => {
                failing = false;
                metrics.access_log_written.fetch_add(batch.lines, Ordering::Relaxed);
            }
            Err(error) => {
                metrics.access_log_dropped.fetch_add(batch.lines, Ordering::Relaxed);
                // Once for a full disk, not once a batch.
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "the access log cannot be written; lines are dropped until it can");
                }
            }
        }
        if let Some(done) = batch.done {
            let _ = done.try_send(());
        }
    }
}

enum Sink {
    Stdout(std::io::Stdout),
    Stderr(std::io::Stderr),
    File(std::path::PathBuf, File),
}

impl Sink {
    fn open(to: &LogSink) -> std::io::Result<Self> {
        Ok(match to {
            LogSink::Stdout => Self::Stdout(std::io::stdout()),
            LogSink::Stderr => Self::Stderr(std::io::stderr()),
            LogSink::File(path) => Self::File(path.clone(), append(path)?),
        })
    }

    fn reopen(&mut self) -> std::io::Result<()> {
        if let Self::File(path, file) = self {
            *file = append(path)?;
        }
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Stdout(out) => out.write_all(bytes).and_then(|()| out.flush()),
            Self::Stderr(out) => out.write_all(bytes),
            Self::File(_, file) => file.write_all(bytes),
        }
    }
}

fn append(path: &std::path::Path) -> std::io::Result<File> {
    // Opening a pipe for writing waits for a reader, perhaps for ever; with both ends it does not.
    if std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
        return OpenOptions::new().read(true).write(true).open(path);
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// A worker's side of the access log.
pub struct LogHandle {
    writer: Arc<LogWriter>,
    buffer: RefCell<Vec<u8>>,
    lines: Cell<u64>,
    flush_due: Cell<bool>,
    closed: Cell<bool>,
    /// Whether the format needs the request's headers.
    pub wants_request_headers: bool,
    /// Whether the format needs the response's headers.
    pub wants_response_headers: bool,
    itself: std::rc::Weak<LogHandle>,
}

impl LogHandle {
    /// A worker's handle. Needs a runtime that can spawn local tasks.
    pub fn new(writer: Arc<LogWriter>) -> Rc<Self> {
        let pieces = match &writer.config.format {
            Format::Json => &[][..],
            Format::Text(pieces) => pieces,
        };
        let wants_request_headers = pieces.iter().any(|piece| matches!(piece, Piece::Request(_)));
        let wants_response_headers = pieces.iter().any(|piece| matches!(piece, Piece::Response(_)));
        Rc::new_cyclic(|itself| Self {
            writer,
            buffer: RefCell::new(Vec::new()),
            lines: Cell::new(0),
            flush_due: Cell::new(false),
            closed: Cell::new(false),
            wants_request_headers,
            wants_response_headers,
            itself: itself.clone(),
        })
    }

    /// The log this handle writes to.
    pub fn writer(&self) -> &Arc<LogWriter> {
        &self.writer
    }

    /// Writes the line of a finished request.
    pub fn write(&self, entry: &LogEntry, numbers: &Finished) {
        let mut buffer = self.buffer.borrow_mut();
        line::write(&mut buffer, &self.writer.config.format, entry, numbers);
        self.lines.set(self.lines.get() + 1);
        let full = buffer.len() >= BATCH || self.closed.get();
        drop(buffer);
        if full {
            self.hand_over();
        } else if !self.flush_due.replace(true)
            && let Some(handle) = self.itself.upgrade()
        {
            tokio::task::spawn_local(async move {
                tokio::time::sleep(LINGER).await;
                handle.flush_due.set(false);
                handle.hand_over();
            });
        }
    }

    /// Hands everything over and, from now on, every line at once: the worker is about to end, and no later moment
    /// will come to flush.
    pub fn close(&self) {
        self.flush_due.set(true);
        self.closed.set(true);
        self.hand_over();
    }

    fn hand_over(&self) {
        let lines = self.lines.replace(0);
        let bytes = std::mem::take(&mut *self.buffer.borrow_mut());
        if bytes.is_empty() {
            return;
        }
        match self.writer.queue.try_send(Batch { lines, bytes, done: None }) {
            Ok(()) => {}
            Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => {
                self.writer.metrics.access_log_dropped.fetch_add(batch.lines, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for LogHandle {
    fn drop(&mut self) {
        self.hand_over();
    }
}
