//! PostgreSQL and psql through an opaque TCP listener.

use std::fmt::Write;

use weir_tests::clients::{psql, sql};
use weir_tests::peers::Peer;
use weir_tests::service::Service;
use weir_tests::session::Session;
use weir_tests::{Result, Trial, Weir, holds, same, test_with, until};

use super::tcp::to;

pub(super) fn trials() -> Vec<Trial> {
    let needs = [Peer::Program("initdb"), Peer::Program("postgres"), Peer::Program("psql")];
    vec![
        test_with("control::postgres::tables_and_copies", &needs, tables_and_copies),
        test_with("control::postgres::notifications_and_cancelling", &needs, notifications_and_cancelling),
    ]
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

async fn notifications_and_cancelling() -> Result {
    let postgres = Service::postgres().await?;
    let weir = Weir::start(&to(&[postgres.address])).await?;
    let db = weir.address("db");
    sql(db, "CREATE TABLE stock (what text)", "").await??;
    let mut session = Session::open(psql(db))?;
    session.say("LISTEN shop; BEGIN; INSERT INTO stock VALUES ('tea'); SELECT 'it has begun';").await?;
    session.prints("it has begun").await?;
    // Listening is in the transaction's hands as well, and both are in the connection's.
    weir.reload(&to(&[postgres.address]).replace("] }", "], connect_timeout: 700ms }")).await?;
    same!(sql(db, "SELECT count(*) FROM stock", "").await??, "0\n");
    session.say("COMMIT; SELECT 'it has ended';").await?;
    session.prints("it has ended").await?;
    same!(sql(db, "SELECT count(*) FROM stock", "").await??, "1\n");

    sql(db, "NOTIFY shop, 'tea is here'", "").await??;
    // PostgreSQL tells at once; psql prints what it was told when it has run the next statement.
    let told = "Asynchronous notification \"shop\" with payload \"tea is here\" received";
    let mut asked = 0;
    while !session.has_printed(told) {
        asked += 1;
        holds!(asked < 1000, "PostgreSQL has told nobody");
        session.say(&format!("SELECT 'asked {asked} times';")).await?;
        session.prints(&format!("asked {asked} times")).await?;
    }

    // Cancelling is a second connection, with a key and no answer but its end.
    session.say("SELECT pg_sleep(100);").await?;
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(100)%' AND wait_event = 'PgSleep'";
    until("it sleeps", async || matches!(sql(postgres.address, asleep, "").await, Ok(Ok(count)) if count == "1\n")).await?;
    // SAFETY: kill has no memory effects; the pid is of a child that has not been waited for.
    same!(unsafe { libc::kill(session.pid()?, libc::SIGINT) }, 0);
    session.prints("canceling statement due to user request").await
}
