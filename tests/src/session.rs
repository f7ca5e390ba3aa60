//! A program that is spoken to while it runs, and everything it has printed.

use std::fmt::Write;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::{Result, until};

/// The program. It ends with the value.
pub struct Session {
    stdin: ChildStdin,
    printed: Arc<Mutex<String>>,
    child: Child,
}

impl Session {
    /// Starts it.
    ///
    /// # Errors
    /// It does not start.
    pub fn open(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let printed = Arc::<Mutex<String>>::default();
        tokio::spawn(keep(child.stdout.take().ok_or("no stdout")?, Arc::clone(&printed)));
        tokio::spawn(keep(child.stderr.take().ok_or("no stderr")?, Arc::clone(&printed)));
        Ok(Self { stdin: child.stdin.take().ok_or("no stdin")?, printed, child })
    }

    /// Writes a line.
    ///
    /// # Errors
    /// The program has ended.
    pub async fn say(&mut self, line: &str) -> Result {
        Ok(self.stdin.write_all(format!("{line}\n").as_bytes()).await?)
    }

    /// Whether the program has printed this.
    pub fn has_printed(&self, text: &str) -> bool {
        self.printed.lock().expect("what was printed").contains(text)
    }

    /// Waits until the program has printed this.
    ///
    /// # Errors
    /// It does not, and what it has printed instead.
    pub async fn prints(&self, text: &str) -> Result {
        let printed = until(text, async || self.has_printed(text)).await;
        printed.map_err(|error| format!("{error}; but: {}", self.printed.lock().expect("what was printed")).into())
    }

    /// The process.
    ///
    /// # Errors
    /// It has ended.
    pub fn pid(&self) -> Result<i32> {
        Ok(i32::try_from(self.child.id().ok_or("the program has ended")?)?)
    }
}

/// Keeps what is printed, to its end.
async fn keep(stream: impl tokio::io::AsyncRead + Unpin, printed: Arc<Mutex<String>>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let _ = writeln!(printed.lock().expect("what was printed"), "{line}");
    }
}
