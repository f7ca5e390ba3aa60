//! Real brokers and databases behind two sidecars, as opaque bytes: in mutual TLS, and in the clear where that is allowed.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use weir_tests::clients::{ask_redis, psql, redis, run, sql};
use weir_tests::mesh::{Authority, Files, Says};
use weir_tests::peers::Peer;
use weir_tests::raw::Connection;
use weir_tests::service::Service;
use weir_tests::session::Session;
use weir_tests::{Result, Trial, Weir, holds, same, test_alone_with, test_with, until};

use super::{CART, PAY, inbound, member, outbound_tcp};

pub fn trials() -> Vec<Trial> {
    let nats = [Peer::Program("nats-server")];
    let redis = [Peer::Program("redis-server"), Peer::Program("redis-cli")];
    let postgres = [Peer::Program("initdb"), Peer::Program("postgres"), Peer::Program("psql")];
    let mut trials = vec![
        test_with("mesh::brokers::a_server_that_speaks_first_hears_no_stranger", &nats, strangers),
        test_with("mesh::brokers::who_is_refused_learns_it_by_a_reset", &nats, resets),
    ];
    trials.extend([
        test_with("mesh::brokers::nats_strict", &nats, || through_nats("strict")),
        test_with("mesh::brokers::redis_strict", &redis, || through_redis("strict")),
        test_with("mesh::brokers::postgres_strict", &postgres, || through_postgres("strict")),
        // A permissive listener takes 200 ms of silence for plaintext, so long may a busy machine keep a sidecar from its TLS.
        test_alone_with("mesh::brokers::redis_with_tls_of_its_own", &redis, tls_of_its_own),
        test_alone_with("mesh::brokers::nats_permissive", &nats, || through_nats("permissive")),
        test_alone_with("mesh::brokers::redis_permissive", &redis, || through_redis("permissive")),
        test_alone_with("mesh::brokers::postgres_permissive", &postgres, || through_postgres("permissive")),
    ]);
    trials
}

/// A sidecar behind a client and one in front of a server, with opaque bytes between them.
struct Sidecars {
    caller: Weir,
    callee: Weir,
    mode: &'static str,
    _dir: tempfile::TempDir,
}

impl Sidecars {
    async fn start(server: &Service, mode: &'static str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let authority = Authority::new("shop.example")?;
        let (cart, pay) =
            (member(&authority, &dir.path().join("cart"), CART)?, member(&authority, &dir.path().join("pay"), PAY)?);
        let callee = Weir::start(&inbound(&pay, server.address, &format!("protocol: tcp, tls: {mode}"))).await?;
        let tls = format!("tls: {{ mesh: {{ peers: ['{PAY}'] }} }}");
        let caller = Weir::start(&outbound_tcp(&cart, callee.address("in"), &tls)).await?;
        Ok(Self { caller, callee, mode, _dir: dir })
    }

    /// The addresses that lead to the server, and what the callee counts of them.
    fn ways(&self) -> Vec<(&'static str, SocketAddr)> {
        let mut ways = vec![("mtls", self.caller.address("out"))];
        if self.mode == "permissive" {
            // Without a sidecar of one's own.
            ways.push(("plain", self.callee.address("in")));
        }
        ways
    }

    /// Checks that all connections of a way were of its kind, that all of them end, and that none was refused.
    async fn check(&self, way: &str, before: f64) -> Result {
        holds!(self.count(way).await? > before, "{way}");
        for (weir, listener) in [(&self.caller, "out"), (&self.callee, "in")] {
            weir.counted("weir_downstream_connections_active", listener, 0.0).await?;
        }
        same!(self.callee.metric("weir_downstream_tls_refused_total", "").await?, 0.0);
        same!(self.callee.metric("weir_downstream_tls_total", "\"tls\"").await?, 0.0);
        Ok(())
    }

