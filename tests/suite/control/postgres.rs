//! PostgreSQL and psql through an opaque TCP listener.

use std::fmt::Write;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use weir_tests::peers::{self, Peer};
use weir_tests::service::Service;
use weir_tests::{Result, Trial, Weir, holds, same, test_with, until};

use super::tcp::to;

pub(super) fn trials() -> Vec<Trial> {
    let needs = [Peer::Program("initdb"), Peer::Program("postgres"), Peer::Program("psql")];
    vec![
        test_with("control::postgres::tables_and_copies", &needs, tables_and_copies),
        test_with("control::postgres::notifications_and_cancelling", &needs, notifications_and_cancelling),
    ]
}

/// psql for the server at this address, which prints nothing but rows. It ends with the value.
fn psql(server: SocketAddr) -> Command {
    let mut command = Command::new(peers::program("psql").unwrap_or_default());
    command.args(["-h", &server.ip().to_string(), "-p", &server.port().to_string(), "-U", "postgres", "-d", "postgres"]);
    command.args(["-X", "-q", "-A", "-t"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// What one statement prints, with this on psql's standard input; or what psql says is wrong.
async fn sql(server: SocketAddr, statement: &str, input: &str) -> Result<Result<String, String>> {
    let mut child = psql(server).args(["-c", statement]).spawn()?;
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    // psql may end before it has read everything.
    let feed = async move { drop(stdin.write_all(input.as_bytes()).await) };
    let ((), done) = tokio::join!(feed, child.wait_with_output());
    let done = done?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(if done.status.success() { Ok(said(&done.stdout)) } else { Err(said(&done.stderr)) })
}

async fn tables_and_copies() -> Result {
    let postgres = Service::postgres().await?;
    let weir = Weir::start(&to(&[postgres.address])).await?;
    let db = weir.address("db");
    sql(db, "CREATE TABLE orders (id int PRIMARY KEY, what text NOT NULL)", "").await??;
    let mut rows = String::new();
    for id in 0..100_000 {
        writeln!(rows, "{id}\tan order of {} things", id * 7)?;
    }
    sql(db, "COPY orders FROM STDIN", &rows).await??;
    same!(sql(db, "SELECT count(*), sum(id) FROM orders", "").await??, "100000|4999950000\n");
    let back = sql(db, "COPY (SELECT * FROM orders ORDER BY id) TO STDOUT", "").await??;
    holds!(back == rows, "{} bytes came back, and not those of {}", back.len(), rows.len());
    // The server refuses the first row while all the others are on their way.
    let refused = sql(db, "COPY orders FROM STDIN", &format!("no number\tat all\n{rows}")).await?;
    holds!(refused.as_ref().is_err_and(|error| error.contains("invalid input syntax for type integer")), "{refused:?}");
    let large = sql(db, "SELECT repeat('weir', 4 << 20)", "").await??;
    same!(large.len(), (16 << 20) + 1);
    weir.counted("weir_downstream_connections_active", "db", 0.0).await
}

/// A psql that is spoken to, and everything it has printed.
struct Session {
    stdin: ChildStdin,
    printed: Arc<Mutex<String>>,
    child: Child,
}

impl Session {
    fn open(server: SocketAddr) -> Result<Self> {
        let mut child = psql(server).spawn()?;
        let printed = Arc::<Mutex<String>>::default();
        tokio::spawn(keep(child.stdout.take().ok_or("no stdout")?, Arc::clone(&printed)));
        tokio::spawn(keep(child.stderr.take().ok_or("no stderr")?, Arc::clone(&printed)));
        Ok(Self { stdin: child.stdin.take().ok_or("no stdin")?, printed, child })
    }

    async fn say(&mut self, statements: &str) -> Result {
        Ok(self.stdin.write_all(format!("{statements}\n").as_bytes()).await?)
    }

    fn has_printed(&self, text: &str) -> bool {
        self.printed.lock().expect("what was printed").contains(text)
    }
}

/// Keeps what is printed, to its end.
async fn keep(stream: impl tokio::io::AsyncRead + Unpin, printed: Arc<Mutex<String>>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let _ = writeln!(printed.lock().expect("what was printed"), "{line}");
    }
}

async fn notifications_and_cancelling() -> Result {
    let postgres = Service::postgres().await?;
    let weir = Weir::start(&to(&[postgres.address])).await?;
    let db = weir.address("db");
    sql(db, "CREATE TABLE stock (what text)", "").await??;
    let mut session = Session::open(db)?;
    session.say("LISTEN shop; BEGIN; INSERT INTO stock VALUES ('tea'); SELECT 'it has begun';").await?;
    until("the transaction is open", async || session.has_printed("it has begun")).await?;
    // Listening is in the transaction's hands as well, and both are in the connection's.
    weir.reload(&to(&[postgres.address]).replace("] }", "], connect_timeout: 700ms }")).await?;
    same!(sql(db, "SELECT count(*) FROM stock", "").await??, "0\n");
    session.say("COMMIT; SELECT 'it has ended';").await?;
    until("the transaction has ended", async || session.has_printed("it has ended")).await?;
    same!(sql(db, "SELECT count(*) FROM stock", "").await??, "1\n");

    sql(db, "NOTIFY shop, 'tea is here'", "").await??;
    // PostgreSQL tells at once; psql prints what it was told when it has run the next statement.
    let told = "Asynchronous notification \"shop\" with payload \"tea is here\" received";
    let mut asked = 0;
    while !session.has_printed(told) {
        asked += 1;
        holds!(asked < 1000, "PostgreSQL has told nobody");
        session.say(&format!("SELECT 'asked {asked} times';")).await?;
        until("it answers", async || session.has_printed(&format!("asked {asked} times"))).await?;
    }

    // Cancelling is a second connection, with a key and no answer but its end.
    session.say("SELECT pg_sleep(100);").await?;
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(100)%' AND wait_event = 'PgSleep'";
    until("it sleeps", async || matches!(sql(postgres.address, asleep, "").await, Ok(Ok(count)) if count == "1\n")).await?;
    let pid = i32::try_from(session.child.id().ok_or("psql has ended")?)?;
    // SAFETY: kill has no memory effects; the pid is of a child that has not been waited for.
    same!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    until("it is cancelled", async || session.has_printed("canceling statement due to user request")).await
}