    async fn count(&self, way: &str) -> Result<f64> {
        self.callee.metric("weir_downstream_tls_total", &format!("\"{way}\"")).await
    }
}

/// A client of NATS.
struct Nats(Connection);

impl Nats {
    /// Connects. The server speaks first.
    async fn open(server: SocketAddr) -> Result<Self> {
        let mut nats = Self(Connection::open(server).await?);
        let info = nats.line().await?;
        holds!(info.starts_with("INFO {") && info.contains("\"max_payload\":1048576"), "{info}");
        nats.say("CONNECT {\"verbose\":false}").await?;
        nats.settled().await?;
        Ok(nats)
    }

    async fn say(&mut self, line: &str) -> Result {
        self.0.send(format!("{line}\r\n")).await
    }

    async fn line(&mut self) -> Result<String> {
        tokio::time::timeout(Duration::from_secs(10), self.0.line()).await.map_err(|_| "NATS says nothing")?
    }

    /// Waits until the server has taken what was said.
    async fn settled(&mut self) -> Result {
        self.say("PING").await?;
        same!(self.line().await?, "PONG\r\n");
        Ok(())
    }

    async fn publish(&mut self, subject: &str, payload: &[u8]) -> Result {
        self.say(&format!("PUB {subject} {}", payload.len())).await?;
        self.0.send([payload, b"\r\n"].concat()).await
    }

    /// The next message: its head and its payload.
    async fn message(&mut self) -> Result<(String, Vec<u8>)> {
        let head = self.line().await?;
        let length: usize =
            head.trim_end().rsplit(' ').next().unwrap_or("").parse().map_err(|_| format!("no message: {head}"))?;
        let mut payload = tokio::time::timeout(Duration::from_secs(10), self.0.exactly(length + 2)).await??;
        same!(payload.split_off(length), b"\r\n");
        Ok((head.trim_end().to_owned(), payload))
    }
}

/// A connection that breaks says in which way, and where.
fn at<T>(way: &str, step: &str, done: Result<T>) -> Result<T> {
    done.map_err(|error| format!("{way}, {step}: {error}").into())
}

async fn through_nats(mode: &'static str) -> Result {
    let server = Service::nats().await?;
    let sidecars = Sidecars::start(&server, mode).await?;
    for (way, address) in sidecars.ways() {
        let before = sidecars.count(way).await?;
        let (shop, stock) = (Nats::open(address).await, Nats::open(address).await);
        let (mut shop, mut stock) = (at(way, "greeting", shop)?, at(way, "greeting", stock)?);
        stock.say("SUB orders.* 7").await?;
        stock.settled().await?;
        // A request and its answer.
        shop.say("SUB answers 1").await?;
        shop.say("PUB orders.new answers 3\r\ntea").await?;
        same!(stock.message().await?, ("MSG orders.new 7 answers 3".to_owned(), b"tea".to_vec()), "{way}");
        stock.publish("answers", b"done").await?;
        same!(shop.message().await?, ("MSG answers 1 4".to_owned(), b"done".to_vec()), "{way}");
        // As large as may be, and many, all on their way before the first is read.
        let large: Vec<u8> = (0..1_u32 << 20).map(|place| (place % 251) as u8).collect();
        let sent = async {
            shop.publish("orders.large", &large).await?;
            for number in 0..10_000 {
                shop.publish("orders.small", format!("order {number}").as_bytes()).await?;
            }
            shop.settled().await
        };
        let received = async {
            holds!(stock.message().await? == ("MSG orders.large 7 1048576".to_owned(), large.clone()), "{way}");
            for number in 0..10_000 {
                same!(stock.message().await?.1, format!("order {number}").into_bytes(), "{way}");
            }
            Ok(())
        };
        at(way, "many", tokio::try_join!(sent, received))?;
        // What is refused is said, and then the server hangs up.
        shop.say("PUB orders.new 1048577").await?;
        same!(shop.line().await?, "-ERR 'Maximum Payload Violation'\r\n", "{way}");
        let rest = tokio::time::timeout(Duration::from_secs(10), shop.0.rest()).await?;
        same!(at(way, "end", rest)?, b"", "{way}");
        drop((shop, stock));
        sidecars.check(way, before).await?;
        same!(sidecars.count(way).await?, before + 2.0);
    }
    Ok(())
}

/// A strict port does not even greet who comes in the clear.
async fn strangers() -> Result {
    let server = Service::nats().await?;
    let sidecars = Sidecars::start(&server, "strict").await?;
    let mut stranger = Connection::open(sidecars.callee.address("in")).await?;
    stranger.send("CONNECT {\"verbose\":false}\r\nPING\r\n").await?;
    let heard = tokio::time::timeout(Duration::from_secs(10), stranger.rest()).await?.unwrap_or_default();
    holds!(!String::from_utf8_lossy(&heard).contains("INFO"), "{heard:?}");
    sidecars.callee.counted("weir_downstream_tls_refused_total", "\"plaintext\"", 1.0).await?;
    // Members are served all the same.
    Nats::open(sidecars.caller.address("out")).await?.settled().await?;
    same!(sidecars.callee.metric("weir_tcp_failed_total", "").await?, 0.0);
    Ok(())
}

/// A broker that is somebody else, and one that takes the caller for somebody else.
async fn resets() -> Result {
    let (server, dir) = (Service::nats().await?, tempfile::tempdir()?);
    let (authority, stranger) = (Authority::new("shop.example")?, Authority::new("shop.example")?);
    let (cart, pay) = (member(&authority, &dir.path().join("cart"), CART)?, member(&authority, &dir.path().join("pay"), PAY)?);
    let strange = Files::write(&dir.path().join("strange"), &stranger.issue(&Says::id(CART))?, authority.root())?;
    let callee = Weir::start(&inbound(&pay, server.address, "protocol: tcp, tls: strict")).await?;
    for (files, peers, why) in [(&cart, CART, "refused_by_peer"), (&strange, PAY, "unknown_issuer")] {
        let tls = format!("tls: {{ mesh: {{ peers: ['{peers}'] }} }}");
        let caller = Weir::start(&outbound_tcp(files, callee.address("in"), &tls)).await?;
        let mut client = Connection::open(caller.address("out")).await?;
        let heard = tokio::time::timeout(Duration::from_secs(10), client.rest()).await?;
        holds!(heard.is_err(), "{why}: {heard:?}");
        callee.counted("weir_downstream_tls_refused_total", &format!("\"{why}\""), 1.0).await?;
    }
    same!(callee.metric("weir_downstream_tls_total", "mtls").await?, 0.0);
    Ok(())
}

/// TLS that is not the mesh's is the server's own matter, on a permissive port.
async fn tls_of_its_own() -> Result {
    let dir = tempfile::tempdir()?;
    let own = Authority::new("redis.example")?;
    let files = Files::write(dir.path(), &own.issue(&Says::id("spiffe://redis.example/server"))?, own.root())?;
    let server = Service::redis_with_tls(&files).await?;
    let sidecars = Sidecars::start(&server, "permissive").await?;
    let [cert, key, ca] = ["tls.crt", "tls.key", "ca.crt"].map(|name| files.dir.join(name).display().to_string());
    let tls = ["--tls", "--cert", &cert, "--key", &key, "--cacert", &ca];
    // In the mesh's TLS once more, and without it.
    for (counted, db) in [("mtls", sidecars.caller.address("out")), ("tls", sidecars.callee.address("in"))] {
        same!(ask_redis(db, &[&tls[..], &["set", "greeting", counted]].concat()).await?, "OK");
        same!(ask_redis(db, &[&tls[..], &["get", "greeting"]].concat()).await?, counted);
        same!((counted, sidecars.count(counted).await?), (counted, 2.0));
    }
    same!(sidecars.count("plain").await?, 0.0);
    Ok(())
}

async fn through_redis(mode: &'static str) -> Result {
    let server = Service::redis().await?;
    let sidecars = Sidecars::start(&server, mode).await?;
    for (way, db) in sidecars.ways() {
        let before = sidecars.count(way).await?;
        same!(ask_redis(db, &["flushall"]).await?, "OK");
        same!(ask_redis(db, &["set", "greeting", "hello"]).await?, "OK");
        same!(ask_redis(db, &["get", "greeting"]).await?, "hello");
        let large: Vec<u8> = (0..16_u32 << 20).map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        same!(run(redis("redis-cli", db), &["-x", "set", "large"], &large).await?, b"OK\n");
        let mut back = run(redis("redis-cli", db), &["get", "large"], b"").await?;
        same!(back.pop(), Some(b'\n'), "redis-cli ends the line");
        holds!(back == large, "{way}: {} bytes came back, and not those of {}", back.len(), large.len());
        let commands: String = (0..50_000).map(|number| format!("SET key:{number} value-{number}\r\n")).collect();
        let said = String::from_utf8(run(redis("redis-cli", db), &["--pipe"], commands.as_bytes()).await?)?;
        holds!(said.contains("errors: 0, replies: 50000"), "{way}: {said}");
        same!(ask_redis(server.address, &["get", "key:49999"]).await?, "value-49999");
        // Who waits for news says nothing for long.
        let mut subscriber = redis("redis-cli", db).args(["subscribe", "news"]).spawn()?;
        let mut lines = BufReader::new(subscriber.stdout.take().ok_or("no stdout")?).lines();
        for wanted in ["subscribe", "news", "1"] {
            same!(lines.next_line().await?.as_deref(), Some(wanted), "{way}");
        }
        same!(ask_redis(db, &["publish", "news", "it rains"]).await?, "1");
        for wanted in ["message", "news", "it rains"] {
            same!(lines.next_line().await?.as_deref(), Some(wanted), "{way}");
        }
        subscriber.kill().await?;
        sidecars.check(way, before).await?;
    }
    Ok(())
}

async fn through_postgres(mode: &'static str) -> Result {
    let server = Service::postgres().await?;
    let sidecars = Sidecars::start(&server, mode).await?;
    for (way, db) in sidecars.ways() {
        let before = sidecars.count(way).await?;
        sql(db, "DROP TABLE IF EXISTS orders", "").await??;
        sql(db, "CREATE TABLE orders (id int PRIMARY KEY, what text NOT NULL)", "").await??;
        let mut rows = String::new();
        for id in 0..100_000 {
            writeln!(rows, "{id}\tan order of {} things", id * 7)?;
        }
        sql(db, "COPY orders FROM STDIN", &rows).await??;
        same!(sql(db, "SELECT count(*), sum(id) FROM orders", "").await??, "100000|4999950000\n", "{way}");
        let back = sql(db, "COPY (SELECT * FROM orders ORDER BY id) TO STDOUT", "").await??;
        holds!(back == rows, "{way}: {} bytes came back, and not those of {}", back.len(), rows.len());
        let refused = sql(db, "SELECT no_such_column FROM orders", "").await?;
        holds!(refused.as_ref().is_err_and(|error| error.contains("column \"no_such_column\" does not exist")), "{refused:?}");
        // Cancelling is a connection of its own.
        let mut session = Session::open(psql(db))?;
        session.say("SELECT pg_sleep(100);").await?;
        let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        until("it sleeps", async || matches!(sql(server.address, asleep, "").await, Ok(Ok(count)) if count == "1\n")).await?;
        // SAFETY: kill has no memory effects; the pid is of a child that has not been waited for.
        same!(unsafe { libc::kill(session.pid()?, libc::SIGINT) }, 0);
        session.prints("canceling statement due to user request").await?;
        drop(session);
        sidecars.check(way, before).await?;
    }
    Ok(())
}
